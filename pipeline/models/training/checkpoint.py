"""The whole state of a training: every model variable and the optimizer's.

A `.keras` file leaves out the state of seed generators, so training resumed from one would draw other dropout masks
than training that never stopped. This module saves everything that training changes, as plain arrays.

The last saved model is kept in memory, too: resuming its training in the same process then needs no new build, trace
and compilation, which take a small model as long as an epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import DataError

if TYPE_CHECKING:
    import keras

_File = tuple[int, int, int, int]
_saved: list[tuple[_File, keras.Model]] = []  # the last model saved and its file; nobody has trained it since


def begin(build: Callable[[], keras.Model], state: Path | None, seed: int) -> keras.Model:
    """Return a compiled model to train: as it was when `state` was saved, or new.

    Args:
        build: Makes it new.
        state: File that `save` wrote; None for a new training.
        seed: Of a new model's weights.

    Raises:
        DataError: See `restore`.
    """
    import keras

    live = [model for file, model in _saved if state is not None and file == _file(state)]
    _saved.clear()  # it is about to change, or to make room for another
    if live:
        return live[0]
    keras.utils.clear_session(
        free_memory=False
    )  # a worker builds many models: memory of earlier models must not accumulate
    keras.utils.set_random_seed(seed)
    model = build()
    model.optimizer.build(model.trainable_variables)  # else the first step does, and a second time is traced for it
    if state is not None:
        restore(model, state)
    return model


def save(model: keras.Model, path: Path) -> None:
    """Write the state of a compiled model to an ``.npz`` file."""
    arrays = {name: np.asarray(variable) for name, variable in _variables(model).items()}
    np.savez(path, allow_pickle=False, **arrays)
    if (file := _file(path)) is not None:
        _saved[:] = [(file, model)]


def _file(path: Path) -> _File | None:
    """Return an identity of a file that does not depend on its path; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def restore(model: keras.Model, path: Path) -> None:
    """Set a newly built and compiled model, whose optimizer is built, too, to a saved state.

    Raises:
        DataError: The file is damaged, or is the state of another model.
    """
    variables = _variables(model)
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is no checkpoint", expected="an .npz of variables", found=str(error)) from None
    expected = {name: tuple(variable.shape) for name, variable in variables.items()}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found:
        different = min(set(expected.items()) ^ set(found.items()))
        raise DataError(f"{path} is another model's checkpoint", expected=f"{len(expected)} variables", found=different)
    for name, variable in variables.items():
        variable.assign(arrays[name])


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return variables by place: names are not unique, and differ between two models built in one process."""
    owned = {"model": model.variables, "optimizer": model.optimizer.variables}
    return {f"{owner}-{place:04d}": v for owner, variables in owned.items() for place, v in enumerate(variables)}
