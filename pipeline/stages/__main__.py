"""Runs a stage by its name, as dvc.yaml does: ``python3 -m pipeline.stages download --dataset digits …``.

DVC starts a command with the `python3` of the PATH, which need not be the Python that the project's packages are
installed in. Where they are missing, the command starts again with the project's own Python. So this module, and what
it imports before a stage, needs nothing but the standard library.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import NoReturn

from pipeline.core import streams
from pipeline.core.errors import PipelineError, nearest

# A Python that has these has been set up for the project: a package of each layer, found without importing any.
_NEEDED = ("psutil", "pydantic", "ruamel", "numpy", "pandas", "great_expectations", "optuna", "keras", "mlflow")
_PYTHON = Path(".venv", "bin", "python")


def main() -> None:
    """Run the stage that the first argument names, with the arguments after it."""
    streams.open_closed()
    try:
        stage = _stage(sys.argv[1:])
        missing = next((name for name in _NEEDED if importlib.util.find_spec(name) is None), None)
        if missing is not None:
            _start_again(missing)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    from pipeline.core import process

    del sys.argv[0]
    process.stage(lambda: importlib.import_module(f"pipeline.stages.{stage}").main())  # imported as it is hashed


def _stage(arguments: list[str]) -> str:
    """Return the name of the stage to run."""
    known = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__", "__main__"}
    if not arguments or arguments[0] not in known:
        found = repr(arguments[0]) if arguments else "nothing"
        expected = nearest(arguments[0] if arguments else "", known)
        raise PipelineError("python3 -m pipeline.stages <stage>: unknown stage", expected=expected, found=found)
    return arguments[0]


def _start_again(missing: str) -> NoReturn:
    """Replace this process by the same command under the project's Python: of this folder, or of one above it.

    Raises:
        PipelineError: There is none, it cannot be started, or it is the one that lacks the package.
    """
    here = Path.cwd()
    own = next((folder / _PYTHON for folder in (here, *here.parents) if (folder / _PYTHON).exists()), None)
    reason = f"no {_PYTHON} in {here} or above"
    if own is not None:
        reason = f"nor has {own}"
        if own.parents[1].resolve() != Path(sys.prefix).resolve():
            try:
                os.execv(own, [str(own), "-m", "pipeline.stages", *sys.argv[1:]])
            except OSError as error:
                reason = f"{own} cannot be started: {error.strerror}"
    raise PipelineError(
        f"{sys.executable} does not have the packages of this project",
        expected="the Python that `make install` sets up",
        found=f"no {missing}, and {reason}",
        next_step="`make install`, or activate the environment that has them",
    )


if __name__ == "__main__":
    main()
