"""How a stage or command starts and ends: one error line, exit codes, and no life after its parent's.

DVC runs a stage as a child process. If DVC is killed with SIGKILL, the stage would continue to write outputs that a new
`dvc repro` has already deleted. So a stage watches the process that started it.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.core import credentials, stage_lock, streams, termination, typed_paths
from pipeline.core.errors import PipelineError

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
COMMAND = "PIPELINE_COMMAND"  # environment variable of a stage: pid and start time of the command above DVC
_WATCH_INTERVAL_S = 0.5
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE})
_TEMPORARY = {  # by Python's texts: the second has no number
    "No usable temporary directory": "no temporary directory can be written to; next: set TMPDIR to one that can",
    "AF_UNIX path too long": "the temporary directory's path is too long for a socket; next: set TMPDIR to a short one",
}
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})  # DVC starts a command through one


def run(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and exit: with 0 or its own code, or with 1 and one line on a `PipelineError`.

    SIGINT ends it with 130, and SIGTERM with 143.
    """
    streams.open_closed()
    _print_anything()
    credentials.move_to_environment()
    typed_paths.resolve()
    with termination.signals_raise():
        code = _exit_code(main)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _exit_code(main: Callable[[], int | None]) -> int:
    """Run ``main``, print what ended it in one line, and return the exit code."""
    try:
        return main() or 0
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
    except termination.Terminated:
        print("terminated: finished work is kept; run the same command again to continue", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("interrupted: finished work is kept; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pipeline … | head`: the reader has gone, nobody reads a message
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (message := _of_this_machine(error)) is None:
            raise
        print(f"error: {message}", file=sys.stderr)
    return FAILED


def _print_anything() -> None:
    """Let standard output replace characters that its encoding lacks: the C locale has no ``×``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _of_this_machine(error: BaseException) -> str | None:
    """Return one line if an error is about this machine's disks and permissions, not about the code."""
    if (where := _no_space(error)) is not None:
        return f"no space left{where}; nothing half written is kept; next: make room and run it again"
    if not isinstance(error, OSError):
        return None
    if error.errno in _REFUSED:
        return f"{error.filename or 'a file'}: {error.strerror}; next: let this user read and write there"
    return next((message for text, message in _TEMPORARY.items() if text in str(error)), None)


def _no_space(error: BaseException | None) -> str | None:
    """Return `` for <file>`` if an error, or a cause of it, is lack of space; databases report it in words only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f" for {error.filename}" if error.filename else ""
        if "database or disk is full" in str(error):
            return " for a database"
        error = error.__cause__ or error.__context__
    return None


def stage(main: Callable[[], None]) -> None:
    """Run a DVC stage's ``main``; see `run`.

    The stage ends within a second of whoever started it. It fails if its inputs are not at its end what they were at
    its start; see `stage_inputs`.
    """
    from pipeline.core import stage_inputs  # loads pydantic, which `pipeline --help` does without

    def checked() -> None:
        require_own_code()
        end_with_parent()
        with stage_lock.shared(Path.cwd()):
            inputs = stage_inputs.take(sys.argv)
            main()
            if inputs is not None:
                inputs.require_unchanged()

    run(checked)


def require_own_code() -> None:
    """Refuse to run code other than the files beside dvc.yaml, which are the ones that DVC has hashed.

    Raises:
        PipelineError: Another copy of this package was found first.
    """
    found, hashed = Path(__file__).resolve().parents[1], (Path.cwd() / "pipeline").resolve()
    if Path("dvc.yaml").exists() and found != hashed:
        raise PipelineError(
            "the code that runs is not the code that DVC hashed",
            expected=hashed,
            found=found,
            next_step="unset PYTHONSAFEPATH and PYTHONPATH, and run `dvc repro` in the project's root",
        )


def end_with_parent() -> None:
    """Start a thread that ends this process when what started it is killed (its workers follow by themselves).

    Watched are DVC, the shells between, and a `pipeline` command above. Nothing is watched when a person runs the stage
    by hand: `nohup python -m pipeline.stages.search …` outlives its shell.

    Raises:
        PipelineError: The command above has ended already.
    """
    watched = _command_above()
    for ancestor in psutil.Process().parents():
        if ancestor.name() not in _SHELLS and not _is_command(ancestor, "pipeline" if _ends_in_dvc(watched) else "dvc"):
            break
        watched.append(ancestor)
    while watched and watched[-1].name() in _SHELLS:
        watched.pop()
    if watched:
        threading.Thread(target=_watch, args=(watched,), daemon=True, name="end-with-parent").start()


def command_identity() -> str:
    """Return this process's pid and start time, for the variable `COMMAND` of the stages below it."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def _command_above() -> list[psutil.Process]:
    """Return the command that has set the variable `COMMAND`; none if it is not set.

    Raises:
        PipelineError: That command has ended.
    """
    if not (identity := os.environ.get(COMMAND)):
        return []
    pid, _, started = identity.partition(" ")
    try:
        command = psutil.Process(int(pid))
        if abs(command.create_time() - float(started)) < 1.0 and _alive(command):
            return [command]
    except (psutil.Error, ValueError):
        pass
    raise PipelineError(
        "the command that started this stage has ended",
        expected=f"process {pid}, as in {COMMAND}",
        found="no such process",
        done="the stage did not begin",
        next_step="run the command again",
    )


def _ends_in_dvc(ancestors: list[psutil.Process]) -> bool:
    return any(_is_command(ancestor, "dvc") for ancestor in ancestors)


def _is_command(process: psutil.Process, name: str) -> bool:
    """Return whether a process is a Python command of some name: ``bin/dvc repro`` or ``python -m dvc repro``."""
    try:
        return any(Path(word).name.partition(".")[0] == name for word in process.cmdline()[:4])
    except psutil.Error:
        return False


def _watch(ancestors: list[psutil.Process]) -> None:
    while all(_alive(ancestor) for ancestor in ancestors):
        time.sleep(_WATCH_INTERVAL_S)
    os._exit(FAILED)


def _alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; a zombie does not, and a reused pid is another process."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
