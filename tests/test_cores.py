"""Workers of a container are as many as its CPU quota allows, whichever version of cgroups sets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.backend import cores
from pipeline.cli import doctor

V1 = "8:cpu,cpuacct:{}\n3:memory:/elsewhere\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The /proc of a process on a machine of 8 cores, without control groups."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores.usable, "__defaults__", (tmp_path,))
    return tmp_path


def mount(proc: Path, kind: str, root: str = "/", name: str = "cg") -> Path:
    """Mount control groups, and return the folder where they appear."""
    folder = proc / name
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    options = "rw,cpu,cpuacct" if kind == "cgroup" else "rw"
    with (proc / "mountinfo").open("a") as file:
        file.write("22 1 0:20 / /proc rw - proc proc rw\n")
        file.write(f"30 22 0:26 {root} {escaped} rw,nosuid shared:9 - {kind} {kind} {options}\n")
    return folder


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def v1(quota: int, period: int = 100_000) -> dict[str, str]:
    return {"cpu__cfs_quota_us": str(quota), "cpu__cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("quota", "count", "shown"),
    [("250000 100000", 2, "2.5"), ("50000 100000", 1, "0.5"), ("300000 50000", 6, "6"), ("max 100000", 8, "")],
)
def test_the_quota_of_a_container_of_version_2(quota: str, count: int, shown: str, proc: Path) -> None:
    (proc / "cgroup").write_text("0::/\n")
    group(mount(proc, "cgroup2", name="c g"), cpu__max=quota)
    found = cores.usable()
    assert found.usable == count
    assert found.reason == (f"a CPU quota of {shown} cores (cgroup v2)" if shown else "8 cores")


def test_the_quota_of_a_group_above_counts(proc: Path) -> None:
    (proc / "cgroup").write_text("0::/pod/app/worker\n")
    folder = mount(proc, "cgroup2")
    group(folder / "pod", cpu__max="400000 100000")
    group(folder / "pod/app", cpu__max="300000 100000")
    group(folder / "pod/app/worker", cpu__max="max 100000")
    assert cores.usable().usable == 3


@pytest.mark.parametrize(("quota", "count"), [(150_000, 1), (400_000, 4), (-1, 8), (900_000, 8)])
def test_the_quota_of_a_container_of_version_1(quota: int, count: int, proc: Path) -> None:
    (proc / "cgroup").write_text(V1.format("/docker/abc"))
    group(mount(proc, "cgroup", root="/docker/abc"), **v1(quota))
    group(mount(proc, "cgroup2", name="unified"))  # both versions, the newer one without a controller
    assert cores.usable().usable == count


def test_the_quota_of_a_group_of_version_1_on_the_host(proc: Path) -> None:
    (proc / "cgroup").write_text(V1.format("/slurm/job_7/step_0"))
    folder = mount(proc, "cgroup")
    group(folder / "slurm/job_7", **v1(500_000))
    group(folder / "slurm/job_7/step_0", **v1(-1))
    assert cores.usable() == cores.Cores(5, "a CPU quota of 5 cores (cgroup v1)", 5.0)


@pytest.mark.parametrize("content", ["", "x\n", "max\n", "0 0\n", "\xff"])
def test_what_cannot_be_read_is_no_quota(content: str, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cgroup", "mountinfo"):
        (proc / name).write_text(content)
    assert cores.usable() == cores.Cores(8, "8 cores")
    (proc / "cgroup").write_text("0::/\n")
    (mount(proc, "cgroup2") / "cpu.max").write_text(content)
    assert cores.usable().usable == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert cores.usable() == cores.Cores(2, "2 of 8 cores are assigned to this process")


def test_doctor_says_what_the_limit_is(proc: Path) -> None:
    (proc / "cgroup").write_text("0::/\n")
    group(mount(proc, "cgroup2"), cpu__max="150000 100000")
    check = doctor._machine()[0]
    assert check.found == "1 of 8 usable: a CPU quota of 1.5 cores (cgroup v2)"
    assert check.advice == "raise the CPU limit of the container for more workers"
    group(proc / "cg", cpu__max="600000 100000")
    assert doctor._machine()[0].found.startswith("6 of 8 usable")
