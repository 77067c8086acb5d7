"""Calls DVC: in which environment, and how SIGINT and SIGTERM end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.core import process
from pipeline.core.errors import PipelineError
from pipeline.core.termination import Terminated
from pipeline.project import recorded
from pipeline.tracking.provenance import this_project

SITE_CACHE = Path(".dvc/tmp/site-cache")
_SITE_CACHE = "DVC_SITE_CACHE_DIR"
_MOST_ARGUMENTS = 1000
_GRACE_S = 30.0  # what an interrupted stage may take to end
_INTERVAL_S = 0.1


def project_root() -> Path:
    """Return the folder that this package runs from.

    Raises:
        PipelineError: It is not a checkout of the project: the package was installed without its graph.
    """
    root = this_project()
    if not (root / "dvc.yaml").exists():
        raise PipelineError(
            "this installation has no graph", expected=f"dvc.yaml in {root}", found="none", next_step="use a checkout"
        )
    return root


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which DVC runs the stages of a folder.

    `python3` in a stage's command is this Python, and finds the folder's own code first. A relative MIRROR, or source
    of a download, is relative to where the command was typed, not to the folder. DVC keeps its hashes in the folder
    unless another place is set: its default, below /var, may be read-only or another user's.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PIPELINE_TYPED_IN"] = str(Path.cwd())
    env[process.COMMAND] = process.command_identity()
    mirror = env.get("MIRROR")
    if mirror and "://" not in mirror and not mirror.startswith("file:"):
        env["MIRROR"] = str(Path(mirror).resolve())
    if default_site_cache(folder):
        env[_SITE_CACHE] = str(folder.resolve() / SITE_CACHE)
    return env


def default_site_cache(folder: Path) -> Path | None:
    """Return where a plain `dvc` keeps hashes if nobody has set a place; None if one is set."""
    from dvc.config import Config
    from dvc.dirs import site_cache_dir
    from dvc.exceptions import DvcException

    if os.environ.get(_SITE_CACHE):
        return None
    try:
        if (folder / ".dvc").is_dir() and "site_cache_dir" in Config(str(folder / ".dvc"))["core"]:
            return None
    except DvcException:  # a damaged configuration, which DVC reports
        return None
    return Path(site_cache_dir())


def can_write(place: Path) -> bool:
    """Return whether files can be made in a folder, or the folder itself where it is missing."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def reproduce(folder: Path, *, targets: Iterable[str] = (), quiet: bool = False) -> int:
    """Run ``dvc repro`` in a folder and return its exit code; its output goes to standard error if `quiet`.

    Without `targets`, stages whose result was made from something else than DVC has recorded run again first.
    """
    chosen = list(targets)
    if not chosen and (code := run_again_where_recorded_wrongly(folder)) != 0:
        return code
    return _repro(folder, chosen, quiet=quiet)


def run_again_where_recorded_wrongly(folder: Path, prefix: str = "") -> int:
    """Run the stages of `recorded.disagreements` again, and return the first exit code of DVC that is not 0.

    Args:
        folder: The project or workspace.
        prefix: Only stages whose name begins so.
    """
    for found in [each for each in recorded.disagreements(folder) if each.stage.startswith(prefix)]:
        print(f"note: {found.stage} runs again: {found.reason}", file=sys.stderr)
        if (code := _repro(folder, [found.stage], quiet=True)) != 0:  # first what it depends on
            return code
        if found.stage not in {left.stage for left in recorded.disagreements(folder)}:
            continue
        if (code := _repro(folder, ["--force", "--single-item", found.stage], quiet=True)) != 0:
            return code
    return 0


def changed_stages(folder: Path) -> set[str]:
    """Return the stages that ``dvc repro`` would run, by ``dvc status``.

    Raises:
        PipelineError: DVC cannot list them.
    """
    done = _captured(folder, "status", "--json")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise PipelineError("`dvc status` failed", found=lines[0], next_step="run it to see more")
    return set(json.loads(done.stdout))


def _repro(folder: Path, arguments: list[str], *, quiet: bool) -> int:
    """Run ``dvc repro``; on SIGINT or SIGTERM, end DVC and its stage, and wait for both."""
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    out = sys.stderr if quiet else None
    dvc = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=out)
    try:
        return dvc.wait()
    except KeyboardInterrupt as request:
        _end(dvc, signal.SIGTERM if isinstance(request, Terminated) else signal.SIGINT)
        raise


def _end(dvc: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """End DVC and its stage; kill what has not ended in time.

    DVC ignores SIGINT while a stage runs, and SIGTERM ends it at once and leaves its stage behind. So the stage gets
    the signal, whereupon DVC fails by itself. Between two stages DVC gets SIGINT, so that it releases its locks.
    """
    deadline = time.monotonic() + _GRACE_S
    signalled: set[psutil.Process] = set()
    interrupted = False
    while dvc.poll() is None and time.monotonic() < deadline:
        stages = _stages(dvc.pid)
        for stage in stages - signalled:
            with suppress(psutil.Error):
                stage.send_signal(number)
        signalled |= stages
        if not stages and not interrupted:
            dvc.send_signal(signal.SIGINT)
            interrupted = True
        with suppress(subprocess.TimeoutExpired):
            dvc.wait(_INTERVAL_S)
    remaining = _stages(dvc.pid) | signalled if dvc.poll() is None else signalled
    if dvc.poll() is None:
        dvc.kill()
        dvc.wait()
    _, alive = psutil.wait_procs(list(remaining), timeout=max(0.0, deadline - time.monotonic()))
    for stage in alive:
        with suppress(psutil.Error):
            stage.kill()


def _stages(pid: int) -> set[psutil.Process]:
    """Return the stages that a DVC process runs, below the shells that it starts them through."""
    found: set[psutil.Process] = set()
    with suppress(psutil.Error):
        below = psutil.Process(pid).children()
        while below:
            child = below.pop()
            with suppress(psutil.Error):
                if "pipeline.stages" in child.cmdline():
                    found.add(child)
                else:
                    below += child.children()
    return found


def add(folder: Path, paths: Iterable[Path]) -> str | None:
    """Track files with DVC, each by a ``.dvc`` file beside it; return the last line of the error if that fails.

    One process adds many files: its start takes longer (1.4 s) than adding one.
    """
    names = [str(path.relative_to(folder)) for path in paths]
    for start in range(0, len(names), _MOST_ARGUMENTS):
        done = _captured(folder, "add", "--quiet", *names[start : start + _MOST_ARGUMENTS])
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return None


def _captured(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a DVC command in a folder and return its output as text."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
