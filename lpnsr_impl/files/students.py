"""Detect the one-step students SinSR and RSD, distilled from ResShift's 15-step denoisers.

The tensors of a student and its teacher have the same shapes, except for RSD's additional input
channels. Therefore students are detected by the header or the name of the file.
"""

import re
from dataclasses import replace
from typing import get_args

from ..config import RSD, SINSR, StudentConfig
from .weights import Checkpoint

HEADER = "lpnsr.student"
"""Key of a safetensors header. The values "SinSR", "RSD" and "none" take precedence over the file
name. RSD's published files have the keys `noise_mode`, `noise_channels` and `cond_lq` instead."""

_KINDS = {kind.name: kind for kind in (SINSR, RSD)}
_NAMES = {"SinSR": r"(?<![a-z])sinsr(?![a-z])", "RSD": r"rsd_student"}
_X2 = r"(?<![a-z0-9])(x2|2x)(?![a-z0-9])"
_CONDITIONS = get_args(StudentConfig.__annotations__["condition"])


def student_of(checkpoint: Checkpoint) -> StudentConfig | None:
    """Return the config of a one-step student, or None for any other denoiser.

    Raises:
        UnsupportedCheckpointError: the student is of an unsupported kind, or its header is invalid.
    """
    planes = _extra_channels(checkpoint)
    kind = _kind(checkpoint, planes)
    if kind == "RSD":
        return _rsd(checkpoint, planes)
    if planes:
        raise checkpoint.error(
            f"it has {planes} more input channels than other denoisers, like an RSD student, but "
            f"{HEADER} in its header is {kind!r}"
        )
    return _KINDS.get(kind)


def expected_planes(checkpoint: Checkpoint) -> int:
    """Return the number of noise channels that an RSD student's header gives. The default is 1."""
    number = checkpoint.header.get("noise_channels", "1")
    if not number.isdecimal() or int(number) < 1:
        raise checkpoint.error(
            f"noise_channels in its header is {number!r}, expected a number of 1 or more"
        )
    return int(number)


def student_header(student: StudentConfig) -> dict[str, str]:
    """Return the header entries by which `student_of` detects a student, whatever its file name."""
    header = {HEADER: student.name}
    if student.noise_planes:
        header |= {
            "noise_mode": "concat",
            "noise_channels": str(student.noise_planes),
            "cond_lq": student.condition,
        }
    return header


def _kind(checkpoint: Checkpoint, planes: int) -> str:
    if (kind := checkpoint.header.get(HEADER)) is not None:
        if kind not in (*_KINDS, "none"):
            raise checkpoint.error(
                f"{HEADER} in its header is {kind!r}, expected {', '.join(_KINDS)} or none"
            )
        return kind
    if planes or "noise_mode" in checkpoint.header:
        return "RSD"
    name = checkpoint.name.lower()
    return next((kind for kind, pattern in _NAMES.items() if re.search(pattern, name)), "none")


def _rsd(checkpoint: Checkpoint, planes: int) -> StudentConfig:
    header = checkpoint.header
    mode = header.get("noise_mode", "concat")
    if mode != "concat":
        raise checkpoint.error(
            f"it is an RSD student with noise_mode {mode!r}, but only 'concat' is supported. Use "
            "rsd_student_final.safetensors, which LPNSR Download Models downloads"
        )
    if "2" in (header.get("scale"), header.get("sf")) or re.search(_X2, checkpoint.name.lower()):
        raise checkpoint.error(
            "it is an RSD student for x2, but this pack upscales x4. Use the x4 student, "
            "rsd_student_final.safetensors, which LPNSR Download Models downloads"
        )
    if planes != expected_planes(checkpoint):
        raise checkpoint.error(
            f"it is an RSD student with {planes} channels of noise in its input, expected "
            f"{expected_planes(checkpoint)}"
        )
    condition = header.get("cond_lq", RSD.condition)
    if condition not in _CONDITIONS:
        raise checkpoint.error(
            f"cond_lq in its header is {condition!r}, expected {' or '.join(_CONDITIONS)}"
        )
    return replace(RSD, noise_planes=planes, condition=condition)


def _extra_channels(checkpoint: Checkpoint) -> int:
    """Count the input channels beyond those of the state and the condition."""
    inputs = checkpoint.shape("input_blocks.0.0.weight", 4)[1]
    return inputs - checkpoint.shape("out.2.weight", 4)[0] - 3
