"""Changes in params.yaml that keep its comments and every other line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from pipeline.core import params
from pipeline.core.errors import ParamsError, nearest
from pipeline.core.files import rewrite_text


def override(text: str, overrides: Iterable[str]) -> str:
    """Return the text of a params file with some settings changed, comments kept.

    Args:
        text: A params file.
        overrides: ``search.seed=1`` or ``datasets=[mnist]``: a dotted key, and a value as YAML.

    Raises:
        ParamsError: The text is no YAML, or a setting has no ``=``, no YAML as its value, or unknown parents.
    """
    yaml = _round_trip()
    try:
        content = yaml.load(text)
    except params.YAML_FAULTS as error:
        raise params.not_yaml(params.PARAMS_FILE, text, error) from None
    for setting in overrides:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ParamsError("-S", expected="key=value", found=repr(setting))
        *parents, last = key.strip().split(".")
        place = content
        for parent in parents:
            if not isinstance(place, Mapping) or parent not in place:
                known = [str(name) for name in place] if isinstance(place, Mapping) else []
                raise ParamsError(f"-S {setting}: no such section", expected=nearest(parent, known), found=repr(parent))
            place = place[parent]
        if not isinstance(place, Mapping):
            raise ParamsError(f"-S {setting}", expected=f"{'.'.join(parents)} to be a section", found=repr(place))
        try:
            place[last] = YAML(typ="safe").load(value)  # type: ignore[index]
        except params.YAML_FAULTS as error:
            raise ParamsError(f"-S {setting}: not a value", expected="YAML", found=str(error)) from None
    return _dump(yaml, content)


def commented(section: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return a section as YAML text in which each setting is a line, with its comment."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
    notes = [f"  # {comments[key]}" if key in comments else "" for key in section]
    return "".join(f"{line}{note}\n" for line, note in zip(lines, notes, strict=True))


def with_dataset(text: str, name: str, section: str, overrides: Iterable[str]) -> str:
    """Return the text of a params file with one more dataset, comments kept.

    Args:
        text: A params file.
        name: The dataset's name; its section comes first under ``download``.
        section: Its section as YAML, which keeps its comments.
        overrides: Further settings; see `override`.
    """
    yaml = _round_trip()
    content = yaml.load(override(text, overrides))
    selected = CommentedSeq(content["datasets"])
    selected.fa.set_flow_style()
    content["datasets"] = selected
    content["download"].insert(0, name, yaml.load(section))
    return _dump(yaml, content)


def next_generation(path: Path = params.PARAMS_FILE) -> int:
    """Raise ``search.generation`` in a params file by one, and return it.

    The caller holds DVC's write lock of the file (`dvc_lock.writing`): a stage that runs has the old generation.
    """
    generation = int(params.section("search.generation", path)) + 1
    rewrite_text(path, override(path.read_text(encoding="utf-8"), [f"search.generation={generation}"]))
    return generation


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.width = 10_000  # never break a line that the author did not
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(yaml: YAML, content: Any) -> str:
    buffer = StringIO()
    yaml.dump(content, buffer)
    return buffer.getvalue()
