"""Print the JSON schema of an artifact: a file that one stage writes and another reads. Without a name, list them."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pydantic

HELP = "the JSON schema of a file that the stages write"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("artifact", nargs="?", help="such as train/model; all names if left out")


def main(arguments: argparse.Namespace) -> int:
    """Print a schema, or the names of all artifacts."""
    from pipeline.core.errors import ParamsError, nearest

    known = artifacts()
    if arguments.artifact is None:
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {_summary(model)}" for name, model in known.items()))
        return 0
    if arguments.artifact not in known:
        expected = nearest(arguments.artifact, known)
        raise ParamsError("schema: unknown artifact", expected=expected, found=repr(arguments.artifact))
    print(json.dumps(known[arguments.artifact].model_json_schema(), indent=2, ensure_ascii=False))
    return 0


def artifacts() -> dict[str, type[pydantic.BaseModel]]:
    """Return the model of every artifact, by stage and file, and task; that of a CSV file describes a row."""
    from pipeline.artifacts import evaluate, references, register, search, train, validate
    from pipeline.evaluation import base

    return {
        "validate/report": validate.Report,
        "search/best": search.Best,
        "search/summary": search.Summary,
        "search/trials": search.Trial,
        "train/model": train.Model,
        "train/summary": train.Summary,
        "train/curves": train.Epoch,
        "evaluate/summary": evaluate.Summary,
        **{f"evaluate/summary/{task}": base.load(task).summary_type for task in sorted(base.task_names())},
        "evaluate/predictions": evaluate.Predictions,
        "evaluate/confusion": evaluate.Pair,
        "register/report": register.Report,
        "references/report": references.References,
    }


def _summary(model: Any) -> str:
    return (model.__doc__ or "").partition("\n")[0]
