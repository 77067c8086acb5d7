"""What a person sees while a search runs: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from pipeline.study import Budget, Study

_LINE_INTERVAL_S = 15.0


class SearchProgress:
    """Progress of one search. Use as a context manager.

    Args:
        label: What is searched.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[told]}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(label, total=1.0, told="starting workers (about 10 s)")
        self._began = time.monotonic()
        self._told = self._began
        self._epochs_now = 0

    def __enter__(self) -> SearchProgress:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def epoch(self) -> None:
        """Count an epoch that a worker has just trained."""
        self._epochs_now += 1

    def update(self, study: Study, budget: Budget) -> None:
        """Show how far a study is."""
        counts = study.counts()
        ended = sum(count for state, count in counts.items() if state != "running")
        epochs = study.epochs()
        share = max(ended / budget.trials, epochs / budget.epochs, study.elapsed_s / (budget.minutes * 60))
        best = study.best()
        told = (  # what matters most comes first: a narrow terminal cuts the rest off
            f"best {'-' if best is None else f'{best.value:.4f}'}, {_left(study.elapsed_s, share, budget)},"
            f" {ended}/{budget.trials} trials ({counts['running']} running, {counts['pruned']} pruned,"
            f" {counts['failed']} failed), {epochs}/{budget.epochs} epochs"
        )
        self._progress.update(self._task, completed=min(share, 1.0), told=told)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told >= _LINE_INTERVAL_S:
            self._told = now
            self._console.print(f"{self._label}: {told}", highlight=False, soft_wrap=True)


def _left(elapsed_s: float, share: float, budget: Budget) -> str:
    """Estimate the time left from the limit that is nearest; time itself is always one of the limits."""
    if share >= 1:
        return "finishing what was started"
    most = budget.minutes * 60 - elapsed_s
    guess = elapsed_s * (1 - share) / share if share > 0 else most
    seconds = max(0, int(min(most, guess)))
    return f"about {seconds // 60}:{seconds % 60:02d} left"
