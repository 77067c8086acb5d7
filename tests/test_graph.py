"""The architecture, checked: what a stage can import is what DVC watches, and no import points the wrong way.

DVC reruns a stage when one of its `deps` changes. Code that is loaded but not listed changes results silently; code
that is listed but not loaded reruns a stage for nothing. Which package may import which stands in pyproject.toml
(`[tool.importlinter]`).
"""

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import Stage
from ruamel.yaml import YAML

from pipeline.core import stage_inputs
from tests.import_graph import FAMILIES, ROOT, choices, closure, families, graph, loads, named, path_of

PACKAGE = ROOT / "pipeline"
STAGES = {"download", "validate", "prepare", "features", "search", "train", "evaluate", "register", "report"}
CHOSEN = ("pipeline/models/families", "pipeline/datasets/formats", "pipeline/evaluation")  # one of many is loaded
FLOORS = ["cli", "retraining", "project", "stages", "search", "models evaluation registry reporting validation",
          "datasets executors tracking backend artifacts serving", "core"]  # fmt: skip
HEAVY = {"tensorflow", "keras", "mlflow", "great_expectations", "optuna", "matplotlib", "pandas", "sklearn", "dvc"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> list[Stage]:
    """Every stage as DVC itself reads it, for all datasets and families, those not chosen in params.yaml too."""
    root = tmp_path_factory.mktemp("graph")
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["datasets"], params["families"] = sorted(params["download"]), sorted(families())
    yaml.dump(params, root / "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", root)
    with Repo.init(str(root), no_scm=True) as repo:
        return list(repo.index.stages)


def name_of(stage: Stage) -> tuple[str, str | None]:
    """Return the module and the family of a stage, as its command names them."""
    module = re.match(r"python3 -m pipeline\.stages (\w+) ", stage.cmd)
    family = re.search(r"--family (\S+)", stage.cmd)
    assert module, f"{stage.name}: cmd does not start with `python3 -m pipeline.stages <stage>`: {stage.cmd}"
    return module[1], family[1] if family else None


def code_of(stage: Stage) -> set[str]:
    """Return the files and folders of code that a stage depends on."""
    return {dep.def_path for dep in stage.deps if dep.def_path.startswith("pipeline/")}


def covered(file: str, deps: set[str]) -> bool:
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


def test_deps_cover_what_a_stage_can_import_and_nothing_else(stages: list[Stage]):
    faults = []
    for stage in stages:
        name, family = name_of(stage)
        deps = code_of(stage)
        missing = [dep for dep in deps if not (ROOT / dep).exists()]
        faults += [f"{stage.name}: {dep} does not exist" for dep in missing]
        loaded = {str(path_of(module)) for module in closure(name, family)}
        faults += [f"{stage.name}: add {file}, which it loads" for file in sorted(loaded) if not covered(file, deps)]
        # One list of deps serves every family: what no family loads in this stage has no place in it.
        others = {str(path_of(m)) for each in (families() if family else ()) for m in closure(name, each)}
        idle = [dep for dep in deps if not any(covered(file, {dep}) for file in loaded | others)]
        faults += [f"{stage.name}: remove {dep}, never loaded" for dep in sorted(idle)]
    assert not faults, "deps in dvc.yaml:\n" + "\n".join(faults)


def test_a_stage_watches_the_inputs_that_dvc_records(stages: list[Stage], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for stage in (each for each in stages if "digits" in each.cmd or each.name == "report"):
        declared = stage_inputs.declared(shlex.split(stage.cmd)[3:])
        assert declared
        assert declared.name == stage.name
        params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
        assert sorted(declared.settings) == sorted(name for dep in params for name in dep.params)
        assert sorted(map(str, declared.deps)) == sorted(d.def_path for d in stage.deps if d not in params)


def test_a_folder_among_deps_never_holds_other_families_formats_or_tasks(stages: list[Stage]):
    for stage in stages:
        wide = [dep for dep in code_of(stage) for chosen in CHOSEN if covered(chosen, {dep})]
        assert not wide, f"{stage.name}: name the files of {wide} one by one"
        watched = {family for family in families() for dep in code_of(stage) if f"/families/{family}" in dep}
        assert watched <= {name_of(stage)[1]}, f"{stage.name} depends on the families {sorted(watched)}"


@pytest.mark.parametrize(
    ("package", "stage", "own"),
    [
        ("reporting", "report", {"page.html.j2", "dataset.html.j2", "family.html.j2", "style.css", "sort.js"}),
        ("validation", "validate", {"images.html.j2", "style.css"}),
    ],
)
def test_a_changed_template_reruns_the_stage_that_renders_it_and_no_other(
    package: str, stage: str, own: set[str], tmp_path: Path
):
    shutil.copytree(PACKAGE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        code = [(each, dep) for each in repo.index.stages for dep in each.deps if dep.def_path.startswith("pipeline/")]
        for _, dep in code:
            dep.save()
        assert not [dep for _, dep in code if dep.workspace_status()]
    files = [path for path in (tmp_path / "pipeline" / package / "templates").iterdir() if path.is_file()]
    assert own <= {path.name for path in files}
    for path in files:
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}\n", encoding="utf-8")
        changed = {name_of(each)[0] for each, dep in code if dep.workspace_status()}
        assert changed == {stage}, f"{path.name}: {sorted(changed)} would run again"
        path.write_text(text, encoding="utf-8")


def test_package_files_hold_only_a_docstring():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, f"{path.relative_to(ROOT)} holds more or less than a docstring"
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*command, "--no-cache"], cwd=root, capture_output=True, text=True, check=False)


def test_text_is_read_and_written_as_utf_8_whatever_the_locale():
    faults = []
    for path in PACKAGE.rglob("*.py"):
        for call in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
            name = ast.unparse(call.func).rpartition(".")[2]
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            own = isinstance(call.func, ast.Name) or ast.unparse(call.func).startswith(
                ("files.", "Image.", "gzip.", "os.")
            )
            mode = "".join(str(value.value) for value in call.args if isinstance(value, ast.Constant))
            text = name in ("read_text", "write_text") or (
                name == "open" and set(mode) & set("wax") and "b" not in mode
            )
            if "encoding" not in keywords and ((text and not own) or getattr(keywords.get("text"), "value", 0) is True):
                faults.append(f"{path.relative_to(ROOT)}:{call.lineno}: no encoding")
    assert not faults


def test_imports_point_one_way(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    right = lint_imports(tmp_path)
    assert right.returncode == 0, right.stdout
    errors = tmp_path / "pipeline/core/errors.py"
    for wrong, contract in (
        ("import pipeline.search.trials", "floors"),
        ("import pipeline.core.params", "no circles"),
        ("import great_expectations", "owners of great_expectations"),
    ):
        text = (ROOT / "pipeline/core/errors.py").read_text()
        errors.write_text(f"{text}\n\ndef _late() -> None:\n    {wrong}\n")
        found = lint_imports(tmp_path)
        assert found.returncode == 1
        assert f"{contract} BROKEN" in found.stdout


def test_a_module_that_is_loaded_by_a_name_lies_on_no_higher_floor():
    floor = {package: place for place, packages in enumerate(FLOORS) for package in packages.split()}
    loaded = [(name, other) for name in graph().modules if "." in name for other in loads(name) if "." in other]
    assert len(loaded) > 8
    wrong = [
        f"{name} loads {other}"
        for name, other in loaded
        if floor[other.split(".")[1]] < floor[name.split(".")[1]]
        and name != "pipeline.executors.fork_server"  # preloads what lies beside it
    ]
    assert not wrong, "\n".join(wrong)


def test_help_loads_nothing_heavy():
    code = "import sys, pipeline.cli.main as m\ntry: m.main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pipeline" in found.stdout
    assert not HEAVY & set(found.stderr.split())


def test_a_stage_has_one_name_everywhere(stages: list[Stage]):
    names = {stage.name.split("@")[0] for stage in stages}
    assert names == STAGES == {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__", "__main__"}
    for stage in stages:
        name = stage.name.split("@")[0]
        assert name_of(stage)[0] == name, f"{stage.name} runs another module"
        for out in stage.outs:
            folder = Path(out.def_path).parts[1]
            assert Path(out.def_path).parts[0] != "reports" or folder in (name, "index.html"), (
                f"{stage.name} writes {out.def_path}, under another stage's name"
            )


def test_every_section_of_params_has_an_owner():
    sections = set(YAML(typ="safe").load(ROOT / "params.yaml"))
    unknown = sections - STAGES - families() - {"datasets", "families", "runtime"}
    assert not unknown, f"params.yaml: no stage or family is called {sorted(unknown)}"
    assert families() <= sections, f"params.yaml: no section for the families {sorted(families() - sections)}"


# ---------------------------------------------------------------- does it bite?


def test_a_task_for_workers_leads_to_the_family_and_to_no_other():
    assert "pipeline.models.families.cnn.architectures.fast" in closure("search", "cnn")
    assert "pipeline.models.training.task" in closure("search", "cnn")  # named in a string
    assert not any(name.startswith(f"{FAMILIES}.cnn") for name in closure("search", "mlp"))


def test_formats_and_tasks_count_where_they_can_be_loaded():
    assert "pipeline.datasets.formats.idx" in closure("prepare", None)
    assert "pipeline.datasets.formats.idx" not in closure("search", "mlp")
    assert "pipeline.evaluation.generate" in closure("register", None)
    assert "pipeline.evaluation.generate" not in closure("search", "gan")
    assert "pipeline.serving.classifier" in closure("train", "mlp")
    assert not any(name.startswith("pipeline.serving") for name in closure("search", "mlp"))
    assert choices("pipeline.evaluation", None) == {
        f"pipeline.evaluation.{task}" for task in ("classify", "complete", "generate")
    }


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import importlib\nimportlib.import_module(f'pipeline.core.{name}')", {"pipeline.core"}),
        ("from importlib import import_module\nimport_module('pipeline.core.params')", {"pipeline.core.params"}),
        ("work = 'pipeline.core.params:load'", {"pipeline.core.params"}),
        ("work = 'pipeline.core.unknown:load'", set()),
        ("import importlib\nimportlib.import_module('ray')", set()),
    ],
)
def test_names_in_strings_are_followed(code: str, found: set[str]):
    assert set(named(code, {"pipeline.core.params"})) == found


def test_a_name_that_cannot_be_followed_is_refused():
    with pytest.raises(AssertionError, match="unknown which modules"):
        set(named("import importlib\nimportlib.import_module(f'{1}.x')", set()))


def test_the_picture_of_the_architecture_is_what_the_imports_give():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    assert drawing.draw() == drawing.PICTURE.read_text(encoding="utf-8"), "run python docs/draw_architecture.py"


def test_the_map_in_contributing_leads_to_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| W")]
    assert len(rows) >= 20
    missing = [name for row in rows for name in re.findall(r"`(pipeline/[\w/.]+)`", row) if not (ROOT / name).is_file()]
    assert not missing
    assert all(re.search(r"`pipeline/[\w/.]+\.py`", row) for row in rows)
