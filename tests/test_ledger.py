"""Decisions are written once, whoever writes at the same time, and a model has one ledger."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.register import Decision
from pipeline.core.errors import TrackingError
from pipeline.registry import ledger as ledgers
from pipeline.registry.ledger import LEDGER, Ledger
from pipeline.registry.versions import Registry
from pipeline.tracking.runs import Tracker
from tests import registered
from tests.registered import NAME


@pytest.fixture
def tracker(database: Path) -> Tracker:
    return Tracker("digits")


def decision(number: int, version: int = 1, **changed: Any) -> Decision:
    content = {"model": NAME, "decision": "promoted", "reason": "p = 0.01 < 0.05", "version": version, "family": "mlp",
               "champion": version, "value": 0.9, "comparison": {"p_value": 0.01}, "run": "r", "key": "k",
               "number": number, "time": "2026-01-31T12:00:00+00:00", "accuracy": 0.9}  # fmt: skip
    return Decision.model_validate({**content, **changed})


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


class Together(Registry):
    """A registry whose users all wait for each other before they create a model."""

    barrier: threading.Barrier

    def create_model(self, name: str, tags: Mapping[str, str], description: str = "") -> bool:
        self.barrier.wait(30)
        return super().create_model(name, tags, description)


def test_a_decision_is_read_as_it_was_written_and_cannot_be_overwritten(tracker: Tracker) -> None:
    ledger = ledgers.ensure(tracker, Registry(tracker), NAME)
    assert ledger.decisions() == []
    first, other = decision(1), decision(1, version=2)
    assert ledger.claim(first)
    assert ledger.claim(first), "the same again: the answer to the first write may have been lost"
    assert not ledger.claim(other)
    assert ledger.claim(decision(2, version=2))
    assert ledger.decisions() == [first, decision(2, version=2)]
    assert first.comparison == {"p_value": 0.01}


def test_of_writers_at_once_exactly_one_has_the_decision(tracker: Tracker) -> None:
    ledger = ledgers.ensure(tracker, Registry(tracker), NAME)
    barrier = threading.Barrier(4)

    def claim(version: int) -> bool:
        barrier.wait(30)
        return ledger.claim(decision(1, version))

    won = at_once(*(lambda version=version: claim(version) for version in range(1, 5)))
    assert sum(won) == 1
    assert [made.version for made in ledger.decisions()] == [won.index(True) + 1]


@pytest.mark.parametrize("earlier_release", [False, True])
def test_a_model_has_one_ledger_whoever_creates_it_at_once(earlier_release: bool, tracker: Tracker) -> None:
    if earlier_release:
        tracker.client.create_registered_model(NAME)
    Together.barrier = threading.Barrier(3)
    found = at_once(*(lambda: ledgers.ensure(tracker, Together(tracker), NAME) for _ in range(3)))
    assert len({ledger.run_id for ledger in found}) == 1
    assert tracker.client.get_registered_model(NAME).tags[LEDGER] == found[0].run_id
    assert set(tracker.runs("")) == {found[0].run_id}, "the runs of those who came later are deleted"
    assert ledgers.ensure(tracker, Registry(tracker), NAME).run_id == found[0].run_id


def test_a_kill_while_a_ledger_is_created_leaves_no_second_one(tracker: Tracker) -> None:
    class Killed(Registry):
        def create_model(self, name: str, tags: Mapping[str, str], description: str = "") -> bool:
            raise KeyboardInterrupt

        def tag_model(self, name: str, key: str, value: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledgers.ensure(tracker, Killed(tracker), NAME)
    tracker.client.create_registered_model(NAME)  # as an earlier release does
    Killed.create_model = Registry.create_model  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ledgers.ensure(tracker, Killed(tracker), NAME)
    ledger = ledgers.ensure(tracker, Registry(tracker), NAME)
    assert set(tracker.runs("")) == {ledger.run_id}


def test_a_ledger_of_a_deleted_model_is_not_that_of_a_new_one(tracker: Tracker) -> None:
    ledger = ledgers.ensure(tracker, Registry(tracker), NAME)
    ledger.claim(decision(1))
    tracker.client.delete_registered_model(NAME)
    assert ledgers.ensure(tracker, Registry(tracker), NAME).decisions() == []


def test_a_ledger_that_is_lost_for_good_is_begun_anew_once(tracker: Tracker) -> None:
    for _ in range(2):
        ledger = ledgers.ensure(tracker, Registry(tracker), NAME)
        assert ledger.claim(decision(1))
        tracker.client.delete_run(ledger.run_id)
        registered.store(tracker)._hard_delete_run(ledger.run_id)  # as `mlflow gc` does
    Together.barrier = threading.Barrier(2)
    found = at_once(*(lambda: ledgers.ensure(tracker, Together(tracker), NAME) for _ in range(2)))
    assert found[0].run_id == found[1].run_id
    assert found[0].decisions() == []


def test_a_ledger_that_cannot_be_read_is_one_clear_error(tracker: Tracker) -> None:
    registry = Registry(tracker)
    ledger = ledgers.ensure(tracker, registry, NAME)
    with pytest.raises(TrackingError, match="expected 6000 characters"):
        ledger.claim(decision(1, reason="x" * 6000))
    tracker.client.log_param(ledger.run_id, "decision.2", "{}")
    with pytest.raises(TrackingError, match=r"decision 1 cannot be read: expected parameter decision\.1 of run"):
        ledger.decisions()
    tracker.client.delete_run(ledger.run_id)
    with pytest.raises(TrackingError, match=f"a deleted run; next: mlflow runs restore --run-id {ledger.run_id},"):
        ledger.decisions()
    with pytest.raises(TrackingError, match=r"was deleted"):
        ledger.claim(decision(3))
    with pytest.raises(TrackingError, match="found no such run"):
        Ledger(registry, NAME, "0" * 32).decisions()
