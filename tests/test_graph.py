"""The architecture, checked: what a stage can import is what DVC watches, and no import points the wrong way.

DVC reruns a stage when one of its `deps` changes. Code that is loaded but not listed changes results silently; code
that is listed but not loaded reruns hours of search for nothing. Both fail here, with the line to add or to remove.
"""

import ast
import functools
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import Stage
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"

# ---------------------------------------------------------------- the table: who may import whom

BASE = {"atomic", "code_digest", "errors", "params", "entry"}
PARTS = {"datasets", "engine", "gate", "leaderboard", "models", "page", "progress", "runtime", "serving", "study"}
PARTS |= {"accepted", "bars", "batches", "expectations", "fetch", "images", "judge", "patience", "provenance"}
PARTS |= {"pretrained", "record", "registry", "scores", "seeds", "sources", "tracking", "transfer"}
PARTS |= {
    "budget",
    "cost",
    "diagrams",
    "drawing",
    "definition",
    "halving",
    "leader",
    "loop",
    "points",
    "sampling",
    "shelf",
}
PARTS |= {"training", "trials"}
STAGES = {"download", "validate", "prepare", "features", "search", "train", "evaluate", "register", "report"}
COMMANDS = {"check", "doctor", "ingest", "own", "presets", "retrain", "workspace"}

# A new module of pipeline/ is placed here; a package counts as one.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "atomic": set(),
    "code_digest": set(),
    "params": {"errors"},
    "entry": {"errors"},
    "runtime": BASE,
    "progress": BASE | {"budget", "cost"},
    "bars": BASE,
    "patience": BASE,
    "sources": BASE | {"datasets", "patience"},
    "transfer": BASE | {"patience"},
    "fetch": BASE | {"datasets", "patience", "sources", "transfer"},
    "datasets": BASE | {"datasets"},
    "images": BASE | {"images", "datasets"},
    "expectations": BASE,  # knows tables, not images
    "gate": BASE | {"datasets", "expectations", "images"},
    "batches": BASE | {"datasets"},
    "accepted": BASE | {"batches", "datasets"},
    "judge": BASE | {"accepted", "datasets", "expectations", "gate", "images"},
    "models": BASE | {"models", "datasets"},  # families know neither the study nor MLflow
    "engine": BASE | {"budget", "datasets", "engine", "runtime"},  # gets its tasks by name
    "training": BASE | {"engine", "models", "runtime"},
    "budget": BASE,
    "definition": BASE,
    "loop": BASE | {"budget", "cost", "engine", "models", "progress", "record", "study", "trials"},
    "cost": BASE | {"budget"},
    "drawing": BASE,
    "diagrams": BASE | {"drawing", "trials"},
    "shelf": BASE,
    "trials": BASE | {"models"},
    "points": BASE | {"models"},
    "halving": BASE | {"leader", "trials"},
    "leader": BASE | {"trials"},
    "sampling": BASE | {"budget", "points"},
    "study": BASE
    | {"models", "datasets", "engine", "budget", "definition", "halving", "leader", "points", "sampling", "trials"},
    "scores": BASE | {"scores", "datasets", "models"},  # knows no family: answers are scored, whoever gave them
    "tracking": BASE | {"datasets"},  # knows no family
    "record": BASE | {"study", "tracking", "trials"},  # mirrors one into the other
    "provenance": BASE,
    "registry": BASE | {"tracking"},
    "seeds": BASE | {"engine", "models"},
    "pretrained": BASE | {"registry", "tracking"},
    "leaderboard": BASE,
    "page": BASE | {"page", "leaderboard"},  # shows what files say, and computes nothing that they do not
    "serving": BASE | {"datasets", "models", "runtime", "tracking"},
    **dict.fromkeys(STAGES, BASE | PARTS),  # stages never import stages
    **dict.fromkeys(COMMANDS, BASE | PARTS | COMMANDS),
    "check": BASE | PARTS | STAGES,  # reads every section of params with its owner's settings
    "cli": BASE | PARTS | STAGES | COMMANDS,
}

# A heavy or replaceable library has owners; nobody else imports it.
OWNERS: dict[str, set[str]] = {
    "great_expectations": {"expectations"},
    "mlflow": {"tracking", "registry", "serving"},
    "optuna": {"study", "loop", "sampling"},
    "keras": {"models", "runtime", "serving", "evaluate"},
    "tensorflow": {"models", "runtime", "serving", "evaluate"},
    "jax": {"models", "runtime"},
    "torch": {"models", "runtime"},
    "ray": {"engine"},
    "matplotlib": {"images", "diagrams", "drawing"},
}

# `pipeline --help` loads these modules, and must not load these libraries.
LIGHT_MODULES = {"cli", "entry", "params", "errors"}
HEAVY_LIBRARIES = {"tensorflow", "keras", "mlflow", "great_expectations", "optuna", "matplotlib", "pandas", "sklearn"}

# ---------------------------------------------------------------- what a module loads


@dataclass
class Scope:
    """A top-level function or class of a module, or what is outside of them all."""

    mentions: set[str] = field(default_factory=set)  # dotted names of functions and classes of this package
    loads: set[str] = field(default_factory=set)  # packages of which a module is loaded by a name known at run time


@dataclass
class Module:
    """What a module can load."""

    imports: set[str] = field(default_factory=set)  # modules of this package, imported anywhere
    named: set[str] = field(default_factory=set)  # modules given as a string, as tasks are: "pipeline.models.rung:run"
    imports_first: set[str] = field(default_factory=set)  # those imported as soon as the module is
    libraries: set[str] = field(default_factory=set)
    libraries_first: set[str] = field(default_factory=set)
    scopes: dict[str, Scope] = field(default_factory=dict)  # "" is outside of functions and classes


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def parsed(name: str) -> Module:
    """Return what a module can load; of a module that does not exist, nothing."""
    path = modules().get(name)
    if path is None:
        return Module()
    reader = _Reader(name, set(modules()))
    reader.read(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    return reader.module


class _Reader:
    """Reads one module's syntax tree."""

    _NAMES_MODULE = re.compile(r"(pipeline(?:\.\w+)+)(?::\w+)?")

    def __init__(self, name: str, known: set[str]) -> None:
        self.name, self.known, self.module = name, known, Module()
        self.bound: dict[str, str] = {}  # local name -> what it stands for

    def read(self, tree: ast.Module) -> None:
        for node in _walk(tree, into_functions=True):
            self._bind(node)
        own = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
        self.bound |= {name: f"{self.name}.{name}" for name in own}
        for statement in tree.body:
            inside = getattr(statement, "name", "") if getattr(statement, "name", "") in own else ""
            scope = self.module.scopes.setdefault(inside, Scope())
            for node in _walk(statement, into_functions=True):
                self._note(node, scope)
        for node in _walk(tree, into_functions=False):
            here, libraries = self._imported(node)
            self.module.imports_first |= here
            self.module.libraries_first |= libraries

    def _bind(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            self.bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def _note(self, node: ast.AST, scope: Scope) -> None:
        here, libraries = self._imported(node)
        self.module.imports |= here
        self.module.libraries |= libraries
        if isinstance(node, ast.Name | ast.Attribute):
            scope.mentions.add(self._dotted(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            named = self._NAMES_MODULE.fullmatch(node.value)
            if named and named[1] in self.known:
                self.module.named.add(named[1])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            self._note_loaded(node, scope)

    def _note_loaded(self, call: ast.Call, scope: Scope) -> None:
        asked = call.args[0]
        if isinstance(asked, ast.Constant):
            self.module.libraries |= {str(asked.value).split(".")[0]} - {"pipeline"}
        elif isinstance(asked, ast.JoinedStr):
            first = asked.values[0]
            prefix = str(first.value) if isinstance(first, ast.Constant) else ""
            assert prefix.removesuffix(".") in self.known, (
                f"{self.name}:{call.lineno}: cannot tell which modules {ast.unparse(call)} loads; "
                "expected import_module(f'pipeline.<package>.{name}')"
            )
            scope.loads.add(prefix.removesuffix("."))

    def _imported(self, node: ast.AST) -> tuple[set[str], set[str]]:
        """Return the modules of this package, and the other libraries, that a statement imports."""
        if isinstance(node, ast.Import):
            asked = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{self.name}:{node.lineno}: relative import"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            package = modules().get(str(node.module), ROOT).name == "__init__.py"  # holds modules and nothing else
            asked = below if package else {str(node.module)}
        else:
            return set(), set()
        here = {name for name in asked if name.split(".")[0] == "pipeline"}
        return here, {name.split(".")[0] for name in asked - here}

    def _dotted(self, node: ast.Name | ast.Attribute) -> str:
        first, *rest = ast.unparse(node).split(".")
        return ".".join([self.bound.get(first, ""), *rest])


def _walk(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    """Yield what runs: no docstrings, nothing under `if TYPE_CHECKING`, and no annotations."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.orelse:
            yield from _walk(child, into_functions=into_functions)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not into_functions:
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child, into_functions=into_functions)


# ---------------------------------------------------------------- what a stage loads


def families() -> set[str]:
    """Return the families: packages of pipeline/models with a module `family`."""
    return {path.parent.name for path in (PACKAGE / "models").glob("*/family.py")}


@functools.cache
def closure(stage: str, family: str | None) -> set[str]:
    """Return every module that `python -m pipeline.<stage>` can load, itself included.

    An import counts wherever it stands. A module loaded by a name known at run time counts when the function that
    loads it can be reached: `search` uses `datasets.base`, but never calls the function that loads a source format.
    """
    todo, seen = {f"pipeline.{stage}"}, set[str]()
    whole = set(todo)  # modules of which any function may be called: no import shows which
    while todo:
        seen |= todo
        whole |= {other for name in seen for other in parsed(name).named}
        loaded = {f"{package}.{choice}" for package in _loaded(seen, whole) for choice in _choices(package, family)}
        whole |= loaded
        todo = (whole | {other for name in seen for other in parsed(name).imports}) - seen
    return seen - {name for name, path in modules().items() if path.name == "__init__.py"}


def _choices(package: str, family: str | None) -> set[str]:
    if package == "pipeline.models":
        return {f"{name}.family" for name in ({family} if family else families())}
    return {path.stem for path in (ROOT / package.replace(".", "/")).glob("*.py")} - {"__init__", "base"}


def _loaded(seen: set[str], whole: set[str]) -> set[str]:
    """Return the packages of which the reachable functions load a module by name."""
    scopes = {
        (f"{name}.{inside}" if inside else name): scope
        for name in seen
        for inside, scope in parsed(name).scopes.items()
    }
    reached = {key for key in scopes if key in seen or key.rpartition(".")[0] in whole}
    while True:
        mentioned = {dotted for key in reached for dotted in scopes[key].mentions}
        grown = reached | {
            key for key in scopes if any(dotted == key or dotted.startswith(f"{key}.") for dotted in mentioned)
        }
        if grown == reached:
            return {package for key in reached for package in scopes[key].loads}
        reached = grown


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
    module = re.search(r"python -m pipeline\.(\w+)", stage.cmd)
    family = re.search(r"--family (\S+)", stage.cmd)
    assert module, f"{stage.name}: cmd does not start with `python -m pipeline.<stage>`: {stage.cmd}"
    return module[1], family[1] if family else None


def code_of(stage: Stage) -> set[str]:
    """Return the code files that a stage depends on; a folder of code stands for the files in it."""
    paths = {dep.def_path for dep in stage.deps if dep.def_path.startswith("pipeline/")}
    folders = {path for path in paths if not path.endswith(".py")}
    below = {str(file.relative_to(ROOT)) for folder in folders for file in (ROOT / folder).rglob("*.py")}
    return (paths - folders) | {file for file in below if not file.endswith("__init__.py")}


# ---------------------------------------------------------------- tests


def test_every_module_that_is_named_exists(stages: list[Stage]):
    files = {file: stage.name for stage in stages for file in code_of(stage)}
    missing = [f"dvc.yaml: {stage} names {file}" for file, stage in files.items() if not (ROOT / file).exists()]
    for name in modules():
        missing += [f"{name} imports {other}" for other in sorted(parsed(name).imports - set(modules()))]
    assert not missing, "no such module:\n" + "\n".join(missing)


def test_deps_are_exactly_what_a_stage_can_import(stages: list[Stage]):
    faults = []
    for stage in stages:
        name, family = name_of(stage)
        if f"pipeline.{name}" not in modules():
            faults.append(f"{stage.name}: pipeline/{name}.py does not exist")
            continue
        loads = {f"{module.replace('.', '/')}.py" for module in closure(name, family)}
        faults += [f"{stage.name}: add {file}, which it loads" for file in sorted(loads - code_of(stage))]
        # One list of deps serves every family: what no family loads in this stage has no place in it.
        others = {path.replace(".", "/") + ".py" for f in (families() if family else ()) for path in closure(name, f)}
        faults += [f"{stage.name}: remove {file}, never loaded" for file in sorted(code_of(stage) - loads - others)]
    assert not faults, "deps in dvc.yaml:\n" + "\n".join(faults)


def test_editing_one_family_reruns_no_other(stages: list[Stage]):
    for stage in stages:
        watched = {family for family in families() for file in code_of(stage) if f"/models/{family}/" in file}
        assert watched <= {name_of(stage)[1]}, f"{stage.name} depends on the families {sorted(watched)}"


def test_package_files_hold_only_a_docstring():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) <= 1, f"{path.relative_to(ROOT)} holds code, which no stage has among its deps"
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def _place(name: str) -> str:
    place = name.split(".")[1]
    assert place in MAY_IMPORT, f"{name} is new: place {place!r} in MAY_IMPORT of tests/test_graph.py"
    return place


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {other}"
        for name, place in {name: _place(name) for name in modules() if name != "pipeline"}.items()
        for other in sorted(parsed(name).imports - {"pipeline", name})
        if _place(other) not in MAY_IMPORT[place]
    ]
    assert not wrong, "MAY_IMPORT of tests/test_graph.py forbids:\n" + "\n".join(wrong)


def test_only_its_owners_import_a_library():
    wrong = [
        f"{name} imports {library}, which belongs to {', '.join(sorted(OWNERS[library]))}"
        for name in modules()
        if name != "pipeline"
        for library in sorted(parsed(name).libraries & set(OWNERS))
        if _place(name) not in OWNERS[library]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("light", sorted(LIGHT_MODULES))
def test_nothing_heavy_is_imported_before_it_is_needed(light: str):
    todo, seen = {f"pipeline.{light}"} & set(modules()), set[str]()
    assert todo, f"pipeline/{light}.py does not exist"
    while todo:
        seen |= todo
        todo = {other for name in todo for other in parsed(name).imports_first} - seen
    heavy = {name: sorted(parsed(name).libraries_first & HEAVY_LIBRARIES) for name in seen}
    assert not {name: found for name, found in heavy.items() if found}


def test_a_stage_has_one_name_everywhere(stages: list[Stage]):
    names = {stage.name.split("@")[0] for stage in stages}
    assert names == STAGES, "stages of dvc.yaml"
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


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package in which every way of loading a module occurs once."""
    files = {
        "__init__.py": "",
        "models/__init__.py": "",
        "datasets/__init__.py": "",
        "models/base.py": "import importlib\n"
        "def load(name):\n    return importlib.import_module(f'pipeline.models.{name}.family')",
        "models/mlp/__init__.py": "",
        "models/cnn/__init__.py": "",
        "models/rung.py": "from pipeline.models import base\ndef run():\n    base.load('mlp')",
        "models/mlp/family.py": "class Family:\n    def build(self):\n        from pipeline import deep",
        "models/cnn/family.py": "class Family: ...",
        "datasets/base.py": "from importlib import import_module\nclass Splits: ...\n"
        "def source(name):\n    return import_module(f'pipeline.datasets.{name}')",
        "datasets/idx.py": "",
        "deep.py": "import mlflow",
        "quiet.py": "",
        "prepare.py": "from pipeline.datasets.base import source\ndef run():\n    source('idx')",
        "search.py": "from typing import TYPE_CHECKING\nfrom pipeline.datasets.base import Splits\n"
        "if TYPE_CHECKING:\n    from pipeline import quiet\n"
        "def run():\n    'Calls pipeline.quiet.'\n    'pipeline.quiet'\n    return 'pipeline.models.rung:run'",
    }
    for name, text in files.items():
        (tmp_path / "pipeline" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pipeline" / name).write_text(text)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "pipeline")
    parsed.cache_clear()
    closure.cache_clear()
    yield tmp_path
    parsed.cache_clear()
    closure.cache_clear()


def test_a_task_given_by_name_leads_to_the_family_and_what_its_methods_import(small: Path):
    names = {name.removeprefix("pipeline.") for name in closure("search", "mlp")}
    assert names == {"search", "datasets.base", "models.rung", "models.base", "models.mlp.family", "deep"}


def test_another_family_leads_to_its_own_module(small: Path):
    assert "pipeline.models.cnn.family" in closure("search", "cnn")
    assert not {"pipeline.models.mlp.family", "pipeline.deep"} & closure("search", "cnn")


def test_a_format_counts_where_the_function_that_loads_it_is_called(small: Path):
    assert "pipeline.datasets.idx" in closure("prepare", None)
    assert "pipeline.datasets.idx" not in closure("search", "mlp")


def test_a_library_imported_in_a_method_is_seen(small: Path):
    assert parsed("pipeline.deep").libraries_first == {"mlflow"}
    assert parsed("pipeline.models.mlp.family").imports == {"pipeline.deep"}
    assert parsed("pipeline.models.mlp.family").imports_first == set()


def test_a_name_that_cannot_be_followed_is_refused(small: Path):
    (small / "pipeline" / "quiet.py").write_text("import importlib\nimportlib.import_module(f'{1}.x')")
    with pytest.raises(AssertionError, match="cannot tell which modules"):
        parsed("pipeline.quiet")
