"""Transfer: the layers of a registered model, frozen or trained on, below a new classifier.

Params name the model as ``models:/<name>@<alias>``; before anything runs, `pipeline.registry.pretrained` writes
beside it which version that is and the sha256 of its file, so that DVC sees when it changes.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core import params
from pipeline.core.errors import DataError, ParamsError
from pipeline.models.base import FamilySettings, Spec, TrainingError
from pipeline.models.families.transfer.saved_model import below_head
from pipeline.models.space import Choice, Range, Space, Trial
from pipeline.models.training.classifier import ClassifierSettings, KerasClassifier
from pipeline.models.training.recipe import SEARCHED, TRAINING
from pipeline.models.values import DROPOUT, Bounds, Hyperparameters, real, whole, yes

if TYPE_CHECKING:
    import keras


class Pin(params.Settings):
    """Which file `init_from` stands for.

    Attributes:
        init_from: What was resolved: another value of the setting makes the pin void.
        version: Version of the registered model.
        file: The model, relative to the project.
        sha256: Of the file.
    """

    init_from: str
    version: str
    file: str
    sha256: str


class TransferSettings(ClassifierSettings):
    """The family's section of params.

    Attributes:
        init_from: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.
        pin: Written by `pipeline run`, `retrain` and `ingest`.
    """

    init_from: str = ""
    pin: Pin | None = None


class Family(KerasClassifier):
    """The body of another model with a head for the classes of this dataset; the images must have the same shape."""

    Settings: ClassVar[type[FamilySettings]] = TransferSettings
    settings: TransferSettings
    space: ClassVar[Space] = {
        "fine_tune": Choice(choices=(False, True)),  # False: only the head is trained, on features that stay
        "units": Choice(choices=(0, 64, 128, 256), bounds=Bounds(0, 8192)),  # of a dense layer in the head; 0: none
        "dropout": Range(low=0.0, high=0.8, bounds=DROPOUT),
        **TRAINING,
    }
    searched: ClassVar[Mapping[str, Any]] = {
        "units": 0,
        "dropout": {"low": 0.0, "high": 0.4},
        **SEARCHED,
    }

    def suggest(self, trial: Trial) -> Hyperparameters:
        """Sample hyperparameters from a trial; see `BaseFamily.suggest`.

        Raises:
            ParamsError: No model to begin with is named, or it has not been resolved.
        """
        self._pin()
        return super().suggest(trial)

    def epoch_cost(self, hyperparameters: Hyperparameters, spec: Spec) -> float:
        """Return the multiply-adds of an image; see `BaseFamily.epoch_cost`.

        Frozen layers compute no gradients, which are two thirds of the work of training.
        """
        pin = self._pin()
        body, features = _body_cost(pin.file, pin.sha256)
        units = whole(hyperparameters, "units")
        head = units * (features + spec.classes) if units else features * spec.classes
        return (body if yes(hyperparameters, "fine_tune") else body / 3) + head

    def build(self, hyperparameters: Hyperparameters, spec: Spec) -> keras.Model:
        """Return the body with a new head; see `KerasClassifier.build`."""
        import keras
        from keras import layers

        body = self._body(spec)
        fine_tune = yes(hyperparameters, "fine_tune")
        _set_trainable(body, fine_tune)
        inputs = keras.Input(spec.image_shape, dtype="uint8")
        # Frozen layers give each image the same features always: no dropout, and the averages that they came with.
        x = body(inputs) if fine_tune else body(inputs, training=False)
        if units := whole(hyperparameters, "units"):
            x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(real(hyperparameters, "dropout"))(x)
        return keras.Model(inputs, layers.Dense(spec.classes, dtype="float32")(x), name="transfer")

    def _body(self, spec: Spec) -> keras.Model:
        """Return the layers below the classifier of the model to begin with."""
        import keras

        pin = self._pin()
        _verify(pin.file, pin.sha256)
        model = keras.saving.load_model(pin.file, compile=False, safe_mode=True)
        if tuple(model.input_shape[1:]) != spec.image_shape:
            raise TrainingError(
                f"{pin.init_from} takes other images", expected=spec.image_shape, found=tuple(model.input_shape[1:])
            )
        head = next(layer for layer in reversed(model.layers) if isinstance(layer, keras.layers.Dense))
        return keras.Model(model.input, head.input, name="body")

    def _pin(self) -> Pin:
        pin = self.settings.pin
        if pin is None or pin.init_from != self.settings.init_from:
            raise ParamsError(
                f"{self.name}.init_from",
                expected="a registered model such as models:/mnist-classifier@champion, resolved to a version",
                found=repr(self.settings.init_from) + ("" if pin is None else f", resolved: {pin.init_from!r}"),
                next_step="set it, then `pipeline ingest` (or `pipeline run`, `pipeline retrain`) resolves it",
            )
        return pin


def _set_trainable(model: keras.Model, trainable: bool) -> None:
    """Let all layers of a model train, or none; Keras leaves out models in it that were loaded from a file."""
    model.trainable = trainable
    for layer in model.layers:
        if hasattr(layer, "layers"):
            _set_trainable(layer, trainable)


@functools.lru_cache(maxsize=4)
def _body_cost(file: str, sha256: str) -> tuple[int, int]:
    """Return the multiply-adds of the layers below a model's classifier, and the number of features that they give."""
    _verify(file, sha256)
    return below_head(Path(file))


@functools.lru_cache(maxsize=4)
def _verify(file: str, sha256: str) -> None:
    """Check a file against its pin.

    Raises:
        DataError: It is missing, or another one.
    """
    try:
        with Path(file).open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        found = str(error.strerror)
    if found != sha256:
        raise DataError(f"{file}", expected=f"sha256 {sha256}", found=found, next_step="`pipeline ingest` fetches it")
