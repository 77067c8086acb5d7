"""What a command leaves, in a form in which two runs compare: files, studies, MLflow's runs and registry."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# What differs from one run to the next, and may.
TIMES = {"seconds", "at", "elapsed_s", "timestamp", "worker", "trial.worker", "trial.latency_ms"}
IDS = re.compile(r"\b(m-)?[0-9a-f]{32}\b")  # of MLflow's runs and models
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")
DRAWN = ("reports/search/*.png",)  # plots of a search: some show when its trials began and ended
WORKING = (
    "mlflow.db*", "mlartifacts/*", "*/study.db*",  # compared by what they hold
    ".pipeline.lock.json", "*/lock", "*.lock", "*/epochs.log", "*/cost.json", "*/elapsed.json", "tmp/*",  # costs
)  # fmt: skip
TEMPORARY = re.compile(r"\.partial\b|\.tmp\b|\.proposed\b|(^|/)tmp[^/]*$")
STATES = ("mlflow.user", "mlflow.source", "mlflow.log-model")  # beginnings of MLflow's own tags


def files(root: Path) -> dict[str, Any]:
    """Return the content of every file, and every folder, by path; ids and times left out."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(fnmatch(name, pattern) for pattern in WORKING):
            continue
        if path.is_dir():
            found[name + "/"] = None
        elif any(fnmatch(name, pattern) for pattern in DRAWN):
            found[name] = "drawn"
        else:
            found[name] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        return [_plain(row) for row in rows]
    content = path.read_bytes()
    if path.suffix in (".html", ".jsonl", ".yaml"):
        content = IDS.sub("<id>", content.decode()).encode()
    return hashlib.sha256(content).hexdigest()


def _plain(value: Any) -> Any:
    """Return a value without ids and times."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return MOMENT.sub("<time>", IDS.sub("<id>", value)) if isinstance(value, str) else value


def temporary(root: Path) -> list[str]:
    """Return the files and folders that a command should have removed, the system's folder for such files aside."""
    names = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return sorted(name for name in names if TEMPORARY.search(name) and not name.startswith(("tmp", "mlartifacts")))


def studies(root: Path) -> dict[str, Any]:
    """Return the trials of every study by name."""
    import optuna

    found = {}
    for database in sorted(root.glob("data/studies/*/study.db")):
        storage = f"sqlite:///{database}"
        for name in optuna.study.get_all_study_names(storage):
            study = optuna.load_study(study_name=name, storage=storage)
            found[name] = {
                "trials": [
                    [t.number, t.state.name, t.params, t.values, t.intermediate_values, _plain(t.user_attrs)]
                    for t in study.trials
                ],
                "attributes": _plain(study.user_attrs),
            }
    return found


def tracked(root: Path) -> dict[str, Any]:
    """Return the runs, logged models and registered models of the workspace's MLflow."""
    from mlflow import MlflowClient

    if not (root / "mlflow.db").exists():
        return {}
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = list(client.search_runs(experiments, max_results=1000))
    keys = {run.info.run_id: run.data.tags.get("pipeline.key", "?") for run in runs}
    models = client.search_logged_models(experiments)
    return {
        "experiments": sorted(each.name for each in client.search_experiments()),
        "runs": sorted((_run(client, run, keys) for run in runs), key=lambda run: str(run["key"])),
        "models": sorted([keys.get(model.source_run_id, "?"), str(model.status)] for model in models),
        "registry": [_registered(client, model, keys) for model in client.search_registered_models()],
    }


def _run(client: Any, run: Any, keys: dict[str, str]) -> dict[str, Any]:
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith(STATES)}
    tags["mlflow.parentRunId"] = keys.get(tags.get("mlflow.parentRunId", ""), "")
    history = {
        name: _values(client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
        if name not in TIMES
    }
    return {
        "key": keys[run.info.run_id],
        "name": run.info.run_name,
        "status": run.info.status,
        "tags": _plain(tags),
        "params": _plain(dict(run.data.params)),
        "metrics": history,
        "inputs": sorted(each.dataset.name + each.dataset.digest for each in run.inputs.dataset_inputs),
        "outputs": len(run.outputs.model_outputs) if run.outputs else 0,
        "artifacts": sorted(_artifacts(client, run.info.run_id, "")),
    }


def _values(history: list[Any]) -> list[tuple[int, float]]:
    """Return the steps and values of a metric; a final one, at step 0, may have been logged twice."""
    final = {(each.step, each.value) for each in history if each.step == 0}
    return sorted([*final, *((each.step, each.value) for each in history if each.step > 0)])


def _artifacts(client: Any, run_id: str, folder: str) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder or None):
        found += (
            _artifacts(client, run_id, entry.path) if entry.is_dir else [re.sub(r"\d{10,}.*%", "<time>", entry.path)]
        )
    return found


def _registered(client: Any, model: Any, keys: dict[str, str]) -> dict[str, Any]:
    found = client.search_model_versions(f"name = '{model.name}'")
    versions = [
        [int(each.version), keys.get(each.run_id, "?"), str(each.status), _plain(dict(each.tags))] for each in found
    ]
    aliases = {alias: int(version) for alias, version in client.get_registered_model(model.name).aliases.items()}
    tags = _plain(dict(client.get_registered_model(model.name).tags))
    return {"name": model.name, "aliases": aliases, "tags": tags, "versions": sorted(versions)}


def state(root: Path) -> dict[str, Any]:
    """Return everything that a command leaves, as plain JSON."""
    everything = {"files": files(root), "temporary": temporary(root), "studies": {}, "mlflow": {}}
    if any(root.glob("data/studies/*/study.db")):
        everything["studies"] = studies(root)
    if (root / "mlflow.db").exists():
        everything["mlflow"] = tracked(root)
    plain: dict[str, Any] = json.loads(json.dumps(everything, default=str))
    return plain


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Return in words where two states differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted({*found, *expected})
        return [
            text
            for name in names
            for text in (
                differences(found[name], expected[name], f"{where}/{name}")
                if name in found and name in expected
                else [f"{where}/{name} is {'left over' if name in found else 'missing'}"]
            )
        ]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return [text for n, (a, b) in enumerate(pairs) for text in differences(a, b, f"{where}[{n}]")]
    return [] if found == expected else [f"{where}: found {str(found)[:300]}, expected {str(expected)[:300]}"]
