"""A registered generator, as MLflow loads it: a number of images and a seed in; the images out, as raw uint8.

MLflow stores this file with the model and runs it wherever the model is loaded, so it imports nothing of this package.
"""

from __future__ import annotations

import os
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

_BATCH = 512
_MOST = 100_000  # images per call: more would fill the memory


class Generator(PythonModel):
    """Wraps a `.keras` file that draws images from noise, and from labels if it was trained with them."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model; safe mode refuses files that carry code."""
        os.environ.setdefault("KERAS_BACKEND", context.model_config["backend"])
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        self._model = keras.saving.load_model(context.artifacts["model"], compile=False, safe_mode=True)
        self._class_names = list(context.model_config["class_names"])

    # MLflow reads the type hint of `model_input` as a schema, and supports few types without a warning: this is one.
    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Generate images.

        Args:
            context: MLflow's context of the model.
            model_input: A row per request: ``n``, the number of images; ``seed``, which decides them; and, optionally,
                ``label``, the class to draw (-1 or no such column: every class in turn). A generator that was trained
                without labels ignores ``label``.
            params: Not used.

        Returns:
            Images of all rows one after the other, uint8 (sum of n, H, W, C). The images of a row do not depend on
            other rows.
        """
        del context, params
        numbers = model_input["n"].to_numpy(np.int64)
        if (numbers < 0).any() or numbers.sum() > _MOST:
            raise ValueError(f"n: expected 0 to {_MOST:,} images in all, found {numbers.tolist()[:10]}")
        labels = model_input["label"].fillna(-1) if "label" in model_input else pd.Series(-1, model_input.index)
        rows = zip(numbers, model_input["seed"], labels, strict=True)
        requested = [self._inputs(int(number), int(seed), int(label)) for number, seed, label in rows]
        if not numbers.sum():
            return np.zeros((0, *self._model.output_shape[1:]), np.uint8)
        inputs = [np.concatenate(parts) for parts in zip(*requested, strict=True)]
        images = self._model.predict(inputs if len(inputs) > 1 else inputs[0], batch_size=_BATCH, verbose=0)
        return np.rint(np.asarray(images, np.float32) * 255).astype(np.uint8)

    def _inputs(self, number: int, seed: int, label: int) -> list[np.ndarray]:
        """Return the noise of one row, and its labels where the model takes any."""
        noise = np.random.default_rng(seed).standard_normal((number, self._model.inputs[0].shape[1]), np.float32)
        if len(self._model.inputs) == 1:
            return [noise]
        classes = len(self._class_names)
        if not -1 <= label < classes:
            raise ValueError(f"label: expected 0 to {classes - 1}, or -1 for every class in turn, found {label}")
        labels = np.arange(number) % classes if label < 0 else np.full(number, label)
        return [noise, labels.astype(np.int32)]


mlflow.models.set_model(Generator())
