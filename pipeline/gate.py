"""The gate: Great Expectations over tables of images. The only importer of `great_expectations`.

Two tables are judged: one row per image, and one row per class of each split. Every expectation has a name of its own,
by which reports and tests know it, and a failure names the rows that did not meet it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pydantic

from pipeline.datasets.base import Images, Labelled
from pipeline.errors import ParamsError
from pipeline.params import Settings as BaseSettings

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = ("split", "index", "label", "mean", "std", "ink", "min", "max", "sha256", "repeats", "leaked")
CLASS_COLUMNS = ("split", "index", "images", "imbalance")
SPLITS = ("train", "test")
_MOST_EXAMPLES = 10
_ROWS = 4096  # per step: bounds the memory for statistics in float64
_SITE = "docs"

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("[lowest, highest]")
    return bounds


Bounds = Annotated[tuple[float, float], pydantic.AfterValidator(_ordered)]


class PixelBounds(BaseSettings):
    """Lowest and highest value that the statistics of one image may have; pixels are 0..255, see `image_table`."""

    mean: Bounds
    std: Bounds
    ink: Bounds
    min: Bounds
    max: Bounds


class Settings(BaseSettings):
    """Section ``validate`` of params."""

    max_imbalance: Annotated[float, pydantic.Field(ge=1)]
    max_duplicates: Share
    max_leaked: Share
    min_per_class: Annotated[int, pydantic.Field(ge=1)]
    pixels: dict[str, PixelBounds]

    def pixels_of(self, dataset: str) -> PixelBounds:
        """Return the dataset's bounds, or the default ones."""
        found = self.pixels.get(dataset, self.pixels.get("default"))
        if found is None:
            raise ParamsError("validate.pixels", expected=f"{dataset} or default", found=", ".join(self.pixels))
        return found


@dataclass(frozen=True)
class Outcome:
    """What became of one expectation.

    `observed` holds numbers only: the lowest and highest value of a numeric column, the share of rows that did not
    meet the expectation, or the number of columns. `examples` names at most ten rows: ``test[17]``, ``train class 3``.
    """

    name: str
    expectation: str
    column: str
    expected: str
    passed: bool
    observed: Mapping[str, float]
    unexpected_count: int
    examples: tuple[str, ...]


def image_table(parts: Mapping[str, Labelled]) -> pd.DataFrame:
    """Return one row per image of the named splits, with `IMAGE_COLUMNS`.

    ``mean``, ``std``, ``min`` and ``max`` are over an image's values (all channels), 0..255; ``ink`` is the share of
    values above 0, which is the background of drawn datasets. ``repeats``: the same pixels occur earlier in the
    split. ``leaked``: an image of any split but train whose pixels occur in train.
    """
    import pandas as pd

    frames = []
    for split, data in parts.items():
        frame = pd.DataFrame(_statistics(data.images))
        frame.insert(0, "split", split)
        frame.insert(1, "index", np.arange(len(data)))
        frame.insert(2, "label", data.labels)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    table["repeats"] = table.duplicated(["split", "sha256"])
    in_train = table["sha256"].isin(table.loc[table["split"] == "train", "sha256"])
    table["leaked"] = in_train & (table["split"] != "train")
    return table


def class_table(images: pd.DataFrame, classes: int, splits: tuple[str, ...] = SPLITS) -> pd.DataFrame:
    """Return one row per class of each split, with `CLASS_COLUMNS`; ``index`` is the class.

    ``imbalance`` is how many times larger the split's largest class is; empty for a class without images, which is
    for ``class-count`` to catch.
    """
    import pandas as pd

    rows = []
    for split in splits:
        labels = images.loc[(images["split"] == split) & images["label"].between(0, classes - 1), "label"]
        counts = np.bincount(labels, minlength=classes)
        rows += [(split, index, int(n), counts.max() / n if n else np.nan) for index, n in enumerate(counts)]
    return pd.DataFrame(rows, columns=list(CLASS_COLUMNS))


def suites(settings: Settings, dataset: str, classes: int, splits: tuple[str, ...] = SPLITS) -> dict[str, list[Any]]:
    """Return the named expectations on the table of images and on the table of classes."""
    expect = _gx().expectations
    columns = {"name": "columns", "expected": ", ".join(IMAGE_COLUMNS)}
    digest = {"name": "sha256", "expected": "64 hexadecimal digits"}
    images = [
        expect.ExpectTableColumnsToMatchOrderedList(column_list=list(IMAGE_COLUMNS), meta=columns),
        _among("split", list(splits)),
        _among("label", list(range(classes))),
        *(_within(name, name, *bounds) for name, bounds in settings.pixels_of(dataset)),
        expect.ExpectColumnValuesToMatchRegex(column="sha256", regex="^[0-9a-f]{64}$", meta=digest),
        *(_rarely(f"repeats-{split}", "repeats", split, settings.max_duplicates) for split in splits),
        *(_rarely(f"leaked-{split}", "leaked", split, settings.max_leaked) for split in splits if split != "train"),
    ]
    per_class = [
        _within("class-count", "images", settings.min_per_class, None),
        _within("class-balance", "imbalance", None, settings.max_imbalance),
    ]
    return {"images": images, "classes": per_class}


def check(
    table: pd.DataFrame,
    settings: Settings,
    dataset: str,
    classes: int,
    docs_folder: Path,
    splits: tuple[str, ...] = SPLITS,
) -> list[Outcome]:
    """Return the outcome of every expectation on a table of images, and write Data Docs into a folder."""
    tables = {"images": table, "classes": class_table(table, classes, splits)}
    expectations = suites(settings, dataset, classes, splits)
    results = _checkpoint(tables, expectations, docs_folder)
    by_name = {result.expectation_config.meta["name"]: (which, result) for which, result in results}
    names = [expectation.meta["name"] for suite in expectations.values() for expectation in suite]
    return [_outcome(*by_name[name], tables) for name in names]


def _gx() -> Any:
    """Return Great Expectations, imported so that it reports nothing to its makers."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # read at import
    import great_expectations
    import great_expectations.expectations.row_conditions

    return great_expectations


def _within(name: str, column: str, low: float | None, high: float | None) -> Any:
    expected = f"at most {high:g}" if low is None else f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
    meta = {"name": name, "expected": expected}
    return _gx().expectations.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, meta=meta)


def _rarely(name: str, column: str, split: str, share: float) -> Any:
    expect = _gx().expectations
    meta = {"name": name, "expected": f"at most {share:g} of the images of {split}"}
    return _gx().expectations.ExpectColumnValuesToBeInSet(
        column=column,
        value_set=[False],
        mostly=1 - share,
        row_condition=expect.row_conditions.Column("split") == split,
        meta=meta,
    )


def _among(name: str, values: list[Any]) -> Any:
    meta = {"name": name, "expected": f"one of {', '.join(map(str, values))}"}
    return _gx().expectations.ExpectColumnValuesToBeInSet(column=name, value_set=values, meta=meta)


def _statistics(images: Images) -> dict[str, Any]:
    flat = images.reshape(len(images), math.prod(images.shape[1:]))  # not -1: a split may be empty
    steps = [flat[start : start + _ROWS] for start in range(0, max(len(flat), 1), _ROWS)]
    digests = [hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in flat]
    return {
        "mean": np.concatenate([step.mean(axis=1) for step in steps]),
        "std": np.concatenate([step.std(axis=1) for step in steps]),
        "ink": np.concatenate([(step > 0).mean(axis=1) for step in steps]),
        "min": flat.min(axis=1).astype(np.int64),
        "max": flat.max(axis=1).astype(np.int64),
        "sha256": digests,
    }


def _checkpoint(
    tables: Mapping[str, pd.DataFrame], suites: Mapping[str, list[Any]], docs_folder: Path
) -> Iterator[tuple[str, Any]]:
    """Run one validation per table in a context that leaves nothing behind but Data Docs; yield (table, result)."""
    gx = _gx()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    _only_site(context, docs_folder)
    action = gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=[_SITE])
    result_format = {
        "result_format": "SUMMARY",
        "unexpected_index_column_names": ["split", "index"],
        "partial_unexpected_count": _MOST_EXAMPLES,
    }
    source = context.data_sources.add_pandas("tables")
    for name, suite in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        added = context.suites.add(gx.ExpectationSuite(name, expectations=suite))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=added))
        checkpoint = gx.Checkpoint(
            name=name, validation_definitions=[validation], actions=[action], result_format=result_format
        )
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": tables[name]})
        yield from ((name, result) for validated in run.run_results.values() for result in validated.results)


def _only_site(context: Any, folder: Path) -> None:
    """Make a folder the context's only site for Data Docs; the default one would leave a temporary folder behind."""
    for name in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(
        _SITE,
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(folder.resolve()),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )


def _outcome(which: str, result: Any, tables: Mapping[str, pd.DataFrame]) -> Outcome:
    config, found = result.expectation_config, result.result
    column = config.kwargs.get("column", "")
    named = "{split}[{index}]" if which == "images" else "{split} class {index}"
    return Outcome(
        name=config.meta["name"],
        expectation=config.type,
        column=column,
        expected=config.meta["expected"],
        passed=bool(result.success),
        observed=_observed(column, found, tables[which]),
        unexpected_count=int(found.get("unexpected_count", 0)),
        examples=tuple(named.format(**row) for row in found.get("partial_unexpected_index_list") or ()),
    )


def _observed(column: str, found: Mapping[str, Any], table: pd.DataFrame) -> dict[str, float]:
    """Return what was seen, rounded to six digits so that reports differ only where data does."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not column:
        return {"columns": float(table.shape[1])}
    if column not in table:
        return {}
    values = table[column].dropna()
    if is_numeric_dtype(values) and not is_bool_dtype(values) and len(values):
        return {"low": round(float(values.min()), 6), "high": round(float(values.max()), 6)}
    return {"unexpected": round(float(found.get("unexpected_percent") or 0.0) / 100, 6)}
