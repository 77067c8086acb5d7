"""Displays the progress of a search: a bar on a terminal, a line at intervals elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from pipeline.models.epoch_metrics import EpochMetrics
from pipeline.search import cost_estimate
from pipeline.search.settings import Budget

if TYPE_CHECKING:
    from pipeline.search.study import Study

_LINE_INTERVAL_S = 15.0


@dataclass(frozen=True)
class Expected:
    """Expected cost of a search: its budget, number of epochs and workers, and the cost of an earlier search."""

    budget: Budget
    epochs: int
    slots: int
    measured: cost_estimate.Measured | None


class SearchProgress:
    """Progress of one search. Use as a context manager.

    Args:
        label: Name of the search.
        expected: Expected cost. It is printed at the start; if no earlier search measured the duration of an epoch, it
            is printed again after the first task.
        clock: Returns the time in seconds.
    """

    def __init__(self, label: str, expected: Expected, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._expected = expected
        self.measured: cost_estimate.Measured | None = None
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(label, total=1.0, state="starting workers (some seconds)")
        self._now = clock
        self._printed_at = clock()

    def __enter__(self) -> SearchProgress:
        self._progress.start()
        self._print_cost(self._expected.measured)
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def task_done(self, epochs: Sequence[EpochMetrics], checkpoint_bytes: int) -> None:
        """Record the cost of a finished task; the first one gives an estimate for the whole search."""
        if self.measured is None and epochs:
            seconds = sum(epoch.seconds for epoch in epochs) / len(epochs)
            self.measured = cost_estimate.Measured(round(seconds, 3), checkpoint_bytes)
            if self._expected.measured is None:
                self._print_cost(self.measured)

    def _print_cost(self, measured: cost_estimate.Measured | None) -> None:
        text = cost_estimate.describe(self._expected.budget, self._expected.epochs, self._expected.slots, measured)
        self._console.print(f"{self._label}: {text}", highlight=False, soft_wrap=True)

    @property
    def epoch_s(self) -> float:
        """Seconds per epoch, measured in this search or an earlier one; 0 if not known yet."""
        known = self.measured or self._expected.measured
        return known.epoch_s if known else 0.0

    def update(self, study: Study, budget: Budget, waiting: int, training: int) -> None:
        """Display the progress of a study. Calls are cheap: without a terminal, it prints at intervals only.

        Args:
            study: The study.
            budget: Limits of the search.
            waiting: Number of trials that wait at a rung.
            training: Number of rungs that workers train.
        """
        now = self._now()
        if not self._console.is_terminal and now - self._printed_at < _LINE_INTERVAL_S:
            return
        self._printed_at = now
        status = study.status()
        share = min(1.0, status.epochs / max(1, self._expected.epochs))
        text = (  # the most important part comes first: a narrow terminal cuts off the rest
            f"best {'-' if status.best is None else f'{status.best.value:.4f}'},"
            f" {self._left(status.epochs)}, {status.ended}/{budget.trials} trials"
            f" ({training} in training, {waiting} waiting, {status.counts['pruned']} pruned,"
            f" {status.counts['failed']} failed),"
            f" {status.epochs}/{budget.epochs} epochs"
        )
        self._progress.update(self._task, completed=share, state=text)
        if not self._console.is_terminal:
            self._console.print(f"{self._label}: {text}", highlight=False, soft_wrap=True)

    def _left(self, epochs: int) -> str:
        """Return the estimated time left as text."""
        left = max(0, self._expected.epochs - epochs)
        if left == 0:
            return "finishing the leader"
        if self.epoch_s == 0:
            return "time left unknown"
        return f"about {_clock(left * self.epoch_s / self._expected.slots)} left"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
