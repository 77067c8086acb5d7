"""How many cores this process may use: by its affinity, and by the CPU quota of its container (cgroup v1 and v2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PROC = Path("/proc/self")
_CONTROLLER = "cpu"
Reader = Callable[[Path], float | None]


@dataclass(frozen=True)
class Cores:
    """What this process may use.

    Attributes:
        usable: Whole cores, at least one.
        reason: What limits them.
        quota: The CPU quota in cores, where it is the limit.
    """

    usable: int
    reason: str
    quota: float | None = None


def usable(proc: Path = _PROC) -> Cores:
    """Return how many whole cores this process may use, and why not more.

    Args:
        proc: The process's folder of /proc.
    """
    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    quota, version = min(_quotas(proc), default=(float("inf"), ""))
    if quota < allowed:
        return Cores(max(1, int(quota)), f"a CPU quota of {quota:.3g} cores (cgroup {version})", quota)
    if allowed < machine:
        return Cores(allowed, f"{allowed} of {machine} cores are assigned to this process")
    return Cores(machine, f"{machine} cores")


def _quotas(proc: Path) -> Iterator[tuple[float, str]]:
    """Yield the CPU quotas of this process's groups and those above, in cores, each with the version of cgroups."""
    groups = dict(_groups(proc))
    for line in _lines(proc / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" and "v2" in groups:
            yield from ((quota, "v2") for quota in _along(fields[3], fields[4], groups["v2"], _v2))
        elif kind[0] == "cgroup" and "v1" in groups and _CONTROLLER in kind[2].split(","):
            yield from ((quota, "v1") for quota in _along(fields[3], fields[4], groups["v1"], _v1))


def _groups(proc: Path) -> Iterator[tuple[str, str]]:
    """Yield the path of this process's control group for each version: of lines such as ``4:cpu,cpuacct:/a/b``."""
    for line in _lines(proc / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "v2", path
        elif _CONTROLLER in controllers.split(","):
            yield "v1", path


def _along(root: str, mounted: str, group: str, read: Reader) -> Iterator[float]:
    """Yield the quotas from a group up to the folder at which the groups are mounted.

    A container sees its own group as the root of the mount, whatever its path on the host is.
    """
    top = Path(_unescaped(mounted))
    inside = PurePosixPath(group)
    relative = inside.relative_to(root) if inside.is_relative_to(root) else PurePosixPath()
    folder = top / str(relative).lstrip("/")
    for each in (folder, *folder.parents):
        if (quota := read(each)) is not None:
            yield quota
        if each == top:
            break


def _v2(folder: Path) -> float | None:
    """Return the quota of ``cpu.max``: ``150000 100000``, or ``max 100000`` for none."""
    quota, _, period = (_lines(folder / "cpu.max") or [""])[0].partition(" ")
    return _ratio(quota, period)


def _v1(folder: Path) -> float | None:
    """Return the quota of two files: -1 for none."""
    quota, period = (_lines(folder / f"cpu.cfs_{name}_us") or [""] for name in ("quota", "period"))
    return _ratio(quota[0], period[0])


def _ratio(quota: str, period: str) -> float | None:
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux, or no permission
        return []


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, which writes spaces and the like as octal numbers."""
    for code in ("040", "011", "012", "134"):
        path = path.replace(f"\\{code}", chr(int(code, 8)))
    return path
