"""From the options that `evaluate` and `upscale` share to methods and models."""

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
    """What is special about the denoiser of the options if it is a one-step student.

    Raises:
        FileNotFoundError: there is no such file.
        UnsupportedCheckpointError: it is no denoiser that runs here.
    """
    checkpoint = read_checkpoint(find_weights(options.denoiser))
    if describe(checkpoint, "denoiser") != DENOISER.title:
        return None  # which loading it will tell
    return student_of(checkpoint)


def preset_method(
    options: argparse.Namespace, starts: Sequence[str], student: StudentConfig | None = None
) -> Method:
    """The preset of the options; `with_options` completes it.

    Args:
        options: see `lpnsr_impl.cli`.
        starts: files of upscale models; the first is PreSet-B's.
        student: the method, in place of a preset's, starting as the preset does.

    Raises:
        ValueError: PreSet-B has no start.
    """
    preset = options.preset or ("B" if starts else "A")
    if preset == "B" and not starts:
        raise ValueError("PreSet-B starts from an SR network; give its file as --upscale-model.")
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
    """Methods with the predictor mode, colour fix and seed of the options, and with the one step of
    a student.

    Raises:
        ValueError: one asks for a noise predictor, and the options name none.
    """
    if student:
        methods = [replace(m, steps=min(m.steps, 1), predictor_on={}) for m in methods]
    needy = [m.name for m in methods if predictor_steps(m.steps, m.predictor_on)]
    if options.noise_predictor == "none" and needy:
        raise ValueError(
            f"{', '.join(needy)} asks for a noise predictor, and --noise-predictor is none. Give "
            "one, or --preset ResShift."
        )
    shared = {key: getattr(options, key) for key in ("predictor_mode", "color_fix", "seed")}
    return [replace(method, **shared) for method in methods]


def model_fingerprints(names: Sequence[str]) -> dict[str, str]:
    """SHA-256, shortened, of each model file; "none" is left out."""
    return {
        name: hashlib.sha256(find_weights(name).read_bytes()).hexdigest()[:16]
        for name in names
        if name != "none"
    }
