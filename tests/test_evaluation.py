"""Figures of generators and completers, and the paired tests that compare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError, ParamsError
from pipeline.evaluation import base, complete, generative_metrics

RANDOM = np.random.default_rng(0)


def test_fid_of_normal_features_is_that_of_the_formula() -> None:
    a = generative_metrics.Moments(np.array([0.0, 0.0]), np.diag([1.0, 4.0]))
    b = generative_metrics.Moments(np.array([3.0, 4.0]), np.diag([9.0, 4.0]))
    assert generative_metrics.fid(a, b) == pytest.approx(25 + (1 - 3) ** 2)  # means 5 apart; roots of variances 2 apart
    assert generative_metrics.fid(a, a) == pytest.approx(0, abs=1e-9)


def test_fid_takes_covariances_that_do_not_commute() -> None:
    from scipy.linalg import sqrtm

    one, other = (RANDOM.normal(size=(500, 5)) @ RANDOM.normal(size=(5, 5)) for _ in range(2))
    a, b = generative_metrics.Moments.of(one), generative_metrics.Moments.of(other)
    crossed = np.trace(sqrtm(a.covariance @ b.covariance)).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance) - 2 * crossed
    assert generative_metrics.fid(one, other) == pytest.approx(expected, rel=1e-6)


def test_kid_is_unbiased_and_sees_a_shift() -> None:
    draws = [generative_metrics.kid(RANDOM.normal(size=(60, 4)), RANDOM.normal(size=(50, 4))) for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(len(draws))
    assert generative_metrics.kid(RANDOM.normal(1, 1, size=(60, 4)), RANDOM.normal(size=(50, 4))) > max(draws)
    x, y = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(4, 2))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 2 + 1) ** 3)

    within = [np.mean([kernel(a, b) for i, a in enumerate(of) for j, b in enumerate(of) if i != j]) for of in (x, y)]
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert generative_metrics.kid(x, y) == pytest.approx(sum(within) - 2 * between)


def test_a_class_is_covered_from_a_fifth_of_its_share_on() -> None:
    real = np.repeat(np.arange(3), 100)
    assert (
        generative_metrics.covered(np.repeat([0, 1, 2], [20, 7, 273]), real, 3) == 2
    )  # 7 of 300 are 2.3 %, less than 6.7 %
    assert generative_metrics.covered(np.repeat([0, 1, 2], [20, 20, 260]), real, 3) == 3


def test_the_nearest_neighbour_is_the_one_that_trying_all_finds() -> None:
    known, queries = RANDOM.normal(size=(300, 6)), RANDOM.normal(size=(2500, 6))
    expected = np.sqrt(((queries[:, None] - known[None]) ** 2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(generative_metrics.nearest(queries, known), expected, atol=1e-3)


class TestGenerators:
    real = RANDOM.normal(size=(400, 6)).astype(np.float32)

    def kept(self, shift: float, seed: int) -> dict[str, np.ndarray]:
        features = np.random.default_rng(seed).normal(shift, 1, size=(400, 6)).astype(np.float32)
        return {"features": features, "real": self.real}

    def test_only_one_that_is_nearer_beyond_chance_wins(self) -> None:
        task = base.load("generate")
        better = task.compare(self.kept(0.2, 1), self.kept(0.6, 2), "1")
        assert better.p_value < 0.05
        assert better.figures["candidate_fid"] < better.figures["champion_fid"]
        assert "that of the champion (version 1)" in better.text
        assert task.compare(self.kept(0.6, 2), self.kept(0.2, 1), "1").p_value > 0.95
        assert 0.05 < task.compare(self.kept(0.3, 1), self.kept(0.3, 2), "1").p_value < 0.95
        assert task.compare(self.kept(0.3, 1), self.kept(0.3, 1), "1").p_value > 0.05

    def test_another_scale_does_not_compare(self) -> None:
        other = {**self.kept(0.2, 1), "real": self.real + 1}
        with pytest.raises(DataError, match="do not compare"):
            base.load("generate").compare(self.kept(0.2, 1), other, "1")

    def test_the_key_changes_with_the_scale(self, tmp_path: Path) -> None:
        from pipeline.datasets.arrays import Labelled, TestSplit

        empty = Labelled(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64))
        split, keys = TestSplit(empty, ("a",), "digest"), []
        for digest in ("one", "other"):
            (tmp_path / "scale.json").write_text(f'{{"digest": "{digest}"}}')
            keys.append(base.load("generate").key(split, tmp_path))
        assert keys[0] != keys[1]
        renamed = TestSplit(empty, ("b",), "digest")
        keys += [base.load("classify").key(each, tmp_path) for each in (split, renamed)]
        assert len(set(keys)) == 4


class TestCompleters:
    images = RANDOM.integers(0, 256, size=(50, 6, 4, 1), dtype=np.uint8)

    def test_the_baseline_repeats_the_last_known_row(self) -> None:
        repeated = complete.repeated(self.images)
        np.testing.assert_array_equal(repeated[:, :3], self.images[:, :3])
        for row in (3, 4, 5):
            np.testing.assert_array_equal(repeated[:, row], self.images[:, 2])

    def test_errors_are_those_of_the_lower_half(self) -> None:
        wrong = self.images.copy()
        wrong[:, :3] = 0  # the upper half does not count
        assert complete.squared_errors(wrong, self.images).max() == 0
        wrong[:, 3:] = 255 - self.images[:, 3:]
        apart = (255 - 2 * self.images[:, 3:].astype(float)) / 255
        np.testing.assert_allclose(complete.squared_errors(wrong, self.images), (apart**2).mean(axis=(1, 2, 3)), 1e-5)

    def test_smaller_errors_win_image_by_image(self) -> None:
        errors = RANDOM.uniform(0.05, 0.2, 100)
        task = base.load("complete")
        ours, theirs = {"errors": errors - RANDOM.uniform(0, 0.002, 100)}, {"errors": errors}
        assert task.compare(ours, theirs, "3").p_value < 0.05 < task.compare(theirs, ours, "3").p_value
        assert task.compare(theirs, theirs, "3").p_value == 1.0
        with pytest.raises(DataError, match="do not pair"):
            task.compare({"errors": errors[:5]}, theirs, "3")


def test_an_unknown_task_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ParamsError, match=r"unknown task: expected 'complete'\?.*found 'completes'"):
        base.load("completes")


def test_a_classifier_is_shown_beside_the_largest_class_and_with_the_classes_that_it_never_answers() -> None:
    from pipeline.datasets.arrays import Labelled, TestSplit
    from pipeline.evaluation import classify

    actual = np.repeat([0, 1, 2], (95, 3, 2))
    split = TestSplit(Labelled(np.zeros((100, 2, 2, 1), np.uint8), actual), ("cat", "dog", "eel", "fox"), "digest")
    predicted = np.where(actual == 2, 2, 0)
    found = classify.figures(predicted, np.full((100, 4), 0.25), split, 0.95)
    assert (found["accuracy"], found["majority"], found["never"]) == (0.97, 0.95, ("dog",))
    assert found["balanced"] == pytest.approx(2 / 3)
    task = base.load("classify")
    identity = {"run": "r", "task": "classify", "images": 100, "test_digest": "d"}
    summary = task.summary_type.model_validate({**identity, **found})
    assert task.never_predicted(summary) == ("dog",)
    assert "/ 95%" in task.line(0.9, summary).beside
    assert "0.9500 by always answering the largest class" in task.beside({"predicted": predicted, "actual": actual})
    older = task.summary_type.model_validate({**identity, **{k: v for k, v in found.items() if k not in NEW}})
    assert task.never_predicted(older) == ()
    assert "largest" not in task.sentence(older) + task.tile(older, 1, 0.95).note


NEW = ("majority", "balanced", "never")
