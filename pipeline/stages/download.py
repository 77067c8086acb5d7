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
from typing import TYPE_CHECKING

from pipeline.core import names, params, process
from pipeline.core.addresses import redacted
from pipeline.core.errors import DownloadError
from pipeline.core.files import new_folder
from pipeline.datasets.arrays import PinnedFile, SourceSettings
from pipeline.datasets.download import fetch
from pipeline.datasets.download.http import HttpClient, Limits
from pipeline.datasets.download.sources import Candidate, Environment, Unavailable, candidates

if TYPE_CHECKING:
    from rich.progress import Progress

_NOTHING_TO_FETCH = "This dataset is drawn from its settings in params.yaml.\n"
_AT_ONCE = 4  # files; chosen: more would be impolite to a mirror
_NOTHING = Environment()
_LIMITS = Limits()
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
    dataset: str,
    settings: DownloadSettings,
    partial: Path,
    output: Path,
    around: Environment = _NOTHING,
    limits: Limits = _LIMITS,
) -> DownloadResult:
    """Make `output` hold exactly the pinned files, as served.

    Args:
        dataset: Its name, a folder of MIRROR.
        settings: Pins, sources and mirrors.
        partial: Folder of files until all are complete; never inside an output.
        output: Folder of the files; it appears whole or not at all.
        around: MIRROR, and the folder that relative paths start from.
        limits: How long to wait for servers.

    Raises:
        DownloadError: No source has a file, or only files that do not match the pin.
    """
    if not settings.files:
        with new_folder(output) as folder:
            (folder / "README.txt").write_text(_NOTHING_TO_FETCH, encoding="utf-8")  # DVC warns of an empty output
        return DownloadResult(output, {})
    partial.mkdir(parents=True, exist_ok=True)
    files = _get_all(dataset, settings, partial, output, around, HttpClient(limits))
    complete = all(file.path.parent == output for file in files.values())
    if not complete or {path.name for path in output.iterdir()} != set(files):
        with new_folder(output) as folder:
            for name, file in files.items():
                _link(file.path, folder / name)
    for name in files:
        for path in (partial / name, *partial.glob(f"{name}.*.part*")):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else lies there: not ours to remove
        partial.rmdir()
    return DownloadResult(output, {name: file.source for name, file in files.items()})


def _get_all(
    dataset: str, settings: DownloadSettings, partial: Path, output: Path, around: Environment, client: HttpClient
) -> dict[str, FetchedFile]:
    """Return the verified files; a file that fails does not stop the others, an interrupt stops all."""
    with _bars() as bars, futures.ThreadPoolExecutor(_AT_ONCE) as pool:

        def get(pin: PinnedFile) -> FetchedFile:
            tried = candidates(dataset, pin, settings, around)
            pins = {one.sha256: one for one in (pin, *(candidate.pin for candidate in tried))}
            for path in (output / pin.name, partial / pin.name):  # hashed, not trusted
                if path.is_file() and any(fetch.mismatch(path, one) is None for one in pins.values()):
                    return FetchedFile(path, "kept")
            return _fetch(dataset, tried, partial / pin.name, client, bars)

        tasks = {pin.name: pool.submit(get, pin) for pin in settings.files}
        try:
            futures.wait(tasks.values())
        except KeyboardInterrupt:
            client.interrupted.set_result(None)
            pool.shutdown(cancel_futures=True)
            raise
    return {name: task.result() for name, task in tasks.items()}


def _fetch(dataset: str, tried: list[Candidate], target: Path, client: HttpClient, bars: Progress) -> FetchedFile:
    """Return the file of the first candidate that meets its pin; it then lies at `target`."""
    refused: list[str] = []
    unreachable = False
    bar = bars.add_task(target.name, visible=False)
    for place, candidate in enumerate(tried, 1):
        bars.update(bar, total=candidate.pin.bytes, completed=0, visible=True)
        try:
            fetch.obtain(candidate, target, client, lambda size: bars.update(bar, completed=size))
        except Unavailable as error:
            unreachable = unreachable or error.unreachable
            reason = redacted(str(error), candidate.location)
            refused.append(f"{candidate} ({reason})")
            if place < len(tried):
                message = f"{dataset}: {target.name} from {candidate}: {reason}; next mirror: {tried[place]}"
                sys.stderr.write(f"{message}\n")  # at once, unlike print: other threads write too
        except OSError as error:
            message = f"{dataset}: {target.name} cannot be written to {target.parent}"
            raise DownloadError(message, found=error.strerror, next_step="free space") from None
        else:
            return FetchedFile(target, str(candidate))
    raise DownloadError(
        f"{dataset}: {target.name} is at none of its {len(tried)} sources: {', '.join(refused) or 'none is set'}",
        next_step=_OFFLINE if unreachable else _ONLINE,
    )


def _bars() -> Progress:
    """Return progress bars, which show nothing unless a person watches."""
    from rich import console, progress

    columns = (*progress.Progress.get_default_columns(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    watched = sys.stdout.isatty()
    return progress.Progress(*columns, console=console.Console(), transient=True, disable=not watched)


def _link(source: Path, target: Path) -> None:
    """Give a verified file its place without copying where the file system allows; the partial stays until the end."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def main() -> None:
    """Run the stage as dvc.yaml calls it."""
    parser = argparse.ArgumentParser(prog="pipeline.stages.download", description=run.__doc__)
    parser.add_argument("--dataset", required=True, type=names.dataset)
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
