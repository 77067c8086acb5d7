"""Loads a section of params.yaml into the settings model that its owner declares.

Every stage, family and dataset format declares its own `Settings`; nothing here knows any of them, so a new one
changes no shared file. YAML is read as DVC reads it (YAML 1.2: ``1e-3`` is a number, ``no`` is a string).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.core.conflicts import conflict
from pipeline.core.errors import ParamsError, nearest, shown

PARAMS_FILE = Path("params.yaml")
YAML_FAULTS = (  # of a text that is no YAML: besides its own errors, the parser lets these out
    YAMLError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
Seed = Annotated[int, pydantic.Field(ge=0, lt=1 << 128)]  # of more than 32 bits: hashed, see `core.seeds`
_NUMBERS: set[Any] = {int, float}
_held: dict[Path, dict[str, Any]] = {}


class Settings(pydantic.BaseModel):
    """Base of every settings model: unknown keys are errors, values never change after loading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Refuse yes and no where a number belongs: Python takes them for 1 and 0."""
        field = cls.model_fields.get(info.field_name or "")
        if isinstance(value, bool) and field is not None and {field.annotation} <= _NUMBERS:
            raise PydanticCustomError("number", "a number")
        return value


S = TypeVar("S", bound=Settings)


def read(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Return the whole of a params file as plain dicts and lists.

    Raises:
        ParamsError: The file is missing, cannot be read, is not YAML, or is not a mapping.
    """
    if _held and (held := _held.get(path.resolve())) is not None:
        return copy.deepcopy(held)
    return read_again(path)


def hold(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read a params file, and let every later `read` in this process return the same content."""
    _held[path.resolve()] = read_again(path)
    return read(path)


def read_again(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """Return the content that a params file has now, held or not; see `read`."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        loaded = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise ParamsError(
            f"{path} is missing", expected="a params file", next_step="run from the project's root"
        ) from None
    except OSError as error:
        raise ParamsError(
            f"{path} cannot be read", found=error.strerror, next_step="let this user read it, as a file"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not text", expected="UTF-8", found=str(error)) from None
    except YAML_FAULTS as error:
        raise not_yaml(path, text, error) from None
    if not isinstance(loaded, dict):
        raise ParamsError(f"{path}", expected="a mapping of sections", found=type(loaded).__name__)
    return loaded


def not_yaml(path: Path, text: str, error: Exception) -> ParamsError:
    """Return the error of a file that YAML cannot parse; a merge conflict is named as such."""
    if found := conflict(text):
        return ParamsError(f"{path} is not valid YAML", found=found, next_step="resolve it")
    return ParamsError(f"{path} is not valid YAML", found=str(error))


def section(dotted: str, path: Path = PARAMS_FILE) -> Any:
    """Return the raw value under a dotted name such as ``download.mnist``."""
    value: Any = read(path)
    walked: list[str] = []
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            where = ".".join(walked) or str(path)
            known = [str(k) for k in value] if isinstance(value, Mapping) else []
            raise ParamsError(f"{path}: {where} has no {key!r}", expected=nearest(key, known), found=repr(key))
        value = value[key]
        walked.append(key)
    return value


def line(dotted: str, path: Path = PARAMS_FILE) -> str:
    """Return a dotted name with the line of the params file that sets it: ``validate.max_leaked, params.yaml line 59``.

    It is the name alone if the file has no such line.
    """
    if not dotted:
        return ""
    try:
        node: Any = YAML().compose(path.read_text(encoding="utf-8"))
        number = 0
        for key in dotted.split("."):
            name, node = next((name, value) for name, value in node.value if name.value == key)
            number = name.start_mark.line + 1
    except (OSError, StopIteration, *YAML_FAULTS):
        return dotted
    return f"{dotted}, {path.name} line {number}"


def load(dotted: str, model: type[S], path: Path = PARAMS_FILE) -> S:
    """Return a section as its owner's settings.

    Args:
        dotted: Name of the section: ``search``, ``download.mnist``.
        model: The settings model that the section must fit.
        path: The params file.

    Raises:
        ParamsError: The section is missing, or a key in it is unknown, missing, of the wrong type or out of range.
    """
    return parse(dotted, section(dotted, path), model, path)


def parse(dotted: str, value: Any, model: type[S], path: Path = PARAMS_FILE) -> S:
    """Return a raw value as settings; see `load`."""
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
    where = ".".join([dotted, *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = _fields_at(model, first["loc"][:-1])
        raise ParamsError(f"{path}: unknown key {where}", expected=nearest(key, known), found=repr(key))
    if first["type"] == "missing":
        raise ParamsError(f"{path}: {where} is missing", expected="a value", found="nothing")
    raise ParamsError(
        f"{path}: {where} is wrong", expected=first["msg"].removeprefix("Value error, "), found=shown(first["input"])
    )


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a settings model accepts at a place inside it, following nested models and mappings."""
    current = model
    for part in location:
        if isinstance(current, type) and issubclass(current, pydantic.BaseModel) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
        arguments = getattr(current, "__args__", ())
        models = [a for a in arguments if isinstance(a, type) and issubclass(a, pydantic.BaseModel)]
        current = models[0] if models else current
    return list(current.model_fields) if hasattr(current, "model_fields") else []
