"""Download the released model files into a user's model folders.

Files from both Hugging Face and GitHub are downloaded with `huggingface_hub`, which ComfyUI
installs. It resumes after broken connections, and supports proxies and offline mode. A file has a
temporary name until it has been checked. Existing files are never replaced.
"""

import hashlib
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from .checkpoints import PARTS, describe
from .folders import weight_files
from .released import FolderKind, GitHubAsset, HubFile, Licence, ReleasedFile
from .weights import UnsupportedCheckpointError, first_line, read_checkpoint
from .whole import rename_new

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], None]
"""Callback that receives a file's name, the number of bytes processed so far, and its size in bytes
(None if unknown). An exception in the callback cancels the operation."""

_FileProgress = Callable[[int, int | None], None]
"""Callback for a single file. It receives the number of bytes downloaded so far, and the size of
the file in bytes (None if unknown)."""

T = TypeVar("T")


class DownloadError(RuntimeError):
    """A file could not be downloaded. The message says how to download it by hand."""


class _SourceError(Exception):
    """A download from one source failed. The next source may work."""


def require_consent(files: Sequence[ReleasedFile], accepted: bool) -> None:
    """Check that the user has accepted all licences that restrict commercial use.

    Raises:
        ValueError: a file has such a licence, and `accepted` is False.
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
            "Nothing was downloaded yet, because these files may not be used commercially:\n"
            + "\n".join(lines)
            + "\nRead the licence, and switch accept_licences on (--accept-licences on the command "
            "line) if you agree."
        )


def download(
    files: Sequence[ReleasedFile],
    folders: Mapping[FolderKind, Sequence[Path]],
    progress: Progress = lambda *_: None,
) -> str:
    """Download the files that are not in any of the folders yet.

    Args:
        files: files to download.
        folders: folders for each kind of file. All are searched for existing files, and new files
            are written into the first one.
        progress: called several times a second. An exception in it cancels the download and
            deletes the partial file.

    Returns:
        A report with a line for each file.

    Raises:
        DownloadError: some files could not be downloaded. The others have been downloaded.
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


def find(file: ReleasedFile, folders: Sequence[Path]) -> Path | None:
    """Return the path of a file in the folders or their subfolders, or None."""
    return next((path for path in weight_files(folders) if path.name == file.name), None)


def _download_one(file: ReleasedFile, folders: Sequence[Path], progress: _FileProgress) -> str:
    if present := find(file, folders):
        return _check_present(file, present)
    target = folders[0] / file.name
    part = target.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.part")
    logger.info("%s: downloading into %s", file.name, target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        report = _try_sources(file, part, progress)
        try:
            rename_new(part, target)
        except FileExistsError:  # another program has created it in the meantime
            return _check_present(file, target)
    except OSError as e:
        raise DownloadError(
            f"{file.name} can't be written into {target.parent}: {e}. Make the folder writable, "
            "and run the download again."
        ) from e
    finally:
        if part.exists():
            part.unlink()
    return report


def _try_sources(file: ReleasedFile, part: Path, progress: _FileProgress) -> str:
    """Download from the first source that works, and return a line for the report."""
    problems: list[str] = []
    for source in file.sources:
        try:
            expected = _fetch(file, source, part, progress)
            sha256 = _check(file, part, expected)
        except _SourceError as e:
            problems.append(f"{source.url}: {e}")
            continue
        report = (
            f"{file.name}: downloaded into {part.parent}, {part.stat().st_size / 1e6:.1f} MB, "
            f"SHA-256 {sha256}, licence {file.licence.name}, {file.licence.url}"
        )
        return report + "".join(f"\n  before that {problem}" for problem in problems)
    pages = " or ".join(dict.fromkeys(source.page for source in file.sources))
    tried = "".join(f"\n  {problem}" for problem in problems)
    raise DownloadError(
        f"{file.name} could not be downloaded:{tried}\nRun the download again, or get the file "
        f"with a browser from {pages}, put it into {part.parent} under the name {file.name}, and "
        "press R in ComfyUI."
    )


def _fetch(
    file: ReleasedFile, source: HubFile | GitHubAsset, part: Path, progress: _FileProgress
) -> str | None:
    """Download from one source into `part`. Return the expected SHA-256, or None if unknown."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    size, sha256 = file.size, file.sha256
    try:
        if isinstance(source, HubFile):
            # No token, since the repository is public, and an expired token would cause an error.
            ask = partial(get_hf_file_metadata, source.url, token=False)
            metadata = _run_in_thread(ask, lambda: progress(0, file.size))
            size = metadata.size
            if len(metadata.etag or "") == 64:  # the etag of a file outside LFS is a SHA-1
                sha256 = sha256 or metadata.etag
        free = shutil.disk_usage(part.parent).free
        if size and size > free:
            raise DownloadError(
                f"{file.name} needs {size / 1e6:.1f} MB, and {part.parent} has {free / 1e6:.1f} MB "
                "free. Free some space, and run the download again."
            )
        with part.open("wb") as opened:
            get = partial(
                http_get, source.url, opened, expected_size=size, displayed_filename=file.name
            )
            # Cancelling closes the file, so the thread's next write fails and ends the thread.
            _run_in_thread(get, lambda: progress(opened.tell(), size))
    # Depending on the version of huggingface_hub, its errors derive from those of requests, httpx
    # or httpx2.
    except (OSError, *HfHubHTTPError.__bases__) as e:  # pyright: ignore[reportGeneralTypeIssues]
        raise _SourceError(first_line(e)) from e
    return sha256


def _run_in_thread(work: Callable[[], T], tick: Callable[[], None]) -> T:
    """Run `work` in a thread, call `tick` several times a second meanwhile, and return the result.

    An exception in `tick` is raised without waiting for the thread to finish.
    """
    threads = ThreadPoolExecutor(1, "lpnsr-download")
    future = threads.submit(work)
    threads.shutdown(wait=False)
    while not wait([future], 0.2).done:
        tick()
    return future.result()


def _check(file: ReleasedFile, part: Path, expected: str | None) -> str:
    """Check a download's SHA-256, or its content if no SHA-256 is known. Return its SHA-256."""
    sha256 = hash_file(part)
    if expected:
        if sha256 != expected:
            raise _SourceError(f"its SHA-256 is {sha256}, expected {expected}")
        return sha256
    try:
        found = describe(read_checkpoint(part, file.name), file.part)
    except UnsupportedCheckpointError as e:
        raise _SourceError(str(e)) from e
    kind = PARTS[file.part].title if file.part in PARTS else "an upscale model"
    if not found.startswith(kind):
        raise _SourceError(f"it looks like {found}, expected {kind}")
    return sha256


def _check_present(file: ReleasedFile, path: Path) -> str:
    """Compare the SHA-256 of an existing file with the published one, if that is known."""
    if file.sha256 is None:
        return f"{file.name}: already there, {path}"
    sha256 = hash_file(path)
    if sha256 != file.sha256:
        raise DownloadError(
            f"{file.name}: {path} has the SHA-256 {sha256}, and the published file has "
            f"{file.sha256}. The existing file was not changed. If it is not a file of your own, "
            "it is damaged or another version: move it to another folder, and run the download "
            "again."
        )
    return f"{file.name}: already there, {path}, with the published SHA-256"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
