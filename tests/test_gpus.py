"""CUDA_VISIBLE_DEVICES is read as CUDA reads it, and the number of workers is printed with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.backend import configure, cores, gpus
from pipeline.cli import doctor

TWO = "0, GPU-aaaa-1\n1, GPU-bbbb-2"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 4 cores without a GPU, which is this folder."""
    monkeypatch.setattr(gpus, "_DEV", tmp_path)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None)
    monkeypatch.setattr(cores, "usable", lambda: cores.Cores(4, "4 cores"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an nvidia-smi."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpus.shutil, "which", lambda name: str(tool))


@pytest.mark.parametrize("chosen", ["NoDevFiles", "none", "void", "0", "-1", "", "0,1", "GPU-aaaa-1", "MIG-x", "²"])
@pytest.mark.parametrize("script", [None, "exit 9", "echo 'no devices were found'; exit 6"])
def test_without_a_gpu_there_is_a_worker_per_core_whatever_is_visible(
    chosen: str, script: str | None, machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if script:
        driver(machine, script, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert configure.worker_environments(0) == [{}] * 4
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"4 workers: one per core; CUDA_VISIBLE_DEVICES={chosen}, which ")
    assert line.endswith("; 4 cores")


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        (None, ("0", "1")),
        ("1", ("1",)),
        (" 1 ,0", ("1", "0")),
        ("0,9,1", ("0",)),
        ("0,-1,1", ("0",)),
        ("GPU-bb", ("GPU-bb",)),
        ("GPU-cc", ()),
        ("MIG-1,MIG-2", ("MIG-1", "MIG-2")),
        ("NoDevFiles", ()),
        ("none", ()),
        ("void", ()),
        ("2", ()),
        ("", ()),
    ],
)
def test_with_two_gpus_those_that_are_named_are_used(
    chosen: str | None, visible: tuple[str, ...], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(machine, f"echo '{TWO}'", monkeypatch)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.visible().gpus == visible
    expected = [{"CUDA_VISIBLE_DEVICES": name} for name in visible] or [{}] * 4
    assert configure.workers(0).environments == expected


def test_gpus_of_a_container_without_nvidia_smi_are_found(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (machine / name).touch()
    assert gpus.visible() == gpus.Visible(("0", "1"), "2 GPUs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert str(configure.workers(0)) == "1 worker: one per GPU, for CUDA_VISIBLE_DEVICES=1 and 2 GPUs"
    assert str(configure.workers(3)) == "3 workers: runtime.workers=3"


@pytest.mark.parametrize("chosen", ["NoDevFiles", "none", "void", "0"])
def test_doctor_finds_a_setting_that_names_no_gpu(chosen: str, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    [check] = doctor._gpus()
    assert check.status == "warn"
    assert check.found == f"none, and CUDA_VISIBLE_DEVICES={chosen}: training runs on the CPU"
    driver(machine, f"echo '{TWO.replace('0,', '7,')}'", monkeypatch)
    [check] = doctor._gpus()
    assert check.status == "warn"
    assert check.found.endswith(f"hidden by CUDA_VISIBLE_DEVICES={chosen}, which names none, and 2 GPUs")
    assert check.advice == "unset CUDA_VISIBLE_DEVICES to use them"
    del os.environ["CUDA_VISIBLE_DEVICES"]
    assert gpus.visible().gpus == ("7", "1")
    [check] = doctor._gpus()
    assert "hidden" not in check.found
