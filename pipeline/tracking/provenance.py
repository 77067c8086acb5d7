"""Which code and which data a run used, as tags.

A checkout asks git. A workspace is a copy outside git: it has a record of the commit that it was copied from, and of a
digest of the copied code. Where git cannot name a commit, its reason and the digest are recorded.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.files import write_json

RECORD = Path(".pipeline-code.json")  # in a workspace
GRAPH = Path("dvc.yaml")
PACKAGE = Path("pipeline")
_NONE = "none"
_DIRTY = "-dirty"
_CODE = frozenset({".py", ".css", ".html", ".j2", ".js"})  # an untracked backup of an editor is no code
_GIT_S = 10.0
_REASON = 200  # characters
# Variables by which a caller, such as a hook of another repository, points git elsewhere.
_ELSEWHERE = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_COMMON_DIR",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
    }
)


class _GitError(Exception):
    """Git cannot name the commit; the text is its reason."""


@dataclass(frozen=True)
class CodeVersion:
    """The code of a project or workspace.

    Attributes:
        commit: The git commit, with ``-dirty`` if the code is not exactly that of the commit; ``none`` if unknown.
        digest: SHA-256 of the package and the graph.
        reason: Why the commit is unknown.
    """

    commit: str
    digest: str
    reason: str = ""

    @property
    def known(self) -> bool:
        """Whether the commit is known."""
        return self.commit != _NONE


def code_tags() -> dict[str, str]:
    """Return tags that identify the code of this process: commit and digest, and the reason if there is no commit."""
    version = _of_this_process()
    tags = {"git.commit": version.commit, "code.digest": version.digest}
    return tags if version.known else {**tags, "git.reason": version.reason}


@functools.cache
def _of_this_process() -> CodeVersion:
    return code_version(this_project())


def this_project() -> Path:
    """Return the folder that holds the package that runs."""
    return Path(__file__).resolve().parents[2]


def code_version(root: Path) -> CodeVersion:
    """Return which code a project or workspace has now."""
    digest = code_digest(root)
    if (root / RECORD).exists():
        return _recorded(root / RECORD, digest)
    try:
        return CodeVersion(_commit(root), digest)
    except _GitError as error:
        return CodeVersion(_NONE, digest, str(error))


def record(version: CodeVersion, folder: Path) -> None:
    """Record in a workspace which code was copied into it."""
    write_json(folder / RECORD, asdict(version))


def code_files(root: Path) -> set[Path]:
    """Return the files of the package, relative to a project, without caches and hidden files."""
    files = {path.relative_to(root) for path in (root / PACKAGE).rglob("*") if path.is_file()}
    return {path for path in files if not any(part.startswith((".", "__pycache__")) for part in path.parts)}


def code_digest(root: Path) -> str:
    """Return the SHA-256 of the package and the graph of a project or workspace: of names and content."""
    whole = hashlib.sha256()
    for path in sorted({*code_files(root), GRAPH}):
        if (root / path).exists():
            whole.update(f"{path.as_posix()}\0{hashlib.sha256((root / path).read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _recorded(file: Path, digest: str) -> CodeVersion:
    """Return what a workspace has recorded; its commit is dirty if the code was edited since."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        recorded = CodeVersion(str(content["commit"]), str(content["digest"]), str(content.get("reason", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return CodeVersion(_NONE, digest, f"{file} cannot be read")
    edited = recorded.known and recorded.digest != digest and not recorded.commit.endswith(_DIRTY)
    return CodeVersion(recorded.commit + _DIRTY * edited, digest, recorded.reason)


def _commit(root: Path) -> str:
    """Return the commit of a checkout, ``-dirty`` if tracked files differ from it or code is not tracked.

    Raises:
        _GitError: There is none, or it is not this project's: another repository may lie around an unpacked archive.
    """
    tracked = {Path(name) for name in _git(root, "ls-files", "-z", "--", str(GRAPH), str(PACKAGE)).split("\0")}
    if GRAPH not in tracked:
        raise _GitError(f"git does not track {GRAPH} in {root}")
    commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".")
    untracked = {path for path in code_files(root) if path.suffix in _CODE} - tracked
    return commit + _DIRTY * bool(changed or untracked)


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints for a folder, whatever repository the caller works in.

    Raises:
        _GitError: There is no git, it does not answer in time, or it refuses.
    """
    env = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command,
            env={**env, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=_GIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _GitError(f"git did not answer in {_GIT_S:.0f} s") from None
    except OSError as error:
        raise _GitError(f"git cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["there is no commit yet"]
        raise _GitError(lines[0].removeprefix("fatal: ")[:_REASON])
    return done.stdout


def dvc_hash(path: Path) -> str:
    """Return the hash under which DVC knows an output, ``none`` where it knows none."""
    try:
        lock = YAML(typ="safe").load(Path("dvc.lock"))
    except (OSError, YAMLError):
        return _NONE
    for stage in (lock or {}).get("stages", {}).values():
        for output in stage.get("outs", []):
            if Path(output["path"]) == path:
                return str(output.get("md5", _NONE))
    return _NONE
