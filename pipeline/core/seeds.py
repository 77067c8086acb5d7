"""Seeds of any size: libraries take 32 bits."""

from __future__ import annotations

import hashlib

_BITS = 32


def fold(seed: int) -> int:
    """Return a seed of 32 bits: a smaller seed as it is, a larger one hashed.

    numpy's legacy generators, Optuna's samplers and Keras take no larger seed. A date such as 20261125155200 is one.
    """
    if 0 <= seed < 1 << _BITS:
        return seed
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[: _BITS // 8], "big")
