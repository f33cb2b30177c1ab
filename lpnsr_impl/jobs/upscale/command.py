"""Runs the `upscale` command."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import safe_open

from ...files.folders import BUNDLED_UPSCALE_MODELS, find_weights
from ...pictures.target import Target
from ..options import apply_options, make_preset_method, read_student
from .job import Outcome, Report, Worker
from .networks import Networks, Settings
from .plan import Item, Plan, make_plan
from .results import MAX_REQUESTS, Job, Results

logger = logging.getLogger(__name__)

BUNDLED_START = BUNDLED_UPSCALE_MODELS / "lpnsr_lite_compact_x4.safetensors"

INTERRUPTED = 130
"""Exit code after Ctrl-C, the same as in shells."""


def run(options: argparse.Namespace) -> int:
    """Run the command with the options of `lpnsr_impl.cli`.

    Returns:
        Exit code: 0 on success, 1 if a picture or folder failed, 130 after Ctrl-C.

    Raises:
        ValueError: options contradict each other, or results would overwrite other files.
        OSError: a folder can't be read.
    """
    settings = make_settings(options)
    plan = make_plan(options.source, options.out, options.format)
    fingerprint = settings.fingerprint() + ("-stripped" if options.strip_metadata else "")
    job = Job(plan.source, plan.out, fingerprint, options.overwrite, options.strip_metadata)
    if not options.dry_run:
        Results(job).sweep(plan.items)
    todo = _find_unfinished(job, plan.items)
    logger.info(
        "%s: %d pictures, %d of them already upscaled. Method %s, start %s, %d steps, %s.",
        options.source, len(plan.items), len(plan.items) - len(todo), settings.method.name,
        settings.method.start, settings.method.steps, settings.target,
    )  # fmt: skip
    if options.dry_run:
        for item in todo:
            logger.info("would make %s from %s", item.result, item.name)
    if options.dry_run or not todo:
        return Report(0, plan.problems).finish()
    return _run_job(job, plan, todo, settings, options)


def _run_job(
    job: Job, plan: Plan, todo: Sequence[Item], settings: Settings, options: argparse.Namespace
) -> int:
    report = Report(len(todo), plan.problems)
    try:
        report.follow(_upscale_pictures(job, todo, settings, options))
    except KeyboardInterrupt:
        logger.warning("Stopped. Run the same command again to continue.")
        report.finish()
        return INTERRUPTED
    return report.finish()


def _upscale_pictures(
    job: Job, todo: Sequence[Item], settings: Settings, options: argparse.Namespace
) -> Iterator[Outcome]:
    if options.ray:
        from .ray_job import run_on_ray

        return run_on_ray(job, todo, settings, options.ray, options.ray_workers)
    worker = Worker(job, Networks(settings))
    return map(worker.upscale, todo)


def _find_unfinished(job: Job, items: Sequence[Item]) -> list[Item]:
    results = Results(job)

    def is_done(item: Item) -> bool:
        try:
            return results.is_done(item)
        except OSError:
            return False  # `Worker.upscale` reports the error

    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        done = pool.map(is_done, items)
        return [item for item, is_done in zip(items, done, strict=True) if not is_done]


def make_settings(options: argparse.Namespace) -> Settings:
    """Make the job's settings from the command-line options.

    Raises:
        FileNotFoundError: a model's file does not exist.
        ValueError: options contradict each other.
    """
    start = options.upscale_model
    if start is None and options.preset in (None, "B") and _fits_bundled_start(options.denoiser):
        start = BUNDLED_START.name
    student = read_student(options)
    preset = make_preset_method(options, [start] if start else [], student)
    (method,) = apply_options([preset], options, student)
    return Settings(
        autoencoder=_resolve_path(options.autoencoder),
        denoiser=_resolve_path(options.denoiser),
        noise_predictor=_resolve_path(options.noise_predictor),
        upscale_model=_resolve_path(start) if start and method.start == Path(start).name else None,
        method=method,
        precision=options.precision,
        tile=options.tile,
        device=options.device or "",
        wrap=options.wrap,
        compiled=options.torch_compile,
        target=Target(options.factor, options.longest_side),
    )


def _fits_bundled_start(denoiser: str) -> bool:
    """Whether the bundled upscale model was trained for the denoiser's family."""
    path = find_weights(denoiser)
    if path.suffix != ".safetensors":
        return False
    families: list[str | None] = []
    for file in (path, BUNDLED_START):
        with safe_open(file, "pt") as tensors:
            families.append((tensors.metadata() or {}).get("lpnsr.family"))
    return families[0] == families[1]


def _resolve_path(name: str) -> str:
    """Make a model's path absolute, since Ray workers run in other folders. Names of bundled files
    are returned unchanged."""
    return str(Path(name).resolve()) if Path(name).is_file() else name
