"""How the figures of each task are told: what a validation value means, and what stands in tiles, tables and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.artifacts.evaluate import CompleterSummary, GeneratorSummary, Known
from pipeline.artifacts.register import Decision
from pipeline.reporting.svg import percent

_FEW = 1000  # images; with fewer, a hundredth of a percent says nothing


@dataclass(frozen=True)
class Curves:
    """A chart over epochs: its title, its lines by name as columns of curves.csv, and whether they are shares."""

    title: str
    lines: Mapping[str, str]
    shares: bool = False


@dataclass(frozen=True)
class Telling:
    """What is told of a task's models.

    Attributes:
        title: What its leaderboard is called.
        value: What a search goes by, on validation data.
        shares: Whether that is a share.
        columns: Of the leaderboard, after the family and before the time.
        curves: The charts of a training.
        note: Under the leaderboard.
    """

    title: str
    value: str
    shares: bool
    columns: tuple[str, ...]
    curves: tuple[Curves, ...]
    note: str


TELLING = {
    "classify": Telling(
        "Leaderboard",
        "Validation accuracy",
        True,
        ("Validation", "Test"),
        (
            Curves("Accuracy", {"training": "accuracy", "validation": "val_accuracy"}, shares=True),
            Curves("Loss", {"training": "loss", "validation": "val_loss"}),
        ),
        "Accuracies; best on validation first, which alone chooses the candidate.",
    ),
    "generate": Telling(
        "Leaderboard of generators",
        "Validation FID",
        False,
        ("Validation FID", "Test FID", "real", "Test KID", "real", "Classes drawn", "Memorised"),
        (
            Curves("FID", {"generated": "val_fid", "real": "floor_fid"}),
            Curves("Losses", {"discriminator": "discriminator_loss", "generator": "generator_loss"}),
        ),
        "FID and KID are distances to real images, the lower the better, in the features of a network that was trained"
        " on the training split; beside them, as real, stands what as many training images score. Memorised: the share"
        " of generated images that are nearer to a training image than all but 1 % of test images are.",
    ),
    "complete": Telling(
        "Leaderboard of completers",
        "Validation squared error",
        False,
        ("Validation error", "Test error", "Interval", "Repeating the last row"),
        (Curves("Squared error", {"training": "loss", "validation": "val_mse"}),),
        "Mean squared errors of the lower half of images, pixels from 0 to 1.",
    ),
}


def digits(tested: Known) -> int:
    """Return the decimals of a percentage that the number of test images bears."""
    return 1 if tested.images < _FEW else 2


def value(told: float, task: str) -> str:
    """Return a validation value as text: what is maximised is an accuracy, or the negative of a distance."""
    return percent(told) if TELLING[task].shares else f"{-told:.4g}"


def cells(told: float, tested: Known) -> Sequence[str]:
    """Return the leaderboard's cells of a model, after its family."""
    if isinstance(tested, GeneratorSummary):
        return (
            f"{-told:.2f}",
            f"{tested.fid:.2f}",
            f"{tested.floor_fid:.2f}",
            f"{tested.kid:.4f}",
            f"{tested.floor_kid:.4f}",
            f"{tested.covered} of {tested.classes}",
            percent(tested.memorised, 1),
        )
    if isinstance(tested, CompleterSummary):
        within = f"{tested.low:.5f} to {tested.high:.5f}"
        return f"{-told:.5f}", f"{tested.mse:.5f}", within, f"{tested.baseline_mse:.5f}"
    places = digits(tested)
    return percent(told, places), percent(tested.accuracy, places)


def tile(tested: Known, decision: Decision, confidence: float) -> tuple[str, str, str]:
    """Return name, figure and more of the tile of a task's candidate."""
    images = f"{tested.images:,} images"
    if isinstance(tested, GeneratorSummary):
        more = f"real images {tested.floor_fid:.2f}, {tested.covered} of {tested.classes} classes drawn"
        return f"Test FID of version {decision.version}", f"{tested.fid:.2f}", f"{more}, {images}"
    if isinstance(tested, CompleterSummary):
        more = f"repeating the last row {tested.baseline_mse:.4f}, {images}"
        return f"Test squared error of version {decision.version}", f"{tested.mse:.4f}", more
    places = digits(tested)
    interval = f"{percent(tested.low, places)} to {percent(tested.high, places)}"
    more = f"{percent(confidence, 0)} interval {interval}, {images}"
    return f"Test accuracy of version {decision.version}", percent(tested.accuracy, places), more


def sentence(tested: Known) -> str:
    """Return the figures of a model beside those that have charts."""
    if isinstance(tested, GeneratorSummary):
        return (
            f"test FID {tested.fid:.3f} (real images {tested.floor_fid:.3f}), KID {tested.kid:.4f}"
            f" ({tested.floor_kid:.4f}), in features {tested.features[:12]}."
        )
    if isinstance(tested, CompleterSummary):
        return f"test squared error {tested.mse:.5f}, of repeating the last row {tested.baseline_mse:.5f}."
    return f"test loss {tested.loss:.4f} nats."
