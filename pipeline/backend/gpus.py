"""The NVIDIA GPUs of this machine, as its driver lists them."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

VARIABLE = "CUDA_VISIBLE_DEVICES"
_DEV = Path("/dev")
_ANSWER_S = 20.0  # a driver that wakes up takes some seconds


@dataclass(frozen=True)
class Listing:
    """What the driver lists.

    Attributes:
        driver: Whether there is a driver.
        gpus: One line per GPU, with the values that were requested.
        problem: Why nothing is listed, where a driver is; empty if all is well.
    """

    driver: bool = False
    gpus: list[str] = field(default_factory=list)
    problem: str = ""


def listed(*values: str) -> Listing:
    """Return some values of each GPU, such as ``name`` and ``memory.total``."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Listing()
    command = [tool, f"--query-gpu={','.join(values)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Listing(True, problem=str(error))
    if done.returncode != 0 or not done.stdout.strip():
        return Listing(True, problem=done.stdout.strip() or "no GPU")
    return Listing(True, done.stdout.strip().splitlines())


@dataclass(frozen=True)
class Visible:
    """The GPUs that this process may use.

    Attributes:
        gpus: Their indices or ids, in the form of CUDA_VISIBLE_DEVICES.
        reason: What decides that.
    """

    gpus: tuple[str, ...]
    reason: str


def visible() -> Visible:
    """Return the GPUs that this process may use, as CUDA decides it.

    CUDA reads CUDA_VISIBLE_DEVICES up to the first entry that names no GPU of this machine: schedulers write
    ``NoDevFiles`` or ``none`` into it, container runtimes ``void``.
    """
    listing = listed("index", "uuid")
    there = [_Gpu(index.strip(), uuid.strip()) for index, _, uuid in (line.partition(",") for line in listing.gpus)]
    if not there and not listing.problem:
        there = [_Gpu(str(index), "") for index in range(_devices())]  # a container without nvidia-smi
    machine = "1 GPU" if len(there) == 1 else f"{len(there)} GPUs" if there else "no GPU"
    if listing.problem:
        machine = f"no GPU (nvidia-smi: {listing.problem})"
    chosen = os.environ.get(VARIABLE)
    if chosen is None:
        return Visible(tuple(gpu.index for gpu in there), machine)
    entries = [entry.strip() for entry in chosen.split(",")]
    named = tuple(itertools.takewhile(lambda entry: any(gpu.is_named(entry) for gpu in there), entries))
    hidden = "" if named else ", which hides all," if chosen.strip() in ("", "-1") else ", which names none,"
    return Visible(named, f"{VARIABLE}={chosen}{hidden} and {machine}")


@dataclass(frozen=True)
class _Gpu:
    index: str
    uuid: str  # empty if it is not known

    def is_named(self, entry: str) -> bool:
        """Return whether an entry of CUDA_VISIBLE_DEVICES names this GPU: an index, the start of an id, or its part."""
        if entry.isdecimal():
            return str(int(entry)) == self.index
        if entry.startswith("MIG-"):
            return True  # a part of some GPU: the driver lists whole ones
        return entry.startswith("GPU-") and (not self.uuid or self.uuid.startswith(entry))


def _devices() -> int:
    """Return the number of GPUs by their device files."""
    return sum(1 for path in _DEV.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit())
