"""Folders of pictures: local ones, and those that pyarrow opens by a URI (s3://, gs://, file://).

Names within a folder have forward slashes.
"""

import contextlib
import errno
import os
import stat
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Stat:
    """Size in bytes, and time of the last change (0 if unknown)."""

    size: int
    mtime_ns: int


@dataclass
class Listing:
    """Contents of a folder.

    Attributes:
        names: of all files below it, sorted.
        links: to folders; they are not followed.
        problems: folders that could not be listed, with the reason.
    """

    names: list[str] = field(default_factory=list[str])
    links: list[str] = field(default_factory=list[str])
    problems: dict[str, str] = field(default_factory=dict[str, str])


def open_folder(place: str) -> "Folder":
    """The folder of a path or a URI.

    Raises:
        ValueError: the URI has an unknown scheme.
        ModuleNotFoundError: a URI needs pyarrow.
    """
    return ArrowFolder(place) if is_uri(place) else LocalFolder(Path(place))


def is_uri(place: str) -> bool:
    """Whether it is a URI such as s3://bucket/folder."""
    return "://" in place


def split(place: str) -> tuple[str, str]:
    """Split the path or URI of a file into its folder and its name."""
    if is_uri(place):
        folder, _, name = place.rpartition("/")
        return folder, name
    return str(Path(place).parent), Path(place).name


def is_folder(place: str) -> bool | None:
    """Whether a path or URI is a folder; None if it does not exist."""
    if not is_uri(place):
        return Path(place).is_dir() if os.path.lexists(place) else None
    from pyarrow import fs

    file_system, path = fs.FileSystem.from_uri(place)
    kind = file_system.get_file_info(path.rstrip("/")).type
    return None if kind == fs.FileType.NotFound else kind == fs.FileType.Directory


def is_full(error: OSError) -> bool:
    """Whether the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class LocalFolder:
    """A local folder. Every method may raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, name: str = "") -> tuple[str, PurePosixPath]:
        """Kind of file system and full path of a name, with links resolved, for comparisons."""
        return "local", PurePosixPath(Path(os.path.realpath(self._path / name)).as_posix())

    def files(self, leave_out: "Folder | None") -> Listing:
        """List all files, except those of the folder `leave_out` if it lies within."""
        listing = Listing()

        def problem(error: OSError) -> None:
            name = self._name(Path(error.filename))
            listing.problems[name] = f"the folder can't be listed: {error.strerror}"

        for folder, folders, files in os.walk(self._path, onerror=problem):
            for name in list(folders):
                path = Path(folder, name)
                if path.is_symlink():
                    listing.links.append(self._name(path))
                elif leave_out and LocalFolder(path).place() == leave_out.place():
                    folders.remove(name)
            listing.names += (self._name(Path(folder, file)) for file in files)
        listing.names.sort()
        return listing

    def _name(self, path: Path) -> str:
        return path.relative_to(self._path).as_posix()

    def stat(self, name: str) -> Stat | None:
        """None if there is no such file."""
        try:
            found = (self._path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(found.st_size, found.st_mtime_ns)

    def read(self, name: str) -> bytes:
        path = self._path / name
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise OSError("it is no regular file")
        return path.read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Write a new file. A failure leaves no file."""
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def move(self, name: str, new_name: str) -> None:
        """Rename a file atomically, replacing the one that has the name."""
        os.replace(self._path / name, self._path / new_name)

    def delete(self, name: str) -> None:
        """Delete a file. Does nothing if there is none."""
        (self._path / name).unlink(missing_ok=True)

    def list_files(self, folder: str) -> list[str]:
        """Names of the files directly in a subfolder; none if it does not exist."""
        try:
            return [self._name(p) for p in (self._path / folder).iterdir() if not p.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def ignores_case(self) -> bool:
        """Whether names that differ in case or Unicode normalization name the same file, as on
        Windows and macOS. Tried with a temporary file, since it depends on the file system."""
        existing = next(p for p in (self._path, *self._path.absolute().parents) if p.is_dir())
        try:
            with tempfile.NamedTemporaryFile(dir=existing, prefix=".lpnsr-\u00e9-") as file:
                path = Path(file.name)
                variants = path.name.swapcase(), unicodedata.normalize("NFD", path.name)
                return any(path.with_name(variant).exists() for variant in variants)
        except OSError:
            return True  # it can't be told


class ArrowFolder:
    """A folder that pyarrow opens by a URI, with the methods of `LocalFolder`."""

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self._uri = uri
        self._fs: Any
        self._fs, self._root = fs.FileSystem.from_uri(uri)
        self._made: set[str] = set()

    def __reduce__(self) -> tuple[type["ArrowFolder"], tuple[str]]:
        return ArrowFolder, (self._uri,)

    def place(self, name: str = "") -> tuple[str, PurePosixPath]:
        return self._fs.type_name, PurePosixPath(self._path(name))

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._root) / name)

    def files(self, leave_out: "Folder | None") -> Listing:
        from pyarrow import fs

        kind, root = self.place()
        left_out = leave_out.place() if leave_out else ("", PurePosixPath())
        paths = [
            PurePosixPath(info.path)
            for info in self._fs.get_file_info(fs.FileSelector(self._root, recursive=True))
            if info.type == fs.FileType.File
        ]
        names = [
            str(path.relative_to(root))
            for path in paths
            if left_out[0] != kind or left_out[1] not in path.parents or left_out[1] == root
        ]
        return Listing(sorted(names))

    def stat(self, name: str) -> Stat | None:
        from pyarrow import fs

        info = self._fs.get_file_info(self._path(name))
        if info.type == fs.FileType.NotFound:
            return None
        return Stat(info.size or 0, info.mtime_ns or 0)

    def read(self, name: str) -> bytes:
        with self._fs.open_input_file(self._path(name)) as file:
            return file.read()

    def put(self, name: str, data: bytes) -> None:
        folder = self._path(str(PurePosixPath(name).parent))
        if folder not in self._made:
            self._fs.create_dir(folder, recursive=True)
            self._made.add(folder)
        try:
            with self._fs.open_output_stream(self._path(name)) as file:
                file.write(data)
        except BaseException:
            self.delete(name)
            raise

    def move(self, name: str, new_name: str) -> None:
        self._fs.move(self._path(name), self._path(new_name))

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(self._path(name))

    def ignores_case(self) -> bool:
        if self._fs.type_name == "local":
            return LocalFolder(Path(self._root)).ignores_case()
        return False  # as object stores do

    def list_files(self, folder: str) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(self._path(folder), allow_not_found=True)
        _, root = self.place()
        return [
            str(PurePosixPath(info.path).relative_to(root))
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File
        ]


Folder: TypeAlias = LocalFolder | ArrowFolder
"""A folder of pictures or of results."""
