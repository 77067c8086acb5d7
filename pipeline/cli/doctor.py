"""Check what this machine has and lacks for the pipeline, without heavy imports: within a second.

Only where a tracking server is named, MLflow is imported (3 s), which decides whether that server can be used.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

HELP = "what this machine has, and what to install"
Status = Literal["ok", "warn", "missing"]

_PYTHONS = ((3, 11), (3, 13))
_LIBRARIES = ("dvc", "mlflow", "optuna", "great-expectations", "keras", "numpy", "pandas", "scikit-learn")
_BACKENDS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax",),
    "torch": ("torch",),
}
_INSTALL = {
    "tensorflow": "make install",
    "jax": 'make install SET="cpu jax"',
    "torch": "install the build of torch 2.13 that fits this machine into .venv, see PyTorch's own guide",
}
_MEMORY_GB = 4  # chosen: two workers with TensorFlow take 1.5 GB, the MLflow server 0.5 GB
_DISK_GB = 5  # chosen: MNIST raw, prepared and in DVC's cache takes 0.3 GB, models and runs come on top


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was looked at.
        status: ``missing`` only for what the pipeline cannot run without.
        found: What is there.
        advice: What to do about it; empty when all is well.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def checks() -> list[Check]:
    """Look at everything once; no check raises because of what it finds."""
    looks: list[Callable[[], list[Check]]] = [
        _python,
        _libraries,
        _backend,
        _gpus,
        _machine,
        _code,
        _project,
        _site_cache,
        _tracking,
        _remote,
    ]
    return [check for look in looks for check in look()]


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(arguments: argparse.Namespace) -> int:
    """Print all checks, and return 1 when something is missing that the pipeline cannot run without."""
    found = checks()
    if arguments.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    else:
        _print(found)
    return int(any(check.status == "missing" for check in found))


def _print(found: list[Check]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": Text("ok", "green"), "warn": Text("warn", "yellow"), "missing": Text("missing", "bold red")}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "found", "to do"):
        table.add_column(column, overflow="fold")
    for check in found:
        table.add_row(marks[check.status], check.name, Text(check.found), Text(check.advice))
    Console().print(table)


def _python() -> list[Check]:
    found = f"{platform.python_version()} in {sys.prefix}"
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        return [Check("Python", "ok", found)]
    return [Check("Python", "missing", found, "make clean-venv install PYTHON=python3.12")]


def _version(package: str) -> str | None:
    """Return the installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _libraries() -> list[Check]:
    versions = {name: _version(name) for name in _LIBRARIES}
    return [
        Check(name, "ok", version) if version else Check(name, "missing", "not installed", "make install")
        for name, version in versions.items()
    ]


def _backend() -> list[Check]:
    """Check the Keras backend that is configured, then those that could be."""
    installed = {
        backend: f"{package} {version}"
        for backend, packages in _BACKENDS.items()
        for package in reversed(packages)
        if (version := _version(package))
    }
    others = [f"{backend}: {_INSTALL[backend]}" for backend in _BACKENDS if backend not in installed]
    here = Check("backends installed", "ok", ", ".join(installed.values()) or "none", "; ".join(others))
    return [_configured(installed), here, *_clash()]


def _configured(installed: dict[str, str]) -> Check:
    from pipeline.backend.configure import other_backend
    from pipeline.core import params
    from pipeline.core.errors import ParamsError

    try:
        configured = str(params.section("runtime.backend"))
    except ParamsError as error:
        return Check("Keras backend", "warn", str(error), "run from the project's root")
    if wanted := other_backend(configured):
        found = f"runtime.backend={configured} in params.yaml, KERAS_BACKEND={wanted} in the environment"
        return Check("Keras backend", "missing", found, f"unset KERAS_BACKEND, or set runtime.backend to {wanted}")
    if configured not in installed:
        advice = _INSTALL.get(configured, f"set runtime.backend to one of {', '.join(_BACKENDS)}")
        return Check("Keras backend", "missing", f"{configured}, not installed", advice)
    return Check("Keras backend", "ok", configured)


def _clash() -> list[Check]:
    """Check that two builds of TensorFlow do not overwrite each other's files."""
    if _version("tensorflow") and _version("tensorflow-cpu"):
        advice = "make clean-venv, then make install or make install SET=gpu"
        return [Check("TensorFlow", "warn", "tensorflow and tensorflow-cpu own the same files", advice)]
    return []


def _gpus() -> list[Check]:
    from pipeline.backend import gpus

    listing = gpus.listed("name", "memory.total")
    if not listing.driver:
        chosen = os.environ.get(gpus.VARIABLE, "")
        if not gpus.visible().gpus and chosen not in ("", "-1"):
            found = f"none, and {gpus.VARIABLE}={chosen}: training runs on the CPU"
            return [Check("GPU", "warn", found, f"unset {gpus.VARIABLE}, or go to the machine that it is meant for")]
        return [Check("GPU", "ok", "none: training runs on the CPU")]
    if listing.problem:
        return [Check("GPU", "warn", f"nvidia-smi: {listing.problem}", "check the driver")]
    found = "; ".join(listing.gpus)
    visible = gpus.visible()
    if not visible.gpus and gpus.VARIABLE in os.environ:
        return [Check("GPU", "warn", f"{found}; hidden by {visible.reason}", f"unset {gpus.VARIABLE} to use them")]
    usable = _version("nvidia-cudnn-cu12") or _version("jax-cuda12-plugin") or _version("torch")
    return [Check("GPU", "ok", found) if usable else Check("GPU", "warn", found, "make install SET=gpu")]


def _machine() -> list[Check]:
    from pipeline.backend import cores

    limit = cores.usable()
    advice = "" if limit.quota is None else "raise the CPU limit of the container for more workers"
    memory, disk = psutil.virtual_memory().available / 1e9, shutil.disk_usage(Path.cwd()).free / 1e9
    return [
        Check("cores", "ok", f"{limit.usable} of {os.cpu_count()} usable: {limit.reason}", advice),
        _enough("memory", memory, _MEMORY_GB, "set runtime.workers to 1"),
        _enough("disk", disk, _DISK_GB, "free some, or `dvc gc --workspace`"),
    ]


def _enough(name: str, free_gb: float, wanted_gb: float, advice: str) -> Check:
    found = f"{free_gb:.1f} GB free"
    if free_gb >= wanted_gb:
        return Check(name, "ok", found)
    return Check(name, "warn", found, f"{wanted_gb} GB are wanted: {advice}")


def _code() -> list[Check]:
    """Check that the code that runs is that of this folder, and that runs can name its commit."""
    from pipeline.project import own_code
    from pipeline.tracking import provenance

    here, project = provenance.this_project(), own_code.foreign_project(Path())
    found = []
    if project is not None:
        try:
            own_code.require(Path(), start_again=False)
        except own_code.ForeignCodeError as error:
            advice = str(error).partition("next: ")[2]
            found.append(Check("code", "missing", f"that of {here}, in {project}", advice))
        else:
            found.append(_copy(project, here))
    version = provenance.code_version(project or here)
    if version.known:
        return [*found, Check("commit", "ok", version.commit)]
    advice = "runs record the digest of the code instead; to name a commit, install git and clone the project"
    return [*found, Check("commit", "warn", f"none: {version.reason}", advice)]


def _copy(workspace: Path, here: Path) -> Check:
    """Compare a workspace's copy of the code with the checkout that this command comes from."""
    from pipeline.tracking import provenance

    if provenance.code_digest(workspace) == provenance.code_digest(here):
        return Check("code", "ok", f"a copy of that of {here}")
    advice = f"to replace it, in {here}: pipeline run --workspace {shlex.quote(str(workspace))}"
    return Check("code", "warn", f"the workspace's own, which differs from that of {here}", advice)


def _project() -> list[Check]:
    """Check what commands check at their start, here and for the workspaces below: runs of earlier releases in them."""
    from pipeline.core.addresses import redacted
    from pipeline.project import machine, own_code

    found = list(machine.faults(Path()))
    for marker in (*Path().glob(f"*/{own_code.MARKER}"), *Path().glob(f"runs/*/{own_code.MARKER}")):
        found += machine.moved_stores(marker.parent.resolve())
    texts = [(fault.name, redacted(f"{fault.what}: {fault.found}"), redacted(fault.next_step)) for fault in found]
    checks = [Check(name, "missing", text, advice) for name, text, advice in texts]
    return checks or [Check("folders", "ok", "sockets, artifacts and DVC work here")]


def _site_cache() -> list[Check]:
    """Check DVC's folder for hashes, which lies below /var: a plain `dvc repro` fails where it is read-only."""
    from pipeline.project import dvc

    place = dvc.default_site_cache(Path())
    if place is None or dvc.can_write(place / "repo"):
        return []
    line = f"dvc config --local core.site_cache_dir {shlex.quote(str(Path.cwd() / dvc.SITE_CACHE))}"
    return [Check("DVC's hashes", "warn", f"{place} cannot be written: `dvc repro` by itself fails", line)]


def _tracking() -> list[Check]:
    """Check that runs and models have a place to go, and that a server, if one is named, can be used."""
    from pipeline.tracking import server

    examined = server.examine(_datasets(), write=False)
    shown = server.shown_uri()
    if examined.fault:
        advice = examined.fault.next_step
        if examined.fault.away:
            advice = "start the server, or unset MLFLOW_TRACKING_URI to keep runs in the project's folder"
        return [Check("tracking", "missing", f"{shown}: {examined.fault.found}", advice)]
    if examined.outdated:
        found = f"{shown}: a database of an older MLflow (revision {examined.outdated})"
        return [Check("tracking", "warn", found, "the next run copies and upgrades it; end what uses it before")]
    place = " in the project's folder (make ui)" if shown == server.DEFAULT_URI else ""
    return [Check("tracking", "ok", f"{shown}{place}")]


def _datasets() -> list[str]:
    """Return the datasets of params.yaml, which are the names of experiments; none where they cannot be read."""
    from pipeline.core import params
    from pipeline.core.errors import ParamsError

    try:
        found = params.section("datasets")
    except ParamsError:
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _remote() -> list[Check]:
    """Check that DVC has somewhere to share data and results; needed by more than one machine, not by one."""
    advice = "to share results: dvc remote add --default NAME URL"
    try:
        names = _remote_names()
    except Exception as error:  # noqa: BLE001 (DVC's errors have no public base; a broken config is a finding)
        return [Check("DVC remote", "warn", f"{type(error).__name__}: .dvc/config cannot be read", "repair it")]
    return [Check("DVC remote", "ok", ", ".join(names)) if names else Check("DVC remote", "ok", "none", advice)]


def _remote_names() -> list[str]:
    from dvc.config import Config

    return sorted(Config(".dvc" if Path(".dvc").is_dir() else None)["remote"])
