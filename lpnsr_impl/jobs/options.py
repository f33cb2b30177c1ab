"""Interprets the command-line options that `evaluate` and `upscale` share."""

import argparse
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..config import StudentConfig
from ..files.checkpoints import DENOISER, describe
from ..files.folders import find_weights
from ..files.students import student_of
from ..files.weights import read_checkpoint
from ..method.sampler import ALL_ON, predictor_steps
from .upscaler import BICUBIC, Method

logger = logging.getLogger(__name__)


def read_student(options: argparse.Namespace) -> StudentConfig | None:
    """Read the settings of a one-step student from the --denoiser file; None for other files.

    Raises:
        FileNotFoundError: the file does not exist.
        UnsupportedCheckpointError: the file can't be read, or is an unsupported kind of student.
    """
    checkpoint = read_checkpoint(find_weights(options.denoiser))
    if describe(checkpoint, "denoiser") != DENOISER.title:
        return None  # `load_upscaler` raises an error later
    return student_of(checkpoint)


def make_preset_method(
    options: argparse.Namespace, starts: Sequence[str], student: StudentConfig | None = None
) -> Method:
    """Make the method that --preset, --steps and --predictor-off select.

    `apply_options` adds the other options.

    Args:
        options: see `lpnsr_impl.cli`.
        starts: files of upscale models; PreSet-B starts from the output of the first one.
        student: settings of a one-step student, or None. It takes one step without a noise
            predictor, but starts as the preset does.

    Raises:
        ValueError: the preset is PreSet-B, and there is no upscale model.
    """
    preset = options.preset or ("B" if starts else "A")
    if preset == "B" and not starts:
        raise ValueError("PreSet-B starts from an upscale model. Give its file as --upscale-model.")
    start = Path(starts[0]).name if preset == "B" else BICUBIC
    if student:
        logger.info("%s takes one step; --steps and --predictor-off are ignored.", student.name)
        return Method(student.name, start=start, steps=1)
    off = set(ALL_ON) if preset == "ResShift" else set(options.predictor_off)
    return Method(
        preset if preset == "ResShift" else f"PreSet-{preset}",
        start=start,
        steps=options.steps,
        predictor_on={t: t not in off for t in ALL_ON},
    )


def apply_options(
    methods: Sequence[Method], options: argparse.Namespace, student: StudentConfig | None = None
) -> list[Method]:
    """Set the predictor mode, colour fix and seed of each method.

    For a one-step student, also limit the steps to one, and turn the noise predictor off.

    Raises:
        ValueError: a method needs a noise predictor, but --noise-predictor is none.
    """
    if student:
        methods = [replace(m, steps=min(m.steps, 1), predictor_on={}) for m in methods]
    with_predictor = [m.name for m in methods if predictor_steps(m.steps, m.predictor_on)]
    if options.noise_predictor == "none" and with_predictor:
        raise ValueError(
            f"{', '.join(with_predictor)} needs a noise predictor, but --noise-predictor is none. "
            "Give a noise predictor, or --preset ResShift."
        )
    shared = {key: getattr(options, key) for key in ("predictor_mode", "color_fix", "seed")}
    return [replace(method, **shared) for method in methods]


def fingerprint_models(names: Sequence[str]) -> dict[str, str]:
    """Map the name of each model file to the start of its SHA-256. The name "none" is skipped."""
    return {
        name: hashlib.sha256(find_weights(name).read_bytes()).hexdigest()[:16]
        for name in names
        if name != "none"
    }
