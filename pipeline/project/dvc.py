"""How DVC is called: in which environment, and what happens to it on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.tracking.provenance import code_tags

_GRACE_S = 30.0  # what an interrupted DVC may take to wait for its stage


def project_root() -> Path:
    """Return the folder that this package runs from.

    Raises:
        PipelineError: It is not a checkout of the project: the package was installed without its graph.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "dvc.yaml").exists():
        raise PipelineError(
            "this installation has no graph", expected=f"dvc.yaml in {root}", found="none", next_step="use a checkout"
        )
    return root


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which DVC runs the stages of a folder.

    `python3` in a stage's command is this Python, and finds the folder's own code first. A relative MIRROR, or source
    of a download, is relative to where the command was typed, not to the folder.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PIPELINE_TYPED_IN"] = str(Path.cwd())
    mirror = env.get("MIRROR")
    if mirror and "://" not in mirror and not mirror.startswith("file:"):
        env["MIRROR"] = str(Path(mirror).resolve())
    if folder.resolve() != project_root():
        env["PIPELINE_GIT_COMMIT"] = code_tags()["git.commit"]
    return env


def reproduce(folder: Path, *, targets: Iterable[str] = (), quiet: bool = False) -> int:
    """Run ``dvc repro`` in a folder and return its exit code; what it prints goes to standard error if `quiet`.

    Ctrl-C reaches DVC and its stage by themselves: they are given time to end well.
    """
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    out = sys.stderr if quiet else None
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=out)
    try:
        return process.wait()
    except KeyboardInterrupt:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        finally:
            signal.signal(signal.SIGINT, previous)
        raise
