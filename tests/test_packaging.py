"""What a stranger installs: pinned, hashed, from whatever registry their machine is set up for."""

import ensurepip
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))

# Joined here, so that this file does not hold what it looks for.
REGISTRY = re.compile(
    "|".join([r"py" + r"pi\.org", r"python" + r"hosted", r"py" + r"pi\.python", r"anaconda" + r"\.org"])
)
HOME = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work|opt)/\w")


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def pinned(name: str) -> list[Requirement]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return [Requirement(line.rstrip(" \\")) for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_tracked_file_names_a_registry_or_a_folder_of_one_machine():
    wrong = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="ignore")
        for pattern in (REGISTRY, HOME):
            wrong += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not wrong


def test_git_tracks_no_large_file():
    assert not {path.name: path.stat().st_size for path in tracked() if path.stat().st_size > 1_000_000}


@pytest.mark.parametrize("name", PINS)
def test_every_requirement_is_pinned_to_a_version_and_has_a_hash(name: str):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert len(blocks) == len(pinned(name)) > 0
    for block in blocks:
        assert re.match(r"[\w.-]+==[\w.+!]+( ;.*)? \\\n    --hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_pins_hold_what_pyproject_asks_for(name: str):
    pins: dict[str, list[Requirement]] = {}
    for pin in pinned(name):
        pins.setdefault(canonical(pin.name), []).append(pin)
    for line in [*PROJECT["dependencies"], *EXTRAS[name], *GROUPS["dev"]]:
        requirement = Requirement(line)
        assert canonical(requirement.name) in pins, f"{line} is not pinned; next: make lock"
        for pin in pins[canonical(requirement.name)]:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{line}, pinned {version}; next: make lock"


@pytest.mark.parametrize("name", ["gpu", "jax", "ray"])
def test_sets_agree_with_each_other(name: str):
    cpu = {(canonical(pin.name), str(pin.marker or "")): str(pin.specifier) for pin in pinned("cpu")}
    differ = [
        f"{pin.name}{pin.specifier}"
        for pin in pinned(name)
        if cpu.get((canonical(pin.name), str(pin.marker or "")), str(pin.specifier)) != str(pin.specifier)
    ]
    assert not differ, "make lock"


def test_cpu_and_gpu_never_hold_the_same_files_twice():
    assert not any(pin.name.startswith("nvidia-") for pin in pinned("cpu"))
    assert "tensorflow-cpu" not in {pin.name for pin in pinned("gpu")}
    whole, cpu_only = (
        next(pin for pin in pinned("cpu") if pin.name == name) for name in ("tensorflow", "tensorflow-cpu")
    )
    for system in ("linux", "darwin", "win32"):
        for machine in ("x86_64", "aarch64", "arm64"):
            here = {"sys_platform": system, "platform_machine": machine}
            assert whole.marker is not None
            assert cpu_only.marker is not None
            assert whole.marker.evaluate(here) != cpu_only.marker.evaluate(here), here


def test_the_pythons_of_the_package_are_those_that_ci_runs():
    allowed = SpecifierSet(PROJECT["requires-python"])
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    for minor in range(9, 16):
        version = f"3.{minor}"
        named = f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
        assert allowed.contains(f"{version}.1") == named == (f'"{version}"' in ci), version


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path):
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / "dist" / done.stdout.splitlines()[-1]) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("pipeline/")}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline").rglob("*") if path.is_file()}
    assert packed == {name for name in files if "__pycache__" not in name}
    assert "pipeline/reporting/templates/page.html.j2" in packed


def test_the_license_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("fails", ["", "lint", "test", "test-slow"])
def test_ci_runs_what_contributors_run_and_stops_at_a_failure(tmp_path: Path, fails: str):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "make").write_text('#!/bin/sh\necho "$1" >> ran\ntest "$1" != "$FAILS"\n')
    (tmp_path / "make").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILS": fails}
    done = subprocess.run([tmp_path / ".ci/run"], cwd=ROOT, env=env, check=False)
    assert (done.returncode != 0) == bool(fails)
    runs = ["lint", "test", "test-slow"]
    assert (tmp_path / "ran").read_text().splitlines() == runs[: runs.index(fails) + 1 if fails else None]
    for target in runs:
        assert f"make {target}" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_prints_help_and_installs_nothing(tmp_path: Path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-all", "test-changed", "repro", "ui", "lint"):
        assert f"make {target} " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_with_the_wrong_python_ends_with_one_line(tmp_path: Path):
    for name in ("Makefile", "pyproject.toml", "requirements"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    old = tmp_path / "oldpython"
    old.write_text('#!/bin/sh\ntest "$1" = --version && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is not Python 3.11, 3.12 or 3.13 (Python 3.8.1)" in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


@pytest.fixture(scope="module")
def bare_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose `make install` fetches a uv from a local folder, which only lists what it is called with."""
    folder = tmp_path_factory.mktemp("install")
    (folder / "requirements").mkdir()
    (folder / "wheels").mkdir()
    wheel = folder / "wheels/uv-1.0-py3-none-any.whl"
    files = {
        "uv-1.0.data/scripts/uv": '#!/bin/sh\necho "$*" >> uv-calls\n',
        "uv-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 1.0\n",
        "uv-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["uv-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, "uv-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o755) << 16
            archive.writestr(info, text)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (folder / "requirements/uv.txt").write_text(f"uv==1.0 --hash=sha256:{digest}\n")
    (folder / "requirements/cpu.txt").touch()
    (folder / "pyproject.toml").touch()
    shutil.copy(ROOT / "Makefile", folder)
    bundled = list((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if bundled:  # installed by hand, which takes a tenth of the time
        venv.create(folder / ".venv", symlinks=True, with_pip=False)
        site = next(folder.glob(".venv/lib/*/site-packages"))
        with zipfile.ZipFile(bundled[0]) as archive:
            archive.extractall(site)
    return folder


def installed(folder: Path, file: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `make install` in a project without uv, with lines of pip's configuration and variables of its own."""
    for path in (*folder.glob(".venv/lib/*/site-packages/uv-*"), *folder.glob(".venv/.installed-*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / ".venv/bin/uv").unlink(missing_ok=True)
    (folder / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = wheels\n[install]\n{file}\n")
    command = ["make", "--no-print-directory", "install", f"PYTHON={sys.executable}"]
    others = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    env = {**others, "PIP_CONFIG_FILE": "pip.conf", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ({"PIP_USER": "1", "PIP_TARGET": "elsewhere", "PIP_PREFIX": "elsewhere", "PIP_ROOT": "elsewhere"}, ""),
        ({}, "user = true\ntarget = elsewhere\nprefix = elsewhere\nroot = elsewhere"),
        *(
            pytest.param({name: "1"}, f"{option} = elsewhere", marks=pytest.mark.slow)
            for name, option in (("PIP_USER", "target"), ("PIP_TARGET", "prefix"), ("PIP_PREFIX", "root"))
        ),
    ],
)
def test_settings_of_pip_do_not_install_elsewhere(environment: dict[str, str], file: str, bare_install: Path):
    done = installed(bare_install, file, **environment)
    assert done.returncode == 0, done.stderr
    assert (bare_install / ".venv/bin/uv").exists()
    assert {path.name for path in bare_install.iterdir() if path.is_dir()} == {".venv", "requirements", "wheels"}
    assert len(list(bare_install.glob(".venv/.installed-*"))) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_without_uv_one_line_shows_where_to_look(bare_install: Path):
    done = installed(bare_install, "dry-run = true")
    line = "error: pip did not install uv: expected .venv/bin/uv; next: .venv/bin/python -m pip config list"
    assert done.stderr.splitlines()[0] == line
    assert not list(bare_install.glob(".venv/.installed-*"))
    advice = line.partition("next: ")[2].split()
    env = {**os.environ, "PIP_CONFIG_FILE": "pip.conf"}
    listed = subprocess.run(advice, cwd=bare_install, env=env, capture_output=True, text=True, check=True)
    assert "install.dry-run='true'" in listed.stdout
