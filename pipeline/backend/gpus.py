"""The NVIDIA GPUs of this machine, as its driver lists them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field

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


def visible() -> list[str]:
    """Return the indices or ids of the GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    return listed("index").gpus
