"""Standard streams that job runners start a command without: ``pipeline retrain >&-``.

A closed descriptor is given to the next file that is opened, and what is printed would go there.
"""

from __future__ import annotations

import os
import sys


def open_closed() -> None:
    """Open the null device for each closed standard stream. Call it before any file is opened."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)  # for the processes that this one starts
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))
