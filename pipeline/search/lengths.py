"""Lengths of trainings in optimizer steps: epochs of small data are too short to decide anything.

On 700 pictures an epoch of batches of 128 has six steps. Values after so few are near chance, and do not rank
configurations as their ends do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.models.base import BaseFamily
from pipeline.models.space import largest

if TYPE_CHECKING:
    from pipeline.search.settings import Budget

_FIRST_STEPS = 90  # of a first rung, at least (chosen)
_WHOLE_STEPS = 400  # of a whole trial, at least, where params name no budget for the dataset (chosen)
_WHOLE_TRIALS = 5  # whole trials' worth of epochs in a lengthened budget, at most (chosen)
_DEFAULT_BATCH = 64  # for families without the dimension


def steps_per_epoch(family: BaseFamily, images: int) -> int:
    """Return the number of optimizer steps of an epoch, with the largest batches of the search space.

    Args:
        family: The family with its search space.
        images: Number of training images.
    """
    batch = family.dimensions.get("batch_size")
    size = _DEFAULT_BATCH if batch is None else largest(batch)
    return max(1, math.ceil(images / size))


def first_rung(steps: int) -> int:
    """Return the epochs of a first rung, for some steps per epoch."""
    return math.ceil(_FIRST_STEPS / steps)


def lengthened(budget: Budget, steps: int) -> Budget:
    """Return a budget whose trials have enough steps. Its epochs grow as well, up to a bound.

    Args:
        budget: A budget that was not made for the dataset.
        steps: Optimizer steps of an epoch.
    """
    whole = math.ceil(_WHOLE_STEPS / steps)
    if whole <= budget.trial_epochs:
        return budget
    epochs = min(math.ceil(budget.epochs * whole / budget.trial_epochs), max(budget.epochs, _WHOLE_TRIALS * whole))
    return budget.model_copy(update={"trial_epochs": whole, "epochs": epochs})
