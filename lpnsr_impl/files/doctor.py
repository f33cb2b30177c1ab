"""Report on versions, devices, model files and problems, to be pasted into a GitHub issue.

A damaged file does not raise an error, but is listed in the report. Files of other node packs are
not listed.
"""

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..version import pack_version
from .checkpoints import AUTOENCODER, DENOISER, PARTS, RELEASED_FAMILY, describe, load_model
from .download import Progress, find, hash_file
from .folders import weight_files
from .released import MIRROR_VARIABLE, PRESETS, RELEASED, STAND_INS, FolderKind
from .weights import first_line, read_checkpoint

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "einops",
    "safetensors",
    "spandrel",
    "huggingface_hub",
    "comfyui-frontend-package",
)
_VARIABLES = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", MIRROR_VARIABLE)
_HOW_TO_DOWNLOAD = (
    "the node LPNSR Download Models or `python -m lpnsr_impl download` downloads the files"
)


@dataclass(frozen=True)
class _File:
    """A model file. `what` describes its content. If the file can't be used, `what` is None, and
    `problem` gives the reason."""

    path: Path
    size: int
    what: str | None = None
    family: str | None = None
    problem: str | None = None
    sha256: str | None = None


def report(
    folders: Mapping[FolderKind, Sequence[Path]],
    host: Sequence[str] = (),
    *,
    sha256: bool = False,
    progress: Progress = lambda *_: None,
) -> str:
    """Examine the installation and the model files.

    Args:
        folders: folders for each kind of file. Downloads go to the first one.
        host: lines about ComfyUI for the report.
        sha256: compute the SHA-256 of each file, and compare it with the published one.
        progress: called before and while a file is read. An exception in it cancels the report.

    Returns:
        Several lines of text, with "~" in place of the home directory.
    """
    files = {kind: _examine_folders(kind, of, sha256, progress) for kind, of in folders.items()}
    networks = files["lpnsr"]
    problems = [
        *(file.problem for of in files.values() for file in of if file.problem),
        *_folder_problems(folders),
        *_family_problems(networks),
        *_package_problems(),
    ]
    sections = {
        "Versions": _versions(),
        "Devices": _devices(),
        "ComfyUI": list(host),
        "Folders": [line for kind, of in folders.items() for line in _folder_lines(kind, of)],
        "Files": [_file_line(file) for of in files.values() for file in of],
        "Presets with the released files": _preset_lines(folders),
        "Problems": [f"{i}. {text}" for i, text in enumerate(problems, 1)] or ["none found"],
    }
    text = "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)])
        for title, lines in sections.items()
        if lines
    )
    return hide_home(f"LPNSR doctor\n\n{text}\n")


def hide_home(text: str) -> str:
    """Replace the user's home directory by "~"."""
    home = Path.home()
    if home == home.parent:
        return text
    return re.sub(rf"(?<![\w.-]){re.escape(str(home))}(?![\w.-])", "~", text)


def _versions() -> list[str]:
    return [
        f"LPNSR {pack_version()}",
        f"Python {platform.python_version()}, {platform.platform()}",
        *(f"{name} {_version(name) or 'is not installed'}" for name in _PACKAGES),
        *(f"{name} is set" for name in _VARIABLES if os.environ.get(name)),
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    lines = [f"cpu: {platform.machine()}, {torch.get_num_threads()} threads"]
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        lines.append(f"cuda:{i}: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if torch.backends.mps.is_available():
        lines.append("mps")
    lines += [f"xpu:{i}: {torch.xpu.get_device_name(i)}" for i in range(torch.xpu.device_count())]
    return lines


# Files


def _examine_folders(
    kind: FolderKind, folders: Sequence[Path], sha256: bool, progress: Progress
) -> list[_File]:
    """Examine all networks, and those upscale models that this pack bundles or downloads."""
    ours = {file.name for file in RELEASED}
    return [
        _examine(path, kind, sha256, progress)
        for path in weight_files(folders)
        if kind == "lpnsr" or path.name in ours or path.name.startswith("lpnsr")
    ]


def _examine(path: Path, kind: FolderKind, sha256: bool, progress: Progress) -> _File:
    try:
        size = path.stat().st_size
    except OSError as e:  # a broken link
        return _File(path, 0, problem=f"{path} can't be read ({e}). Remove or replace it.")
    progress(path.name, 0, size)
    what = family = problem = None
    try:
        if kind == "lpnsr":
            what, family = _network(path)
        else:
            what = _upscale_model(path)
    except Exception as e:  # noqa: BLE001  (a damaged file must not break the report)
        problem = f"{path}: {first_line(e)}"
    digest = None
    if sha256 and os.access(path, os.R_OK):
        digest = hash_file(path)
        published = next((f.sha256 for f in RELEASED if f.name == path.name), None)
        if published not in (None, digest):
            problem = (
                f"{path} is not the published file of this name, whose SHA-256 is {published}. "
                "Unless it is a file of your own, move it to another folder and download it again."
            )
    return _File(path, size, what, family, problem, digest)


def _network(path: Path) -> tuple[str, str | None]:
    model = load_model(path)
    parameters = sum(p.numel() for p in model.network.parameters())
    kind = f", a one-step student ({model.student.name})" if model.student else ""
    return f"{PARTS[model.part].title} of {parameters / 1e6:.1f} M parameters{kind}", model.family


def _upscale_model(path: Path) -> str:
    from spandrel import ModelLoader, UnsupportedModelError

    checkpoint = read_checkpoint(path)
    found = describe(checkpoint)
    if found in {part.title for part in PARTS.values()}:
        raise ValueError(f"it is {found}, which belongs in models/lpnsr. Move it there.")
    try:
        model = ModelLoader("cpu").load_from_state_dict(
            {**checkpoint.tensors, **checkpoint.structural}
        )
    except UnsupportedModelError as e:
        raise ValueError(f"it looks like {found}, expected an upscale model.") from e
    return f"an upscale model ({model.architecture.name}, x{model.scale})"


def _file_line(file: _File) -> str:
    parts = [
        str(file.path),
        f"{file.size / 1e6:.1f} MB",
        file.what or "see the problems",
        f"family {file.family}" if file.family else "",
        f"SHA-256 {file.sha256}" if file.sha256 else "",
    ]
    return ", ".join(part for part in parts if part)


def _folder_lines(kind: FolderKind, folders: Sequence[Path]) -> list[str]:
    return [f"{kind}: {folder}, {_folder_state(folder)}" for folder in folders] or [f"{kind}: none"]


def _folder_state(folder: Path) -> str:
    if not folder.is_dir():
        return "does not exist"
    free = shutil.disk_usage(folder).free / 1e9
    return f"{len(weight_files([folder]))} files, {free:.1f} GB free"


def _preset_lines(folders: Mapping[FolderKind, Sequence[Path]]) -> list[str]:
    lines: list[str] = []
    for name, needed in PRESETS.items():
        missing = [file for file in needed if not find(file, folders[file.folder])]
        instead = [STAND_INS[file] for file in missing if file in STAND_INS]
        lacks = ", ".join(file.name for file in missing)
        if not missing:
            lines.append(f"{name}: complete")
        elif len(instead) == len(missing) and all(find(f, folders[f.folder]) for f in instead):
            there = ", ".join(file.name for file in instead)
            lines.append(f"{name}: complete with {there} in place of {lacks}")
        else:
            lines.append(f"{name}: lacks {lacks}")
    if any("lacks" in line for line in lines):
        lines.append(f"These files are needed only for the published quality; {_HOW_TO_DOWNLOAD}.")
    return lines


# Problems


def _folder_problems(folders: Mapping[FolderKind, Sequence[Path]]) -> list[str]:
    problems: list[str] = []
    for kind, of in folders.items():
        if of and of[0].is_dir() and not os.access(of[0], os.W_OK):
            problems.append(f"{of[0]} is not writable, so nothing can be downloaded into it.")
        first: dict[str, Path] = {}
        for path in weight_files(of):
            used = first.setdefault(path.name, path)
            if used != path and path.parent in of:
                problems.append(f"{path} is not used, because {used} comes first. Remove one.")
        problems += [
            f"{part} is left from a download that did not finish. Remove it."
            for file in RELEASED
            for folder in of
            if file.folder == kind
            for part in sorted(folder.glob(f"{file.name}.*.part"))
        ]
    return problems


def _family_problems(networks: Sequence[_File]) -> list[str]:
    """Find families that lack an autoencoder or a denoiser."""
    families: dict[str, set[str]] = {}
    for file in networks:
        if file.family and file.what:
            families.setdefault(file.family, set()).add(file.what.split(" of ")[0])
    problems: list[str] = []
    for family, there in families.items():
        missing = [part.title for part in (AUTOENCODER, DENOISER) if part.title not in there]
        if missing:
            where = f": {_HOW_TO_DOWNLOAD}" if family == RELEASED_FAMILY else ""
            problems.append(
                f"The family {family!r} has {' and '.join(sorted(there))}, but lacks "
                f"{' and '.join(missing)}, and networks of different families can't be "
                f"combined{where}."
            )
    return problems


def _package_problems() -> list[str]:
    if _version("huggingface_hub"):
        return []
    return ["Downloads need the package huggingface_hub: pip install huggingface_hub"]
