"""Stage `download`: fetch a dataset's files and check each against its pin.

Candidates are tried in order: the ``sources`` of params.yaml with pins of their own, MIRROR from the environment (a
folder or URL, laid out ``<dataset>/<file>``), then the mirrors of params.yaml. Files are fetched side by side to a
partial folder and only a complete, verified set becomes the output, so that an interrupted run fetches only what is
missing, and nothing unverified is ever read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import params, process
from pipeline.core.errors import DownloadError
from pipeline.core.files import new_folder
from pipeline.datasets.arrays import Pin, PinnedFile, SourceSettings
from pipeline.datasets.download import fetch
from pipeline.datasets.download.progress_bars import Bars
from pipeline.datasets.download.sources import Candidate, Environment, candidates
from pipeline.datasets.download.timeouts import Unavailable, WaitBudget

_NOTHING_TO_FETCH = "This dataset is drawn from its settings in params.yaml.\n"
_AT_ONCE = 4  # files; chosen: more would be impolite to a mirror
_NOTHING = Environment()
_OFFLINE = (
    "offline? `make demo` runs on embedded data, or set MIRROR=<folder or URL laid out <dataset>/<file>> and run again"
)
_ONLINE = (
    "correct download's mirrors in params.yaml, or set MIRROR=<folder or URL laid out <dataset>/<file>>; another"
    " edition of the file needs an entry in download's sources with its own sha256"
)


class DownloadSettings(SourceSettings, extra="ignore"):
    """The dataset's section under ``download``; keys that its format declares beside are for the format to check."""


@dataclass(frozen=True)
class DownloadResult:
    """The verified files of a dataset, and where each came from (``kept`` for one that was there already)."""

    folder: Path
    sources: dict[str, str]


@dataclass(frozen=True)
class FetchedFile:
    """A verified file: where it lies, and where it came from."""

    path: Path
    source: str


def run(
    dataset: str, settings: DownloadSettings, partial: Path, output: Path, around: Environment = _NOTHING
) -> DownloadResult:
    """Make `output` hold exactly the pinned files, as served.

    Args:
        dataset: Its name, a folder of MIRROR.
        settings: Pins, sources and mirrors.
        partial: Where files lie until all are there; never inside an output.
        output: Appears whole or not at all.
        around: What sources and mirrors are added to and relative to.

    Raises:
        DownloadError: No source has a file, or only files that do not match the pin.
    """
    if not settings.files:
        with new_folder(output) as folder:
            (folder / "README.txt").write_text(_NOTHING_TO_FETCH, encoding="utf-8")  # DVC warns of an empty output
        return DownloadResult(output, {})
    partial.mkdir(parents=True, exist_ok=True)
    got = _get_all(dataset, settings, partial, output, around)
    if {one.path.parent for one in got.values()} != {output} or {path.name for path in output.iterdir()} != set(got):
        with new_folder(output) as folder:
            for name, one in got.items():
                _link(one.path, folder / name)
    for name in got:
        for path in (partial / name, *partial.glob(f"{name}.*.part*")):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else lies there: not ours to remove
        partial.rmdir()
    return DownloadResult(output, {name: one.source for name, one in got.items()})


def _get_all(
    dataset: str, settings: DownloadSettings, partial: Path, output: Path, around: Environment
) -> dict[str, FetchedFile]:
    """Return the verified files; a file that fails does not stop the others, an interrupt stops all."""
    patience = WaitBudget()
    with Bars() as bars, futures.ThreadPoolExecutor(_AT_ONCE) as pool:

        def get(pin: PinnedFile) -> FetchedFile:
            tried = candidates(dataset, pin, settings, around)
            kept = present(pin.name, [pin, *(candidate.pin for candidate in tried)], [output, partial])
            return FetchedFile(kept, "kept") if kept else _fetch(dataset, tried, partial / pin.name, patience, bars)

        waiting = {pin.name: pool.submit(get, pin) for pin in settings.files}
        try:
            futures.wait(waiting.values())
        except KeyboardInterrupt:
            patience.over.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {name: future.result() for name, future in waiting.items()}


def present(name: str, pins: list[Pin], folders: list[Path]) -> Path | None:
    """Return where a file that meets a pin lies already, or None when it is needed; files are hashed, not trusted."""
    paths = [path for path in (folder / name for folder in folders) if path.is_file()]
    different = {pin.sha256: pin for pin in pins}.values()
    return next((path for path in paths if any(fetch.mismatch(path, pin) is None for pin in different)), None)


def _fetch(dataset: str, tried: list[Candidate], target: Path, patience: WaitBudget, bars: Bars) -> FetchedFile:
    """Return the file of the first candidate that meets its pin; it then lies at `target`."""
    refused: list[str] = []
    unreachable = False
    for candidate, following in zip(tried, [*tried[1:], None], strict=True):
        show = bars.add(target.name, candidate.pin.bytes)
        try:
            fetch.obtain(candidate, target, patience, show)
        except Unavailable as error:
            unreachable = unreachable or error.unreachable
            refused.append(f"{candidate} ({error})")
            if following is not None:
                message = f"{dataset}: {target.name} from {candidate}: {error}; next mirror: {following}"
                sys.stderr.write(f"{message}\n")  # at once, unlike print: other threads write too
        except OSError as error:
            place = target.parent
            raise DownloadError(
                f"{dataset}: {target.name} cannot be written to {place}", found=error.strerror, next_step="free space"
            ) from None
        else:
            return FetchedFile(target, str(candidate))
    raise DownloadError(
        f"{dataset}: {target.name} is at none of its {len(tried)} sources: {', '.join(refused)}",
        next_step=_OFFLINE if unreachable else _ONLINE,
    )


def _link(source: Path, target: Path) -> None:
    """Give a verified file its place without copying where the file system allows; the partial stays until the end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.stages.download", description=run.__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--partial", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    settings = params.load(f"download.{args.dataset}", DownloadSettings)
    around = Environment(os.environ.get("MIRROR"), Path(os.environ.get("PIPELINE_TYPED_IN", "")))
    result = run(args.dataset, settings, args.partial, args.output, around)
    for name, source in result.sources.items():
        print(f"{args.dataset}: {name} verified ({source})")


if __name__ == "__main__":
    process.stage(main)
