"""What changes the identity of a study, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.code_digest import code_digest, imported_files
from pipeline.models import loading

CODE = '''"""What it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.models import recipe

if TYPE_CHECKING:
    import keras

RATE = 0.1  # of learning


def build(units: int, deep: bool) -> keras.Model | None:
    """Build it."""
    for _ in range(units + 1):
        if deep and units > 3:
            return load(f"pipeline.models.families.cnn.{units}", recipe.STEPS)
    return None
'''


def digest(folder: Path, text: str, name: str = "family.py") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return code_digest([folder / name])


SAME = {
    "docstring": ('"""Build it."""', '"""Build the network.\n\n    In full.\n    """'),
    "no docstring": ('    """Build it."""\n', ""),
    "module docstring": ('"""What it is."""\n', ""),
    "comment": ("  # of learning", "  # chosen"),
    "layout": ("range(units + 1)", "range(\n        units\n        + 1,\n    )"),
    "quotes": ('f"pipeline', "f'pipeline"),
    "import": ("from pipeline.models import recipe", "from pipeline.models.training import recipe"),
    "import for types": ("    import keras", "    import keras\n    import optuna"),
    "another folder in a name": ("pipeline.models.families.cnn.", "pipeline.networks.cnn."),
}
OTHER = {
    "constant": ("0.1", "0.2"),
    "its type": ("= 0.1", "= '0.1'"),
    "operator": ("units + 1", "units - 1"),
    "comparison": ("units > 3", "units >= 3"),
    "logic": ("deep and", "deep or"),
    "attribute": ("recipe.STEPS", "recipe.EPOCHS"),
    "order": ("units: int, deep: bool", "deep: bool, units: int"),
    "return": ("return None", "return build"),
    "nesting": ("    return None\n", "        return None\n"),
    "another module in a name": ("pipeline.models.families.cnn.", "pipeline.models.families.rnn."),
}


@pytest.mark.parametrize("change", SAME)
def test_prose_layout_and_place_leave_it(change: str, tmp_path: Path) -> None:
    before, after = SAME[change]
    assert CODE.count(before) >= 1
    changed = CODE.replace(before, after)
    if change == "quotes":
        changed = changed.replace('{units}"', "{units}'")
    assert digest(tmp_path / "old", CODE) == digest(tmp_path / "new/folder", changed)


@pytest.mark.parametrize("change", OTHER)
def test_what_code_does_changes_it(change: str, tmp_path: Path) -> None:
    before, after = OTHER[change]
    assert CODE.count(before) >= 1
    assert digest(tmp_path / "old", CODE) != digest(tmp_path / "new", CODE.replace(before, after))


def test_files_count_by_what_is_in_them(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.py", "b.py", "c.py")]
    for place, file in enumerate(files):
        file.write_text(f"A = {place}\n")
    whole = code_digest(files)
    assert code_digest(reversed(files)) == whole
    assert code_digest(files[:2]) != whole
    files[0].rename(tmp_path / "moved.py")
    assert code_digest([tmp_path / "moved.py", *files[1:]]) == whole
    files[2].write_text("A = 20\n")  # in the same process
    assert code_digest([tmp_path / "moved.py", *files[1:]]) != whole


@pytest.mark.parametrize("family", ["mlp", "gan"])
def test_a_training_is_decided_by_what_it_imports_and_by_no_other_family(family: str) -> None:
    loaded = loading.load(family, {})
    files = imported_files(loaded.sources(), ("models",))
    names = {path.stem for path in files}
    assert {"family", "presets", "base", "space"} <= names
    assert ("classifier" in names) == (family == "mlp")
    assert {path.parent.name for path in files if path.name == "family.py"} == {family}
    assert loading.training_digest(loaded) != loading.training_digest(loading.load("knn", {}))
