"""Does with the new task what the stages from train to report do, in a copy of the project; prints JSON."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.artifacts import base as artifacts
from pipeline.artifacts import register as decided
from pipeline.artifacts import search, validate
from pipeline.artifacts import train as trained
from pipeline.artifacts.evaluate import Predictions
from pipeline.cli import schema
from pipeline.datasets.arrays import Labelled, TestSplit
from pipeline.evaluation import base
from pipeline.models import loading
from pipeline.project import check
from pipeline.registry import candidates, packaging, promotion
from pipeline.registry.versions import Version
from pipeline.reporting import leaderboard
from pipeline.stages import evaluate, report

check.check()
family = loading.load("ruler")
task = base.load(family.task)
images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
split = TestSplit(Labelled(images, np.zeros(40, np.int64)), ("cat", "dog"), "d")
good, bad = (SimpleNamespace(predict=lambda of, off=off: of.mean(axis=(1, 2, 3)) + off) for off in (2, 5))
scored = task.score(good, split, Path(), 0.95)

# train
model = trained.Model(
    family="ruler", task=family.task, value=-3.0, mean=-3.0, loss=1.0, parameters=1, hyperparameters={"marks": 10},
    class_names=split.class_names, image_shape=(8, 8, 1), data_digest="d", backend="jax", run_id="r", model_id="m",
)  # fmt: skip
artifacts.write(Path("models/ruler/model.json"), model)
signature = packaging.signature(task.interface(images[:4])).to_dict()
epoch = trained.Epoch.of({"epoch": 1, "val_error": 3.0, "val_value": -3.0, "seconds": 1.0}, family.objective)
Path("reports/train/pets/ruler").mkdir(parents=True)
Path("reports/train/pets/ruler/curves.csv").write_text(trained.curves([epoch]))
summary = trained.Summary(run="r", value=-3.0, mean=-3.0, seeds={"0": -3.0}, parameters=1, epochs=1, seconds=1.0)
artifacts.write(Path("reports/train/pets/ruler/summary.json"), summary)

# evaluate
evaluate.save(task, scored, split, model, Path("reports/evaluate/pets/ruler"))
artifacts.write(Path("predictions/ruler/meta.json"), Predictions(key="d", model_id="m"))
np.savez(Path("predictions/ruler/predictions.npz"), **scored.kept)

# register
candidate = candidates.find_candidates(["ruler"], Path("models"), Path("predictions"))["measure"]
name = task.registered_name("pets", "")
old, new = (Version(name, number, "r", {}) for number in "12")
decision = promotion.decide(task, new, candidate.kept, old, task.score(bad, split, Path(), 0.95).kept, 0.05)
written = {"model": name, "decision": decision.decision, "reason": decision.reason, "version": 2, "champion": 2,
           "family": "ruler", "value": -3.0, "comparison": decision.comparison, "run": "r", "key": "d"}  # fmt: skip
figures = task.headline(candidate.kept)
decisions = decided.Report({"measure": decided.Decision.model_validate({**written, **figures})})
artifacts.write(Path("reports/register/pets.json"), decisions)

# validate and search, and then the report
by_split = dict.fromkeys(("train", "test"), 40)
found = validate.Report(
    dataset="pets", passed=True, warnings=(), images=by_split, classes={name: {"cat": 40} for name in by_split},
    imbalance=dict.fromkeys(by_split, 1.0), duplicates=by_split, leaked=0, digest={}, expectations={},
    near_duplicates=validate.NearDuplicates(threshold=0.1, counts={}, pairs=()),
    reference=validate.Reference(shape=(8, 8, 1), bounds={}, levels={}),
)  # fmt: skip
artifacts.write(Path("reports/validate/pets.json"), found)
best = search.Best(family="ruler", hyperparameters={"marks": 10}, epochs=1, value=-3.0, seed=0, study="s")
artifacts.write(Path("reports/search/pets/ruler/best.json"), best)
spent = {"study": "s", "run": "q", "value": -3.0, "best_trial": 0, "trials": {"complete": 1}, "epochs": 1}
artifacts.write(Path("reports/search/pets/ruler/summary.json"), search.Summary(**spent, seconds=1.0))
rows = "trial,state,value,epochs,seconds,reason,preset,marks\n0,complete,-3.0,1,1.0,,,10\n"
Path("reports/search/pets/ruler/trials.csv").write_text(rows)
line = task.line(-3.0, leaderboard.rows(Path("reports"), ["pets"], ["ruler"])[0].test)

results = {
    "serving": packaging.serving_code(family).relative_to(Path.cwd()).as_posix(),
    "requirements": [pin.partition("==")[0] for pin in packaging.requirements(family, "jax")],
    "signature": signature,
    "decision": decision.decision,
    "reason": decision.reason,
    "registered": name,
    "line": [line.validation, line.test, line.beside],
    "schema": sorted(name for name in schema.artifacts() if name.startswith("evaluate/summary/")),
    "page": report.run(Path("reports"), Path("reports/index.html"), ["pets"], ["ruler"], 0.95),
}
print(json.dumps(results))
