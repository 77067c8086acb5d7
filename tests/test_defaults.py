"""params.yaml is the one source of defaults: what it sets has no default in a settings model, or the same one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest

from pipeline.core import params
from pipeline.datasets.source_format import source_format
from pipeline.models import loading
from pipeline.project import check

FILE = Path(__file__).parents[1] / "params.yaml"
PARAMS = params.read(FILE)
OWNERS = check._owners()


def defaults(model: type[pydantic.BaseModel], section: dict[str, Any], name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys that a section sets and for which its model has a default: name, value, default."""
    loaded = model.model_validate(section)
    for key, raw in section.items():
        field, value = type(loaded).model_fields[key], getattr(loaded, key)
        if not field.is_required():
            yield f"{name}.{key}", value, field.get_default(call_default_factory=True)
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        for entry, nested in inner:
            if isinstance(nested, pydantic.BaseModel):
                where = f"{name}.{key}" if entry is None else f"{name}.{key}.{entry}"
                yield from defaults(type(nested), raw if entry is None else raw[entry], where)


@pytest.mark.parametrize("section", sorted(OWNERS))
def test_a_setting_that_stands_in_params_has_no_default_in_its_model(section: str):
    assert [name for name, _, _ in defaults(OWNERS[section], PARAMS[section], section)] == []


@pytest.mark.parametrize("section", sorted(OWNERS))
def test_every_required_setting_stands_in_params(section: str):
    required = {name for name, field in OWNERS[section].model_fields.items() if field.is_required()}
    assert required == set(PARAMS[section])


@pytest.mark.parametrize("family", sorted(loading.family_names()))
def test_params_and_the_model_of_a_family_agree(family: str):
    model = type(loading.load(family, PARAMS[family])).Settings
    # Dimensions of the space are for params to narrow: nothing narrowed is their default.
    free = {f"{family}.space", f"{family}.space_for"}
    wrong = [(name, *both) for name, *both in defaults(model, PARAMS[family], family) if name not in free]
    assert [found for found in wrong if found[1] != found[2]] == []


@pytest.mark.parametrize("dataset", sorted(PARAMS["download"]))
def test_what_a_dataset_of_params_leaves_to_its_format_is_not_set_there_to_something_else(dataset: str):
    section = PARAMS["download"][dataset]
    pinned = {"mirrors", "files", "sources"}  # a dataset's own
    found = defaults(source_format(section["format"]).Settings, section, f"download.{dataset}")
    ours = [each for each in found if not pinned & set(each[0].split("."))]
    assert [name for name, value, default in ours if value != default] == []


def test_a_default_beside_params_is_found():
    class Section(params.Settings):
        seeds: int = 1

    assert list(defaults(Section, {"seeds": 2}, "train")) == [("train.seeds", 2, 1)]
