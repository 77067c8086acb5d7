"""Which code and which data a run used, as tags."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


def code_tags() -> dict[str, str]:
    """Return tags that identify the code that ran: the git commit, and whether files differ from it.

    A workspace is a copy outside git; `pipeline run` passes it the commit that it was copied from.
    """
    commit = os.environ.get("PIPELINE_GIT_COMMIT")
    if commit:
        return {"git.commit": commit}
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {"git.commit": "none"}
    return {"git.commit": commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")}


def dvc_hash(path: Path) -> str:
    """Return the hash under which DVC knows an output, ``none`` where it knows none."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock"))
    except (OSError, YAMLError):
        return "none"
    for stage in (lock or {}).get("stages", {}).values():
        for output in stage.get("outs", []):
            if Path(output["path"]) == path:
                return str(output.get("md5", "none"))
    return "none"


def _git(*arguments: str) -> str:
    """Return what git prints; nothing where there is no git or no repository."""
    try:
        answer = subprocess.run(
            ["git", *arguments], capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False
        )
    except OSError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
