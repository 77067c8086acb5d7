"""Nearest neighbours, as MLflow loads them: raw uint8 images in; label, class name and probabilities out.

MLflow stores this file with the model and runs it wherever the model is loaded, so it imports nothing of this package.
"""

from __future__ import annotations

from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from sklearn.neighbors import NearestNeighbors


class Neighbours(PythonModel):
    """A nearest-neighbour classifier that holds its training images."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the images, their labels, the number of votes and the metric."""
        with np.load(context.artifacts["model"], allow_pickle=False) as stored:
            images, self._labels = stored["images"], stored["labels"]
            self._votes, metric = int(stored["votes"]), str(stored["metric"])
        self._shape = images.shape[1:]
        self._class_names = list(context.model_config["class_names"])
        self._index = NearestNeighbors(n_neighbors=self._votes, algorithm="brute", metric=metric, n_jobs=-1)
        self._index.fit(images.reshape(len(images), -1).astype(np.float32))

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
            A data frame of N rows: ``label`` (integer), ``class_name``, ``probabilities`` (a list of one per class:
            the share of the votes, as if each class had a fraction of a vote more, so that none is 0).
        """
        del context, params
        images = np.asarray(model_input)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape:
            raise ValueError(f"images: expected uint8 of shape (N, {self._shape}), found {images.dtype} {images.shape}")
        nearest = np.zeros((0, self._votes), np.int64)
        if len(images):  # scikit-learn fails without any
            nearest = self._index.kneighbors(images.reshape(len(images), -1).astype(np.float32), return_distance=False)
        classes = len(self._class_names)
        votes = np.stack([(self._labels[nearest] == label).sum(axis=1) for label in range(classes)], axis=1)
        probabilities = (votes + 1 / classes) / (self._votes + 1)
        labels = votes.argmax(axis=1)
        return pd.DataFrame(
            {
                "label": labels.astype(np.int64),
                "class_name": pd.Series([self._class_names[label] for label in labels], dtype=str),
                "probabilities": pd.Series(probabilities.tolist(), dtype=object),
            }
        )


mlflow.models.set_model(Neighbours())
