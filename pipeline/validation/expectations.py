"""Expectations: builds them, runs suites and writes Data Docs. Only this module imports Great Expectations.

Every expectation has a unique name, which reports and tests use, and a failure lists the rows that did not meet it. A
failure of severity ``warning`` is reported and does not stop the pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]

_MOST_ROWS = 25  # listed for each expectation: as many as a person reads
_SITE = "docs"


@dataclass(frozen=True)
class Outcome:
    """The result of one expectation.

    `observed` contains numbers only: the lowest and highest value of a numeric column, the share of rows that did not
    meet the expectation, or the number of columns. `rows` lists at most 25 of the rows that did not meet it, as split
    and index. The index is that of a class if `of_classes` is set. `details` describes what was found by
    name, such as the files, or both images of a pair; `pairs` holds those as positions in all splits one after another.
    `setting` is the setting of params that decides, with its line.
    """

    name: str
    expectation: str
    column: str
    expected: str
    passed: bool
    severity: Severity
    observed: Mapping[str, float]
    unexpected_count: int
    rows: tuple[tuple[str, int], ...]
    of_classes: bool
    details: tuple[str, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    setting: str = ""

    @property
    def stops(self) -> bool:
        """Whether the outcome stops the pipeline."""
        return not self.passed and self.severity == "critical"

    @property
    def examples(self) -> tuple[str, ...]:
        """At most five details, or ten rows in readable form: ``test[17]``, ``train class 3``."""
        if self.details:
            return self.details[:5]
        named = "{} class {}" if self.of_classes else "{}[{}]"
        return tuple(named.format(*row) for row in self.rows[:10])

    @property
    def found(self) -> str:
        """How many images or classes were found, their examples, and the observed numbers."""
        more = ", …" if self.unexpected_count > len(self.examples) else ""
        named = f"{self.unexpected_count:,}: {', '.join(self.examples)}{more}" if self.examples else ""
        numbers = ", ".join(f"{key} {value:g}" for key, value in self.observed.items() if key != "unexpected")
        return "; ".join(text for text in (named, numbers) if text) or "nothing to judge"

    @property
    def wanted(self) -> str:
        """What was expected, and the setting that decides."""
        return f"{self.expected} ({self.setting})" if self.setting else self.expected


def columns(names: tuple[str, ...]) -> Any:
    """Expect a table to have exactly these columns, in this order."""
    meta = {"name": "columns", "expected": ", ".join(names)}
    return _gx().expectations.ExpectTableColumnsToMatchOrderedList(column_list=list(names), meta=meta)


def among(name: str, values: list[Any]) -> Any:
    """Expect every value of the column `name` to be one of `values`."""
    meta = {"name": name, "expected": f"one of {', '.join(map(str, values))}"}
    return _gx().expectations.ExpectColumnValuesToBeInSet(column=name, value_set=values, meta=meta)


def matching(name: str, regex: str, expected: str) -> Any:
    """Expect every value of the column `name` to match `regex`."""
    meta = {"name": name, "expected": expected}
    return _gx().expectations.ExpectColumnValuesToMatchRegex(column=name, regex=regex, meta=meta)


@dataclass(frozen=True)
class Limit:
    """How many rows of a split may miss an expectation: at most `most` of `images`.

    That is a `share` of them, and as many more as chance gives if it is ``by_chance``.
    """

    split: str
    images: int
    most: int
    share: float
    by_chance: bool = True

    @property
    def text(self) -> str:
        """The limit as text: ``at most 3 of the 90 images of train (a share of 0.005, beyond chance)``."""
        beyond = f" (a share of {self.share:g}{', beyond chance' if self.by_chance else ''})" if self.share else ""
        return f"at most {self.most:,} of the {self.images:,} images of {self.split}{beyond}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The limit as arguments of an expectation."""
        mostly = 1 - self.most / self.images - 1e-9 if self.most else 1.0  # a share, rounded: GX compares it exactly
        return {"mostly": max(0.0, mostly), "row_condition": _of_split(self.split)}


def within(
    name: str,
    column: str,
    low: float | None,
    high: float | None,
    limit: Limit | None = None,
    severity: Severity = "critical",
) -> Any:
    """Expect all values of a column to be within bounds, or all but some of those of one split."""
    expected = f"at most {high:g}" if low is None else f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
    if limit:
        expected += f" for the other images, and outside of it {limit.text}"
    meta = {"name": name, "expected": expected}
    between = _gx().expectations.ExpectColumnValuesToBeBetween
    chosen = limit.arguments if limit else {}
    return between(column=column, min_value=low, max_value=high, severity=severity, meta=meta, **chosen)


def rarely(name: str, column: str, limit: Limit, severity: Severity = "critical") -> Any:
    """Expect a column to be false for all but some of the rows of a split."""
    return _gx().expectations.ExpectColumnValuesToBeInSet(
        column=column,
        value_set=[False],
        severity=severity,
        meta={"name": name, "expected": limit.text},
        **limit.arguments,
    )


def never(name: str, column: str, expected: str, severity: Severity = "critical") -> Any:
    """Expect a column to be false in every row."""
    meta = {"name": name, "expected": expected}
    between = _gx().expectations.ExpectColumnValuesToBeInSet
    return between(column=column, value_set=[False], severity=severity, meta=meta)


def run(tables: Mapping[str, pd.DataFrame], suites: Mapping[str, list[Any]], docs_folder: Path | None) -> list[Outcome]:
    """Return the outcome of every expectation, in the order of the suites; optionally write Data Docs to a folder."""
    by_name = {
        result.expectation_config.meta["name"]: _outcome(which, result, tables[which])
        for which, result in _checkpoint(tables, suites, docs_folder)
    }
    return [by_name[expectation.meta["name"]] for suite in suites.values() for expectation in suite]


def _gx() -> Any:
    """Return Great Expectations, imported with its usage analytics off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # read at import
    import great_expectations
    import great_expectations.expectations.row_conditions

    return great_expectations


def _of_split(split: str) -> Any:
    return _gx().expectations.row_conditions.Column("split") == split


def _checkpoint(
    tables: Mapping[str, pd.DataFrame], suites: Mapping[str, list[Any]], docs_folder: Path | None
) -> Iterator[tuple[str, Any]]:
    """Run one validation per table in a temporary context and yield (table, result); only Data Docs are kept."""
    gx = _gx()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    _only_site(context, docs_folder)
    actions = [gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=[_SITE])] if docs_folder else []
    result_format = {
        "result_format": "SUMMARY",
        "unexpected_index_column_names": ["split", "index"],
        "partial_unexpected_count": _MOST_ROWS,
    }
    source = context.data_sources.add_pandas("tables")
    for name, suite in suites.items():
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        added = context.suites.add(gx.ExpectationSuite(name, expectations=suite))
        validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=added))
        checkpoint = gx.Checkpoint(
            name=name, validation_definitions=[validation], actions=actions, result_format=result_format
        )
        ran = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": tables[name]})
        yield from ((name, result) for validated in ran.run_results.values() for result in validated.results)


def _only_site(context: Any, folder: Path | None) -> None:
    """Set a folder, or none, as the only Data Docs site; the default site leaves a temporary folder behind."""
    for name in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(name)
    if folder is None:
        return
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


def _outcome(which: str, result: Any, table: pd.DataFrame) -> Outcome:
    config, found = result.expectation_config, result.result
    column = config.kwargs.get("column", "")
    rows = found.get("partial_unexpected_index_list") or ()
    return Outcome(
        name=config.meta["name"],
        expectation=config.type,
        column=column,
        expected=config.meta["expected"],
        passed=bool(result.success),
        severity="warning" if str(getattr(config.severity, "value", config.severity)) == "warning" else "critical",
        observed=_observed(column, found, table),
        unexpected_count=int(found.get("unexpected_count", 0)),
        rows=tuple((str(row["split"]), int(row["index"])) for row in rows),
        of_classes=which == "classes",
    )


def _observed(column: str, found: Mapping[str, Any], table: pd.DataFrame) -> dict[str, float]:
    """Return the observed numbers, rounded to six digits so that reports differ only where the data differs."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not column:
        return {"columns": float(table.shape[1])}
    if column not in table:
        return {}
    values = table[column].dropna()
    if is_numeric_dtype(values) and not is_bool_dtype(values) and len(values):
        return {"low": round(float(values.min()), 6), "high": round(float(values.max()), 6)}
    return {"unexpected": round(float(found.get("unexpected_percent") or 0.0) / 100, 6)}
