"""The whole state of a training: every model variable and the optimizer's.

A `.keras` file leaves out the state of seed generators, so training resumed from one would draw other dropout masks
than training that never stopped. Here everything that training changes is kept, as plain arrays.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import DataError

if TYPE_CHECKING:
    import keras


def save(model: keras.Model, path: Path) -> None:
    """Write the state of a compiled model to an ``.npz`` file."""
    arrays = {name: np.asarray(variable) for name, variable in _variables(model).items()}
    np.savez(path, allow_pickle=False, **arrays)


def restore(model: keras.Model, path: Path) -> None:
    """Set a newly built and compiled model to a saved state.

    Raises:
        DataError: The file is damaged, or is the state of another model.
    """
    model.optimizer.build(model.trainable_variables)
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
