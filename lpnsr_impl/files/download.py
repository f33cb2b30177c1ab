"""Getting the released files: from where, into which folder, and whether they are right.

A file of the user is never touched, and nothing is downloaded that is there already. What was
downloaded is recorded in `lpnsr_downloads.json` beside it, so that a changed file is noticed where
its source gives no SHA-256.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .checkpoints import PARTS, describe
from .folders import weight_files
from .released import FolderKind, GitHubAsset, HubFile, Licence, ReleasedFile
from .transfer import SourceError, Watch, aside, fetch, part_files, reason
from .weights import UnsupportedCheckpointError, read_checkpoint
from .whole import rename_new

logger = logging.getLogger(__name__)

RECORD = "lpnsr_downloads.json"
LOCK = ".lpnsr_downloads.lock"

_READ = 2**20


class DownloadError(OSError):
    """A file that could not be had: says from where it comes and where to put it by hand."""


@dataclass(frozen=True)
class _Remote:
    """What a source is known to give before it gives it."""

    url: str
    size: int | None = None
    sha256: str | None = None


def require_consent(files: Sequence[ReleasedFile], accepted: bool) -> None:
    """Ask for consent to licences that forbid some use.

    Raises:
        ValueError: it is needed and not given.
    """
    restricted: dict[Licence, list[str]] = {}
    for file in files:
        if not file.licence.commercial:
            restricted.setdefault(file.licence, []).append(file.name)
    if restricted and not accepted:
        lines = [
            f"{', '.join(names)}: {licence.name}, {licence.url}"
            for licence, names in restricted.items()
        ]
        raise ValueError(
            "Not downloaded yet, since these files may not be used commercially:\n"
            + "\n".join(lines)
            + "\nRead the licence, and switch accept_licences on (--accept-licences on the command "
            "line) if you agree."
        )


def download(
    files: Sequence[ReleasedFile],
    folders: Mapping[FolderKind, Sequence[Path]],
    progress: Callable[[str, int, int | None], None],
) -> str:
    """Get those of the files that are in none of the folders.

    Args:
        files: what to get.
        folders: where files of each kind are looked for; new ones go into the first.
        progress: a `Watch` that is told a file's name, too. What it raises stops everything, and
            what has come is kept for the next run.

    Returns:
        What was done, a line for each file.

    Raises:
        DownloadError: some files can't be had; all others were got before.
    """
    lines: list[str] = []
    problems: list[str] = []
    for file in files:
        try:
            lines.append(_download_one(file, folders[file.folder], partial(progress, file.name)))
        except DownloadError as e:
            problems.append(str(e))
        else:
            logger.info("%s", lines[-1])
    if problems:
        raise DownloadError("\n\n".join([*problems, *lines]))
    return "\n".join(lines)


def _download_one(file: ReleasedFile, folders: Sequence[Path], watch: Watch) -> str:
    try:
        if there := find(file, folders):
            return _check_present(file, there, watch)
        folders[0].mkdir(parents=True, exist_ok=True)
        with _locked(folders[0], watch):
            if there := find(file, folders):  # another process was faster
                return _check_present(file, there, watch)
            return _try_sources(file, folders[0], watch)
    except DownloadError:
        raise
    except OSError as e:
        raise DownloadError(
            f"{file.name} can't be written into {folders[0]}: {e}. Make room there, or make the "
            "folder writable, and run this again: it goes on where it stopped."
        ) from e


def find(file: ReleasedFile, folders: Sequence[Path]) -> Path | None:
    """The file in one of the folders, or below it."""
    return next((path for path in weight_files(folders) if path.name == file.name), None)


def refused_files(target: Path) -> list[Path]:
    """Downloads for `target` of another content than the published one, which were kept aside."""
    name = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.refused")
    return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))


def _try_sources(file: ReleasedFile, folder: Path, watch: Watch) -> str:
    problems: list[str] = []
    target = folder / file.name
    recorded = read_record(folder).get(file.name, {}).get("sha256")
    for source in file.sources:
        try:
            remote = _metadata(source, watch)
            part = fetch(remote.url, target, watch, size=remote.size, sha256=remote.sha256)
            sha256 = _check(file, part, remote.sha256, recorded, watch)
        except SourceError as e:
            problems.append(f" {source.url}: {e}")
            continue
        licence = f"licence {file.licence.name}, {file.licence.url}"
        failed = "".join(f"\n  before that{problem}" for problem in problems)
        return f"{_keep(part, target, remote.url, sha256)}, {licence}{failed}"
    tried = "\n".join(f" {problem}" for problem in problems)
    raise DownloadError(
        f"{file.name} could not be downloaded:\n{tried}\n{_by_hand(file, folder)} Running this "
        "again goes on where it stopped."
    )


def _by_hand(file: ReleasedFile, folder: Path) -> str:
    pages = " or ".join(dict.fromkeys(source.page for source in file.sources))
    return (
        f"By hand: get it with a browser from {pages}, put it into {folder} under the name "
        f"{file.name}, and press R in ComfyUI."
    )


def _metadata(source: HubFile | GitHubAsset, watch: Watch) -> _Remote:
    """Size and SHA-256 where the hub tells them; GitHub tells a size along with the file."""
    if isinstance(source, GitHubAsset):
        return _Remote(source.url)
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    # The library's HTTP client differs between versions; its errors are bases of the library's own.
    errors = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    # Without a token: the repository is public, and an outdated token would be refused.
    ask = partial(get_hf_file_metadata, source.url, token=False, timeout=10)
    try:
        metadata = aside(ask, lambda: watch(0, None))
    except (OSError, *errors) as e:
        answered = isinstance(e, HfHubHTTPError)
        raise SourceError(str(e).splitlines()[0] if answered else reason(e)) from e
    is_sha256 = len(metadata.etag or "") == 64  # files outside of LFS have a SHA-1
    return _Remote(source.url, metadata.size, metadata.etag if is_sha256 else None)


def _check(
    file: ReleasedFile, part: Path, hub: str | None, recorded: str | None, watch: Watch
) -> str:
    """SHA-256 of a complete download, if it is what it should be; else it is removed.

    Of another content than the published one it is kept aside: it may be a new version.
    """
    sha256 = hash_file(part, watch)
    if file.sha256 not in (None, sha256):
        kept = part.with_name(f"{file.name}.{sha256[:8]}.refused")
        part.replace(kept)
        raise SourceError(
            f"it came with the SHA-256 {sha256}, published is {file.sha256}. It is not used, and "
            f"kept aside as {kept}: remove it, or, if you trust it, rename it to {file.name}"
        )
    try:
        if hub not in (None, sha256):
            raise SourceError(f"it came with the SHA-256 {sha256}, announced was {hub}")
        if file.sha256 is None and hub is None and recorded not in (None, sha256):
            raise SourceError(
                f"it came with the SHA-256 {sha256}, but an earlier download had {recorded}. If "
                f"its authors have changed it, remove {file.name} from {RECORD} in {part.parent}"
            )
        found = describe(read_checkpoint(part, file.name), file.part)
        expected = PARTS[file.part].title if file.part in PARTS else "an upscale model"
        if not found.startswith(expected):
            raise SourceError(f"it looks like {found}, expected {expected}")
    except SourceError:
        part.unlink()
        raise
    except UnsupportedCheckpointError as e:
        part.unlink()
        raise SourceError(str(e)) from e
    return sha256


def _keep(part: Path, target: Path, url: str, sha256: str) -> str:
    size = part.stat().st_size
    try:
        rename_new(part, target)
    except FileExistsError as e:
        raise DownloadError(
            f"{target} has come from elsewhere meanwhile and is left alone. The download is "
            f"{part.name} beside it."
        ) from e
    for old in part_files(target):
        old.unlink()
    record = read_record(target.parent)
    record[target.name] = {"sha256": sha256, "size": size, "url": url}
    text = json.dumps(record, indent=1)
    unfinished = target.with_name(RECORD + ".new")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(target.with_name(RECORD))
    return f"{target.name}: downloaded into {target.parent}, {size / 1e6:.1f} MB, SHA-256 {sha256}"


def _check_present(file: ReleasedFile, path: Path, watch: Watch) -> str:
    """That a file is the published one, what was downloaded, or what the hub has, as far as one of
    these is known."""
    expected, source = file.sha256, "published"
    if expected is None:
        recorded = read_record(path.parent).get(path.name, {}).get("sha256")
        expected, source = recorded, "recorded when it was downloaded"
    if expected is None:
        expected, source = _hub_sha256(file, watch), "at Hugging Face"
    if expected is None:
        return f"{file.name}: {path} is there; there is nothing to compare it with"
    sha256 = hash_file(path, watch)
    if sha256 != expected:
        raise DownloadError(
            f"{file.name}: {path} is there with the SHA-256 {sha256}, but {expected} is {source}. "
            "It is left alone. If it is not a file of your own, it is damaged or of another "
            "version: move it out of the folder and run this again."
        )
    return f"{file.name}: {path} is there, with the SHA-256 {source}"


def _hub_sha256(file: ReleasedFile, watch: Watch) -> str | None:
    for source in file.sources:
        if isinstance(source, HubFile):
            try:
                return _metadata(source, watch).sha256
            except SourceError as e:
                logger.info("%s can't be compared with %s: %s", file.name, source.url, e)
    return None


def hash_file(path: Path, watch: Watch) -> str:
    """SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    told = time.monotonic()
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
            if time.monotonic() - told > 0.2:
                told = time.monotonic()
                watch(file.tell(), size)
    return digest.hexdigest()


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """What was downloaded into a folder: {name: {"sha256", "size", "url"}}."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        logger.warning("%s can't be read and is begun anew: %s", path, e)
        return {}
    return (
        {k: v for k, v in record.items() if isinstance(v, dict)} if isinstance(record, dict) else {}
    )


@contextmanager
def _locked(folder: Path, watch: Watch) -> Generator[None, None, None]:
    """Let one process at a time download into a folder."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    told = False
    while True:
        try:
            lock.acquire(timeout=0.2)
            break
        except Timeout:
            if not told:
                logger.info("Another download into %s is running; waiting for it.", folder)
            told = True
            watch(0, None)
    try:
        yield
    finally:
        lock.release()
