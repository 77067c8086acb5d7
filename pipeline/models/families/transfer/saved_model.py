"""Multiply-adds of a saved Keras model for one image, read from its file without importing Keras."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.models.multiply_adds import Maps, recurrent

_CELLS = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple"}


def below_head(file: Path) -> tuple[int, int]:
    """Return the multiply-adds of a classifier's layers below the last dense one, and how many values that one reads.

    Layers of kinds that no family here uses count as nothing.
    """
    with zipfile.ZipFile(file) as archive:
        layers = json.loads(archive.read("config.json"))["config"]["layers"]
    head = max(place for place, layer in enumerate(layers) if layer["class_name"] == "Dense")
    products = sum(_multiply_adds(layer) for place, layer in enumerate(layers) if place != head)
    return products, math.prod(_input_shape(layers[head]))


def _multiply_adds(layer: Mapping[str, Any]) -> int:
    kind, config = layer["class_name"], layer["config"]
    if "layers" in config:
        return sum(_multiply_adds(inner) for inner in config["layers"])
    if kind == "Bidirectional":
        return sum(_multiply_adds(config[one]) for one in ("layer", "backward_layer") if config.get(one))
    sides = _input_shape(layer)
    if kind == "Dense":
        return math.prod(sides) * int(config["units"])
    if kind == "Conv2D":
        padded, strides = config["padding"] == "same", config["strides"][0]
        return (
            Maps(*sides).conv(config["filters"], config["kernel_size"][0], strides=strides, padded=padded).multiply_adds
        )
    if kind in _CELLS:
        return int(sides[0]) * recurrent(_CELLS[kind], sides[1], config["units"])
    return 0


def _input_shape(layer: Mapping[str, Any]) -> Sequence[int]:
    """Return the shape of what a layer reads of one image."""
    shape: Sequence[Any] = (layer.get("build_config") or {}).get("input_shape") or ()
    return shape[0][1:] if shape and isinstance(shape[0], list) else shape[1:]
