"""Convolutional networks. Which architecture is one of the dimensions; each has dimensions of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core.errors import ParamsError
from pipeline.models.base import FamilySettings, Preset, Spec
from pipeline.models.families.cnn.presets import PRESETS
from pipeline.models.multiply_adds import Maps
from pipeline.models.space import Choice, Space, Trial, sample
from pipeline.models.training.classifier import KerasClassifier
from pipeline.models.training.recipe import SEARCHED, TRAINING
from pipeline.models.values import Hyperparameters, word

if TYPE_CHECKING:
    import keras

_FOLDER = Path(__file__).parent


class Family(KerasClassifier):
    """A convolutional network of some architecture.

    An architecture is a module of the package `architectures` with ``SPACE`` and ``SEARCHED``, as a family has them,
    ``build(x, hyperparameters, classes)``, which turns images from 0 to 1 into logits, ``least_side(space)``, the
    shorter side of the smallest images for which every point of a space can be built, ``count(image, hyperparameters,
    classes)``, which counts the multiply-adds of what `build` gives, and ``HEAVY``, whether it spends its time in wide
    convolutions. Its dimensions are called after it: ``plain_filters``.
    """

    presets: ClassVar[tuple[Preset, ...]] = PRESETS

    def __init__(self, name: str, settings: FamilySettings, dataset: str | None = None) -> None:
        known = {architecture: _load(architecture) for architecture in architectures()}
        # Two attributes of the class become the instance's: they depend on which modules there are.
        self.space: Space = {  # type: ignore[misc]
            "architecture": Choice(choices=tuple(known)),
            **{f"{a}_{key}": value for a, module in known.items() for key, value in module.SPACE.items()},
            **TRAINING,
        }
        self.searched: Mapping[str, Any] = {  # type: ignore[misc]
            "architecture": ["fast", "plain"],
            **{f"{a}_{key}": value for a, module in known.items() for key, value in module.SEARCHED.items()},
            **SEARCHED,
        }
        super().__init__(name, settings, dataset)

    def require_fit(self, side: int) -> None:
        """Check that every architecture in the space can be built; see `BaseFamily.require_fit`."""
        super().require_fit(side)
        chosen = self.dimensions["architecture"]
        for architecture in architectures():
            if not chosen.holds(architecture):
                continue
            prefix = f"{architecture}_"
            own = {name.removeprefix(prefix): d for name, d in self.dimensions.items() if name.startswith(prefix)}
            least = _load(architecture).least_side(own)
            if side < least:
                raise ParamsError(
                    f"params.yaml: {self.name}: the architecture {architecture} is too deep for the images",
                    expected=f"at least {least} pixels on their shorter side",
                    found=side,
                    next_step=f"narrow its dimensions in {self.name}.space, or choose another architecture there",
                )

    def suggest(self, trial: Trial) -> Hyperparameters:
        """Sample an architecture, then its own dimensions and those of every training."""
        architecture = self.dimensions["architecture"].sample(trial, "architecture")
        others = {f"{other}_" for other in architectures() if other != architecture}
        relevant = {name: d for name, d in self.dimensions.items() if not name.startswith(tuple(others))}
        return sample(trial, relevant)

    def heavy(self, hyperparameters: Hyperparameters) -> bool:
        """Return whether the architecture is marked as heavy."""
        return bool(_load(word(hyperparameters, "architecture")).HEAVY)

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of an image; see `BaseFamily.epoch_cost`."""
        architecture, own = _own(hyperparameters)
        maps: Maps = _load(architecture).count(Maps(*spec.image_shape), own, spec.classes)
        return float(maps.multiply_adds)

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return a convolutional network; see `KerasClassifier.build`."""
        import keras

        architecture, own = _own(hyperparameters)
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        x = keras.layers.Rescaling(1 / 255)(inputs)
        outputs = _load(architecture).build(x, own, spec.classes)
        return keras.Model(inputs, outputs, name=architecture)

    def sources(self) -> list[Path]:
        """Return the family's files, without architectures that neither its search nor its presets use."""
        dimension = self.dimensions["architecture"]
        used = {str(choice) for choice in dimension.choices} if isinstance(dimension, Choice) else set(architectures())
        used |= {str(preset.hyperparameters["architecture"]) for preset in self.presets}
        return [*super().sources(), *(_FOLDER / "architectures" / f"{name}.py" for name in sorted(used))]


def architectures() -> list[str]:
    """Return the names of all architectures."""
    return sorted(path.stem for path in (_FOLDER / "architectures").glob("*.py") if path.stem != "__init__")


def _own(hyperparameters: Hyperparameters) -> tuple[str, Hyperparameters]:
    """Return the architecture of a point, and that architecture's own dimensions."""
    architecture = word(hyperparameters, "architecture")
    prefix = f"{architecture}_"
    return architecture, {
        name.removeprefix(prefix): value for name, value in hyperparameters.items() if name.startswith(prefix)
    }


def _load(architecture: str) -> ModuleType:
    return importlib.import_module(f"pipeline.models.families.cnn.architectures.{architecture}")
