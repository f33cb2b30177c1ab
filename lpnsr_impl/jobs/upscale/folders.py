"""Access to local folders and, through pyarrow, to folders given by URI (s3://, gs://, file://).

File names are paths relative to the folder, with forward slashes.
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
    """Size of a file in bytes, and time of its last change in nanoseconds (0 if unknown)."""

    size: int
    mtime_ns: int


@dataclass
class Listing:
    """Contents of a folder.

    Attributes:
        names: sorted names of all files in the folder and its subfolders.
        links: names of symbolic links to folders. Their contents are not listed.
        problems: {folder that could not be listed: reason}.
    """

    names: list[str] = field(default_factory=list[str])
    links: list[str] = field(default_factory=list[str])
    problems: dict[str, str] = field(default_factory=dict[str, str])


def open_folder(place: str) -> "Folder":
    """Open a folder by its path or URI.

    Raises:
        ValueError: the URI has an unknown scheme.
        ModuleNotFoundError: the folder is a URI, and pyarrow is not installed.
    """
    return ArrowFolder(place) if is_uri(place) else LocalFolder(Path(place))


def is_uri(place: str) -> bool:
    """Whether `place` is a URI, such as s3://bucket/folder, rather than a local path."""
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
    """Whether an error means that the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class LocalFolder:
    """A local folder. All methods may raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def place(self, name: str = "") -> tuple[str, PurePosixPath]:
        """Return the kind of file system and the full path of a file. Links are resolved, so that
        places can be compared."""
        return "local", PurePosixPath(Path(os.path.realpath(self._path / name)).as_posix())

    def files(self, leave_out: "Folder | None") -> Listing:
        """List all files, except those in the subfolder `leave_out`."""
        listing = Listing()

        def report(error: OSError) -> None:
            name = self._name(Path(error.filename))
            listing.problems[name] = f"the folder can't be listed: {error.strerror}"

        for folder, folders, files in os.walk(self._path, onerror=report):
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
        """Size and time of a file; None if it does not exist."""
        try:
            status = (self._path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Stat(status.st_size, status.st_mtime_ns)

    def read(self, name: str) -> bytes:
        """Read a regular file."""
        path = self._path / name
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would block
            raise OSError("this is not a regular file")
        return path.read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Write a new file, and create its folder if needed. If writing fails, delete the file."""
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
        """Rename a file atomically, replacing an existing file."""
        os.replace(self._path / name, self._path / new_name)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        (self._path / name).unlink(missing_ok=True)

    def list_files(self, folder: str) -> list[str]:
        """List the files directly in a subfolder. Empty if the subfolder does not exist."""
        try:
            return [self._name(p) for p in (self._path / folder).iterdir() if not p.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def ignores_case(self) -> bool:
        """Whether names that differ only in case or Unicode normalization refer to the same file.

        This is usual on Windows and macOS, but depends on the file system, so it is tested with a
        temporary file. True if the temporary file can't be written.
        """
        existing = next(p for p in (self._path, *self._path.absolute().parents) if p.is_dir())
        try:
            with tempfile.NamedTemporaryFile(dir=existing, prefix=".lpnsr-\u00e9-") as file:
                path = Path(file.name)
                variants = path.name.swapcase(), unicodedata.normalize("NFD", path.name)
                return any(path.with_name(variant).exists() for variant in variants)
        except OSError:
            return True


class ArrowFolder:
    """A folder that pyarrow opens by a URI. Has the same methods as `LocalFolder`."""

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self._uri = uri
        self._fs: Any
        self._fs, self._root = fs.FileSystem.from_uri(uri)
        self._created: set[str] = set()

    def __reduce__(self) -> tuple[type["ArrowFolder"], tuple[str]]:
        return ArrowFolder, (self._uri,)

    def place(self, name: str = "") -> tuple[str, PurePosixPath]:
        return self._fs.type_name, PurePosixPath(self._path(name))

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self._root) / name)

    def files(self, leave_out: "Folder | None") -> Listing:
        from pyarrow import fs

        kind, root = self.place()
        excluded_kind, excluded = leave_out.place() if leave_out else ("", PurePosixPath())
        paths = [
            PurePosixPath(info.path)
            for info in self._fs.get_file_info(fs.FileSelector(self._root, recursive=True))
            if info.type == fs.FileType.File
        ]
        names = [
            str(path.relative_to(root))
            for path in paths
            if excluded_kind != kind or excluded not in path.parents or excluded == root
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
        if folder not in self._created:
            self._fs.create_dir(folder, recursive=True)
            self._created.add(folder)
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
        return False  # object stores are case-sensitive

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
"""A local folder, or one that pyarrow opens by a URI."""
