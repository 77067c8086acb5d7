"""The registered model, as MLflow loads it: raw uint8 images in; label, class name and probabilities out.

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


class Classifier(PythonModel):
    """Wraps a `.keras` file that gives logits."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model; safe mode refuses files that carry code."""
        os.environ.setdefault("KERAS_BACKEND", context.model_config["backend"])
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras

        self._model = keras.saving.load_model(context.artifacts["model"], compile=False, safe_mode=True)
        self._class_names = list(context.model_config["class_names"])

    # MLflow reads the type hint of `model_input` as a schema, and supports few types without a warning: this is one.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's context of the model.
            model_input: Images, uint8 (N, H, W, C).
            params: Not used.

        Returns:
            A data frame of N rows: ``label`` (integer), ``class_name``, ``probabilities`` (a list of one per class).
        """
        del context, params
        images = np.asarray(model_input)
        expected = tuple(self._model.input_shape[1:])
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise ValueError(f"images: expected uint8 of shape (N, {expected}), found {images.dtype} {images.shape}")
        logits = np.zeros((0, self._model.output_shape[-1]))
        if len(images):  # Keras fails without any
            logits = self._model.predict(images, batch_size=_BATCH, verbose=0).astype(np.float64)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponents / exponents.sum(axis=1, keepdims=True)
        labels = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": labels.astype(np.int64),
                "class_name": pd.Series([self._class_names[label] for label in labels], dtype=str),
                "probabilities": pd.Series(probabilities.tolist(), dtype=object),
            }
        )


mlflow.models.set_model(Classifier())
