"""A registered completer, as MLflow loads it: upper halves of images in, whole images out, both raw uint8.

MLflow stores this file with the model and runs it wherever the model is loaded, so it imports nothing of this package.
"""

from __future__ import annotations

import os
from typing import Any

import mlflow.models
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext

_BATCH = 512


class Completer(PythonModel):
    """Wraps a `.keras` file that predicts the lower rows of images, with values from 0 to 1, from the upper rows."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model; safe mode refuses files that carry code."""
        os.environ.setdefault("KERAS_BACKEND", context.model_config["backend"])
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        self._model = keras.saving.load_model(context.artifacts["model"], compile=False, safe_mode=True)

    # MLflow reads the type hint of `model_input` as a schema, and supports few types without a warning: this is one.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Complete images.

        Args:
            context: MLflow's context of the model.
            model_input: Upper halves, uint8 (N, H // 2, W, C).
            params: Not used.

        Returns:
            Whole images, uint8 (N, H, W, C); their upper halves are the inputs.
        """
        del context, params
        upper = np.asarray(model_input)
        expected = tuple(self._model.input_shape[1:])
        if upper.dtype != np.uint8 or upper.shape[1:] != expected:
            raise ValueError(f"images: expected uint8 of shape (N, {expected}), found {upper.dtype} {upper.shape}")
        lower = np.zeros((0, *self._model.output_shape[1:]))
        if len(upper):  # Keras fails without any
            lower = self._model.predict(upper, batch_size=_BATCH, verbose=0)
        return np.concatenate([upper, np.rint(np.clip(lower, 0, 1) * 255).astype(np.uint8)], axis=1)


mlflow.models.set_model(Completer())
