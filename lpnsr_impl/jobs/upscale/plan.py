"""Plans a job: lists the pictures and names their results, without opening or writing files."""

import logging
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from .folders import Folder, Listing, is_folder, open_folder, split
from .formats import (
    FORMATS,
    READ_SUFFIXES,
    RECORDS,
    SAME,
    SPARE,
    format_of,
    record_name,
    result_name,
    spare_name,
)

logger = logging.getLogger(__name__)

MAX_NAME = 255
"""Maximum length of a file name in bytes, on nearly all file systems."""


@dataclass(frozen=True)
class Item:
    """A picture and its result.

    Attributes:
        name: path of the picture, relative to the folder of pictures.
        result: path of the result, relative to the folder of results.
        spare: path of a PNG to write if the format of `result` can't store the picture; None to
            report an error instead.
    """

    name: str
    result: str
    spare: str | None = None


@dataclass(frozen=True)
class Plan:
    """The pictures and results of a job.

    Attributes:
        source, out: folders of pictures and results, as paths or URIs.
        items: pictures with their results.
        problems: {name: reason} for folders that can't be listed, and pictures without a valid
            result name.
    """

    source: str
    out: str
    items: list[Item]
    problems: dict[str, str]


def make_plan(source: str, out: str, format_name: str) -> Plan:
    """Plan a job for a file or a folder.

    Args:
        source: path or URI of a file or a folder.
        out: path or URI of the output folder. If the source is a file, it may also be a file.
        format_name: a key of `FORMATS`, or "same".

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source has no pictures, two results would be the same file, a result would
            overwrite an input or become an input of the next run, or `out` contradicts the format.
    """
    source_is_folder = is_folder(source)
    if source_is_folder is None:
        raise FileNotFoundError(f"There is no file or folder {source}.")
    if not source_is_folder:
        return _plan_file(source, out, format_name)
    if is_folder(out) is False:
        raise ValueError(f"{out} is a file, expected a folder, since {source} is a folder.")
    source_folder, out_folder = open_folder(source), open_folder(out)
    names, problems = _find_pictures(source, source_folder.files(out_folder))
    if not names and not problems:
        raise ValueError(
            f"{source} has no pictures. Give a folder with {', '.join(sorted(READ_SUFFIXES))} "
            "files."
        )
    results = {name: result_name(name, format_name) for name in names}
    _check_clashes(results, out_folder)
    too_long = _find_long_names(results)
    results = {name: result for name, result in results.items() if name not in too_long}
    items = _make_items(source_folder, out_folder, results, format_name)
    root = source_folder.place()
    if not _is_below(out_folder.place(), root):
        for item in items:
            if _is_below(out_folder.place(item.result), root):
                raise ValueError(
                    f"The result {item.result} would be inside {source}, and the next run would "
                    "upscale it. Give another folder for the results."
                )
    return Plan(source, out, items, problems | too_long)


def _plan_file(source: str, out: str, format_name: str) -> Plan:
    folder, name = split(source)
    out_format = format_of(out)
    if is_folder(out) or out.endswith("/") or PurePosixPath(out).suffix == "":
        out_folder, result = out, result_name(name, format_name)
    elif out_format is None:
        raise ValueError(
            f"Results can't be written to {out}, expected a file name ending in one of "
            f"{', '.join(FORMATS)}."
        )
    elif format_name != SAME and out_format != FORMATS[format_name]:
        raise ValueError(f"{out} contradicts --format {format_name}. Leave one of them out.")
    else:
        out_folder, result = split(out)
        format_name = next(key for key, value in FORMATS.items() if value == out_format)
    if too_long := _find_long_names({name: result}):
        raise ValueError(f"{name}: {too_long[name]}")
    results = {name: result}
    items = _make_items(open_folder(folder), open_folder(out_folder), results, format_name)
    return Plan(folder, out_folder, items, {})


def _find_pictures(source: str, listing: Listing) -> tuple[list[str], dict[str, str]]:
    """Select the pictures among the listed files, and log the number of files that are left out.

    Returns:
        Names of the pictures, and `listing.problems`.
    """
    names = _leave_out_results(listing.names)
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    others = {suffix: n for suffix, n in suffixes.items() if suffix not in READ_SUFFIXES}
    if others:
        kinds = ", ".join(suffix or "without suffix" for suffix in sorted(others))
        logger.info(
            "%d files in %s are left out, because they are not pictures: %s",
            sum(others.values()),
            source,
            kinds,
        )
    for link in listing.links:
        logger.warning("%s is a link to a folder; it is not followed.", link)
    names = [n for n in names if PurePosixPath(n).suffix.lower() in READ_SUFFIXES]
    return names, listing.problems


def _leave_out_results(names: list[str]) -> list[str]:
    """Return the names without the records and results of other jobs in subfolders."""
    records = {name for name in names if PurePosixPath(name).parent.name == RECORDS}
    roots = {str(PurePosixPath(record).parent.parent) for record in records} - {"."}

    def is_result(name: str) -> bool:
        parents = map(str, PurePosixPath(name).parents)
        return any(
            f"{p}/{record_name(name[len(p) + 1 :])}" in records for p in parents if p in roots
        )

    kept = [name for name in names if name not in records and not is_result(name)]
    if left_out := len(names) - len(records) - len(kept):
        logger.info("%d pictures are left out, because they are results of other jobs.", left_out)
    return kept


def _make_items(
    source: Folder, out: Folder, results: dict[str, str], format_name: str
) -> list[Item]:
    """Create the items of a plan, or raise ValueError if a result would overwrite an input."""
    inputs = {source.place(name): name for name in results}
    used_names = set(results.values())
    items: list[Item] = []
    for name, result in results.items():
        overwritten = inputs.get(out.place(result))
        if overwritten is not None:
            raise ValueError(
                f"The result of {name} would overwrite the picture {overwritten}. Give another "
                "folder for the results."
            )
        spare = spare_name(result)
        is_free = out.place(spare) not in inputs and spare not in used_names
        needs_spare = format_name == SAME and format_of(result) != SPARE
        use_spare = needs_spare and is_free and not _is_too_long(spare)
        items.append(Item(name, result, spare if use_spare else None))
    return items


def _check_clashes(results: Mapping[str, str], out: Folder) -> None:
    """Raise ValueError if two pictures have the same result file."""
    clashes = _find_clashes(results, str)
    if not clashes:
        similar = _find_clashes(results, _fold)
        clashes = similar if similar and out.ignores_case() else []
    if clashes:
        more = f", and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        raise ValueError(
            f"The results of these pictures would be the same file: {', '.join(clashes[:3])}"
            f"{more}. Rename the pictures or, if their suffixes differ, leave --format out to keep "
            "the suffixes."
        )


def _find_clashes(results: Mapping[str, str], key: Callable[[str], str]) -> list[str]:
    """Group pictures by `key` of their result's name. Returns a description of each group of two or
    more."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for name, result in results.items():
        by_key[key(result)].append(name)
    return [f"{' and '.join(ns)} ({results[ns[0]]})" for ns in by_key.values() if len(ns) > 1]


def _fold(name: str) -> str:
    """Normalise a path as case-insensitive file systems do. Dots and spaces at the end of names are
    dropped, as on Windows."""
    parts = unicodedata.normalize("NFC", name).casefold().split("/")
    return "/".join(part.rstrip(". ") for part in parts)


def _find_long_names(results: Mapping[str, str]) -> dict[str, str]:
    """Return an error message for each input whose result name is too long."""
    return {
        name: f"the name of its result has more than {MAX_NAME} bytes: {result}. Shorten the name"
        for name, result in results.items()
        if _is_too_long(result)
    }


def _is_too_long(name: str) -> bool:
    return len(os.fsencode(PurePosixPath(name).name)) > MAX_NAME


def _is_below(place: tuple[str, PurePosixPath], root: tuple[str, PurePosixPath]) -> bool:
    return place[0] == root[0] and root[1] in place[1].parents
