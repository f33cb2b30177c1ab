"""Which pictures there are, and where each result goes. Nothing is opened or written here."""

import logging
from collections import Counter, defaultdict
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


@dataclass(frozen=True)
class Item:
    """A picture and its result.

    Attributes:
        name: in the folder of pictures.
        result: in the folder of results.
        spare: a PNG for a result that the format of `result` can't hold; None if there is to be
            none.
    """

    name: str
    result: str
    spare: str | None = None


@dataclass(frozen=True)
class Plan:
    """A job: folders as paths or URIs, pictures, and folders that can't be listed, with why."""

    source: str
    out: str
    items: list[Item]
    problems: dict[str, str]


def make_plan(source: str, out: str, format_name: str) -> Plan:
    """The job of a file or folder.

    Args:
        source: path or URI of a file or a folder.
        out: of a folder, or, for a file, of the result.
        format_name: a key of `FORMATS`, or "same".

    Raises:
        FileNotFoundError: the source is not there.
        ValueError: it has no pictures, results would have the same name or be inputs, or names and
            formats contradict each other.
    """
    kind = is_folder(source)
    if kind is None:
        raise FileNotFoundError(f"There is no file or folder {source}.")
    if not kind:
        return _plan_of_file(source, out, format_name)
    if is_folder(out) is False:
        raise ValueError(f"{out} is a file, expected a folder, since {source} is one.")
    source_folder, out_folder = open_folder(source), open_folder(out)
    names, problems = _pictures(source, source_folder.files(out_folder))
    if not names and not problems:
        raise ValueError(
            f"{source} has no pictures. Give a folder with {', '.join(sorted(READ_SUFFIXES))} "
            "files."
        )
    results = {name: result_name(name, format_name) for name in names}
    _refuse_clashes(results)
    items = _items(source_folder, out_folder, results, format_name)
    root = source_folder.place()
    if not _is_below(out_folder.place(), root):
        for item in items:
            if _is_below(out_folder.place(item.result), root):
                raise ValueError(
                    f"The result {item.result} would lie among the pictures of {source}, and be "
                    "upscaled by the next run. Give another folder for the results."
                )
    return Plan(source, out, items, problems)


def _plan_of_file(source: str, out: str, format_name: str) -> Plan:
    folder, name = split(source)
    named = format_of(out)
    if is_folder(out) or out.endswith("/") or PurePosixPath(out).suffix == "":
        out_folder, result = out, result_name(name, format_name)
    elif named is None:
        raise ValueError(
            f"{out} names no format that results are written in: {', '.join(FORMATS)}."
        )
    elif format_name != SAME and named != FORMATS[format_name]:
        raise ValueError(f"{out} contradicts --format {format_name}. Leave one of them out.")
    else:
        out_folder, result = split(out)
        format_name = next(key for key, value in FORMATS.items() if value == named)
    items = _items(open_folder(folder), open_folder(out_folder), {name: result}, format_name)
    return Plan(folder, out_folder, items, {})


def _pictures(source: str, listing: Listing) -> tuple[list[str], dict[str, str]]:
    """Names of the pictures. What is left out is logged."""
    names = _without_results(listing.names)
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    others = {suffix: n for suffix, n in suffixes.items() if suffix not in READ_SUFFIXES}
    if others:
        kinds = ", ".join(suffix or "without suffix" for suffix in sorted(others))
        logger.info("%d other files of %s are left out: %s", sum(others.values()), source, kinds)
    for link in listing.links:
        logger.warning("%s is a link to a folder, which is not followed.", link)
    names = [n for n in names if PurePosixPath(n).suffix.lower() in READ_SUFFIXES]
    return names, listing.problems


def _without_results(names: list[str]) -> list[str]:
    """Names without records, and without results of other jobs in folders further down."""
    records = {name for name in names if PurePosixPath(name).parent.name == RECORDS}
    roots = {str(PurePosixPath(record).parent.parent) for record in records} - {"."}

    def is_result(name: str) -> bool:
        parents = map(str, PurePosixPath(name).parents)
        return any(
            f"{p}/{record_name(name[len(p) + 1 :])}" in records for p in parents if p in roots
        )

    kept = [name for name in names if name not in records and not is_result(name)]
    if left_out := len(names) - len(records) - len(kept):
        logger.info("%d pictures are results of other jobs, and left out.", left_out)
    return kept


def _items(source: Folder, out: Folder, results: dict[str, str], format_name: str) -> list[Item]:
    """Raises ValueError where a result would overwrite an input."""
    inputs = {source.place(name): name for name in results}
    taken = set(results.values())
    items: list[Item] = []
    for name, result in results.items():
        overwritten = inputs.get(out.place(result))
        if overwritten is not None:
            raise ValueError(
                f"The result of {name} would overwrite the picture {overwritten}. Give another "
                "folder for the results."
            )
        spare = spare_name(result)
        free = spare not in taken and out.place(spare) not in inputs
        wanted = free and format_name == SAME and format_of(result) != SPARE
        items.append(Item(name, result, spare if wanted else None))
    return items


def _refuse_clashes(results: dict[str, str]) -> None:
    of_result: defaultdict[str, list[str]] = defaultdict(list)
    for name, result in results.items():
        of_result[result].append(name)
    clashes = [f"{' and '.join(ns)} ({r})" for r, ns in of_result.items() if len(ns) > 1]
    if clashes:
        more = f", and {len(clashes) - 3} more" if len(clashes) > 3 else ""
        raise ValueError(
            f"The results of these pictures would have the same name: {', '.join(clashes[:3])}"
            f"{more}. Rename them, or leave --format out: then each keeps its own suffix."
        )


def _is_below(place: tuple[str, PurePosixPath], root: tuple[str, PurePosixPath]) -> bool:
    return place[0] == root[0] and root[1] in place[1].parents
