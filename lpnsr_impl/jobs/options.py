"""Methods and models from the options that `evaluate` and `upscale` share."""

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


def chosen_student(options: argparse.Namespace) -> StudentConfig | None:
    """Settings of the chosen denoiser if it is a one-step student, else None.

    Raises:
        FileNotFoundError: the file does not exist.
        UnsupportedCheckpointError: the file is not a supported denoiser.
    """
    checkpoint = read_checkpoint(find_weights(options.denoiser))
    if describe(checkpoint, "denoiser") != DENOISER.title:
        return None  # loading it raises the error
    return student_of(checkpoint)


def preset_method(
    options: argparse.Namespace, starts: Sequence[str], student: StudentConfig | None = None
) -> Method:
    """Method of the chosen preset. `with_options` adds the other options.

    Args:
        options: see `lpnsr_impl.cli`.
        starts: files of upscale models; PreSet-B starts from the first.
        student: replaces the preset's steps; the start stays.

    Raises:
        ValueError: PreSet-B has no upscale model.
    """
    preset = options.preset or ("B" if starts else "A")
    if preset == "B" and not starts:
        raise ValueError("PreSet-B starts from an upscale model. Give its file as --upscale-model.")
    start = Path(starts[0]).name if preset == "B" else BICUBIC
    if student:
        logger.info("%s takes its one step, whatever --steps and switches say.", student.name)
        return Method(student.name, start=start, steps=1)
    off = set(ALL_ON) if preset == "ResShift" else set(options.predictor_off)
    return Method(
        preset if preset == "ResShift" else f"PreSet-{preset}",
        start=start,
        steps=options.steps,
        predictor_on={t: t not in off for t in ALL_ON},
    )


def with_options(
    methods: Sequence[Method], options: argparse.Namespace, student: StudentConfig | None = None
) -> list[Method]:
    """Add predictor mode, colour fix and seed of the options to methods, and limit a student to one
    step.

    Raises:
        ValueError: a method needs a noise predictor, and --noise-predictor is none.
    """
    if student:
        methods = [replace(m, steps=min(m.steps, 1), predictor_on={}) for m in methods]
    needy = [m.name for m in methods if predictor_steps(m.steps, m.predictor_on)]
    if options.noise_predictor == "none" and needy:
        raise ValueError(
            f"{', '.join(needy)} needs a noise predictor, and --noise-predictor is none. Give "
            "one, or --preset ResShift."
        )
    shared = {key: getattr(options, key) for key in ("predictor_mode", "color_fix", "seed")}
    return [replace(method, **shared) for method in methods]


def model_fingerprints(names: Sequence[str]) -> dict[str, str]:
    """Shortened SHA-256 of each model file, by name; "none" is left out."""
    return {
        name: hashlib.sha256(find_weights(name).read_bytes()).hexdigest()[:16]
        for name in names
        if name != "none"
    }
