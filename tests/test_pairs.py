"""Two commands at once on one workspace: the result is that of one after the other.

Nothing here depends on how fast a machine is: a command is stopped at a point (by a named pipe, or by SIGSTOP once it
has printed a line), and goes on when the other has answered.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.datasets.arrays import load_splits
from pipeline.project import dvc, lock, params_edit, workspace

DVC = [sys.executable, "-m", "dvc"]
PIPELINE = [sys.executable, "-m", "pipeline.cli.main"]
POINT = (
    "{layers: 1, units: 16, batch_norm: false, dropout: 0, learning_rate: 0.003, batch_size: 64, weight_decay: 0.001}"
)
SETTINGS = [
    "datasets=[digits]",
    "families=[mlp]",
    "search.budget.digits={trials: 1, epochs: 2, trial_epochs: 1}",
    "search.presets=false",
    "train.seeds=1",
    f"mlp.space={POINT}",
]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command whose output comes line by line, standard error among it."""
    env = {**dvc.environment(folder), "PYTHONUNBUFFERED": "1"}
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], wanted: str) -> str:
    """Return what a process prints up to a line that matches."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(wanted, line):
            return "".join(lines)
    raise AssertionError(f"it ended with {process.wait()} and without {wanted!r}:\n{''.join(lines)}")


def rest(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return the exit code of a process and what else it prints."""
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def run(command: list[str], folder: Path) -> tuple[int, str]:
    return rest(start(command, folder))


def changed(folder: Path) -> set[str]:
    """Return the stages that DVC would run."""
    return dvc.changed_stages(folder)


# ---------------------------------------------------------------- the lock alone, without DVC

HOLD = """
import sys
from pathlib import Path
from pipeline.project import lock
with lock.hold(Path(), "pipeline retrain", wait_s=0):
    print("held", flush=True)
    input()
"""


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock of a folder in another process, until its standard input has a line."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        until(process, "held")
        yield process
        process.kill()


def test_a_second_command_names_the_first_and_waits_or_fails(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        named = rf"found `pipeline retrain` \(pid {first.pid}, since [-0-9T:+]+\)"
        with pytest.raises(lock.LockedError, match=named), lock.hold(tmp_path, "pipeline run", wait_s=0):
            pytest.fail("two hold it")
        lines: list[str] = []

        def release(line: str) -> None:
            lines.append(line)
            assert first.stdin
            first.stdin.write("\n")
            first.stdin.flush()

        with lock.hold(tmp_path, "pipeline run", log=release):
            assert first.wait(60) == 0  # it let go, and only then is it ours
            assert f"waiting for `pipeline retrain` (pid {first.pid}" in lines[0]
            with lock.hold(tmp_path, "pipeline ingest", wait_s=0):
                pass  # retrain and run take in batches themselves
            with pytest.raises(AssertionError, match="it ended with 1"), held(tmp_path):
                pytest.fail("the inner one let go")


def test_the_lock_of_a_killed_command_is_free(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        first.kill()
        first.wait()
        with lock.hold(tmp_path, "pipeline run", wait_s=0, log=pytest.fail):
            pass


# ---------------------------------------------------------------- prepare, stopped after it has read its inputs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose data is prepared; its prepare stage stops once at named pipes, if they are there."""
    folder = tmp_path_factory.mktemp("pairs") / "workspace"
    workspace.prepare(folder, SETTINGS)
    stage = folder / "pipeline/stages/prepare.py"
    text, stop = stage.read_text(), "    near = near_duplicates(args."
    assert stop in text
    barrier = (
        'if Path("reached").exists():\n        Path("reached").open("w").close()\n        Path("go").read_text()\n'
    )
    stage.write_text(text.replace(stop, f"    {barrier}{stop}"))
    code, output = run([*DVC, "repro", "prepare"], folder)
    assert code == 0, output
    return folder


@contextmanager
def stopped_in_prepare(folder: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """Reproduce prepare with another seed, and stop it between reading and writing; it goes on after the block."""
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params_edit.override(text, [f"prepare.seed={seed}"]))
    for pipe in ("reached", "go"):
        os.mkfifo(folder / pipe)
    process = start([*DVC, "repro", "prepare"], folder)
    (folder / "reached").read_text()
    yield process
    (folder / "reached").unlink()
    (folder / "go").write_text("")
    (folder / "go").unlink()


def put_batch(folder: Path, seed: int) -> None:
    """Leave a batch of digits moved by a pixel."""
    train = load_splits(folder / "data/prepared/digits").train
    chosen = np.random.default_rng(seed).permutation(len(train))[:120]
    images = np.roll(train.images[chosen], 1, axis=1 + seed % 2)
    (folder / "data/incoming/digits").mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"data/incoming/digits/batch{seed}.npz", images=images, labels=train.labels[chosen])


@pytest.mark.slow
def test_ingest_beside_prepare_counts_in_the_next_prepare(prepared: Path) -> None:
    put_batch(prepared, 3)
    with stopped_in_prepare(prepared, 1) as repro:
        ingest = start([*PIPELINE, "ingest"], prepared)
        until(ingest, "waiting for a stage of `dvc repro` to end")
    counts_in_the_next_prepare(prepared, repro, ingest, 1)


BEGUN = """
import pathlib, sys
from pipeline.cli.main import main
from pipeline.retraining import ingest

def reference(places, real=ingest._reference):
    answer = real(places)
    print("the batch is about to be judged", flush=True)
    pathlib.Path("judge").read_text()
    return answer

ingest._reference = reference
sys.argv = ["pipeline", "ingest"]
main()
"""


@pytest.mark.slow
def test_a_batch_accepted_while_prepare_runs_counts_in_the_next_prepare(prepared: Path) -> None:
    put_batch(prepared, 4)
    os.mkfifo(prepared / "judge")
    ingest = start([sys.executable, "-c", BEGUN], prepared)
    until(ingest, "about to be judged")
    with stopped_in_prepare(prepared, 2) as repro:
        (prepared / "judge").write_text("")
        until(ingest, r"waiting for .*dvc.* repro prepare.*, which reads .*reports/ingest/digits")
    counts_in_the_next_prepare(prepared, repro, ingest, 2)


def counts_in_the_next_prepare(
    folder: Path, repro: subprocess.Popen[str], ingest: subprocess.Popen[str], batches: int
) -> None:
    for process in (repro, ingest):
        code, output = rest(process)
        assert code == 0, output
    assert "1 accepted" in output
    assert len(load_splits(folder / "data/prepared/digits").batches) == batches - 1
    assert "prepare@digits" in changed(folder)
    code, output = run([*DVC, "repro", "prepare"], folder)
    assert code == 0, output
    assert len(load_splits(folder / "data/prepared/digits").batches) == batches
    assert "prepare@digits" not in changed(folder)


def append_a_batch(folder: Path) -> None:
    (folder / "reports/ingest/digits/appended.json").write_text("{}")


def edit_params(folder: Path) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params_edit.override(text, ["prepare.val_fraction=0.2"]))


def edit_source(folder: Path) -> None:
    with (folder / "pipeline/validation/near_duplicates.py").open("a") as file:
        file.write("# edited\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "edit", "found"),
    [
        (5, append_a_batch, "reports/ingest/digits/appended.json"),
        (6, edit_params, "prepare in params.yaml"),
        (7, edit_source, "pipeline/validation/near_duplicates.py"),
    ],
)
def test_an_edit_beside_prepare_fails_it_and_dvc_records_nothing(
    prepared: Path, seed: int, edit: Callable[[Path], None], found: str
) -> None:
    before = (prepared / "dvc.lock").read_bytes()
    with stopped_in_prepare(prepared, seed) as repro:
        edit(prepared)
    code, output = rest(repro)
    assert code != 0
    assert "error: prepare@digits: its inputs changed while it ran:" in output
    assert f"found a change in {found};" in output
    assert (prepared / "dvc.lock").read_bytes() == before
    assert "prepare@digits" in changed(prepared)
    (prepared / "reports/ingest/digits/appended.json").unlink(missing_ok=True)  # later tests prepare here, too


@pytest.mark.slow
def test_retrain_force_beside_repro_is_locked_and_raises_nothing(prepared: Path) -> None:
    with stopped_in_prepare(prepared, 8) as repro:
        retrain = start([*PIPELINE, "retrain", "--force"], prepared)
        code, output = rest(retrain)
        assert code == 12, output
        assert re.search(r"locked: .*found a stage of `dvc repro`.*nothing was changed", output)
        assert params(prepared)["search"]["generation"] == 1
    code, output = rest(repro)
    assert code == 0, output


def params(folder: Path) -> dict[str, dict[str, int]]:
    return YAML(typ="safe").load(folder / "params.yaml")


# ---------------------------------------------------------------- two commands of ours


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def run_command(folder: Path, *settings: str) -> list[str]:
    options = [part for setting in (*SETTINGS, *settings) for part in ("-S", setting)]
    return [*PIPELINE, "run", "--workspace", str(folder), *options]


@contextmanager
def paused(process: subprocess.Popen[str], line: str) -> Iterator[None]:
    """Stop a process and all below it when it has printed a line, and let it go on after the block."""
    until(process, line)
    os.killpg(process.pid, signal.SIGSTOP)
    yield
    os.killpg(process.pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_with_other_seeds_give_the_result_of_the_second(fresh: Path) -> None:
    folder = fresh
    root = Path(__file__).resolve().parents[1]
    first = start(run_command(folder, "search.seed=21"), root)
    with paused(first, "Running stage 'search"):
        second = start(run_command(folder, "search.seed=22"), root)
        until(second, r"waiting for `pipeline run --workspace .*` \(pid \d+, since ")
    code, output = rest(first)
    assert code == 0, output
    code, output = rest(second)
    assert code == 0, output
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    assert stages["search@digits-mlp"]["params"]["params.yaml"]["search"]["seed"] == 22
    seeds = {path.name for path in (folder / "data/studies").iterdir()}
    assert len(seeds) == 2
    alone = fresh.parent / "alone"
    assert run(run_command(alone, "search.seed=22"), root)[0] == 0
    best = [json.loads((f / "reports/search/digits/mlp/best.json").read_text()) for f in (folder, alone)]
    assert best[0] == best[1]
    assert changed(folder) == set()
    shutil.rmtree(alone)
    retrain_beside_ingest(folder)


def retrain_beside_ingest(folder: Path) -> None:
    """Ingest waits for a retraining, and what it accepts is learnt from by the next one."""
    put_batch(folder, 3)
    with held(folder) as other:
        ingest = start([*PIPELINE, "ingest"], folder)
        until(ingest, "waiting for `pipeline retrain`")
        assert other.stdin
        other.stdin.write("\n")
        other.stdin.flush()
        code, output = rest(ingest)
    assert code == 0, output
    assert run([*PIPELINE, "retrain"], folder)[0] in (0, 10)
    assert len(load_splits(folder / "data/prepared/digits").batches) == 1
    assert changed(folder) == set()
