"""Runs the `upscale` command."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import safe_open

from ...files.folders import BUNDLED_UPSCALE_MODELS, find_weights
from ...pictures.target import Target
from ..options import chosen_student, preset_method, with_options
from .job import Outcome, Report, Worker
from .networks import Networks, Settings
from .plan import Item, Plan, make_plan
from .results import MAX_REQUESTS, Job, Results

logger = logging.getLogger(__name__)

BUNDLED_START = BUNDLED_UPSCALE_MODELS / "lpnsr_lite_compact_x4.safetensors"

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


def run(options: argparse.Namespace) -> int:
    """Run the command with the options of `lpnsr_impl.cli`.

    Returns:
        Exit code: 0 if every picture has its result.

    Raises:
        ValueError: options contradict each other, or results would clash with other files.
        OSError: a folder can't be read.
    """
    settings = chosen_settings(options)
    plan = make_plan(options.source, options.out, options.format)
    fingerprint = settings.fingerprint() + ("-stripped" if options.strip_metadata else "")
    job = Job(plan.source, plan.out, fingerprint, options.overwrite, options.strip_metadata)
    if not options.dry_run:
        Results(job).sweep(plan.items)
    todo = _not_done(job, plan.items)
    logger.info(
        "%s: %d pictures, %d of them done before. %s, start %s, %d steps, %s.", options.source,
        len(plan.items), len(plan.items) - len(todo), settings.method.name, settings.method.start,
        settings.method.steps, settings.target,
    )  # fmt: skip
    if options.dry_run:
        for item in todo:
            logger.info("would make %s from %s", item.result, item.name)
        return Report(0, plan.problems).finish()
    return _do(job, plan, todo, settings, options) if todo else Report(0, plan.problems).finish()


def _do(
    job: Job, plan: Plan, todo: Sequence[Item], settings: Settings, options: argparse.Namespace
) -> int:
    report = Report(len(todo), plan.problems)
    try:
        report.follow(_outcomes(job, todo, settings, options))
    except KeyboardInterrupt:
        logger.warning("Stopped. Run the same command again to go on.")
        report.finish()
        return INTERRUPTED
    return report.finish()


def _outcomes(
    job: Job, todo: Sequence[Item], settings: Settings, options: argparse.Namespace
) -> Iterator[Outcome]:
    if options.ray:
        from .ray_job import do_on_ray

        return do_on_ray(job, todo, settings, options.ray, options.ray_workers)
    worker = Worker(job, Networks(settings))
    return map(worker.do, todo)


def _not_done(job: Job, items: Sequence[Item]) -> list[Item]:
    results = Results(job)

    def is_done(item: Item) -> bool:
        try:
            return results.is_done(item)
        except OSError:
            return False  # the error is reported when its turn comes

    with ThreadPoolExecutor(MAX_REQUESTS) as pool:
        done = pool.map(is_done, items)
        return [item for item, is_done in zip(items, done, strict=True) if not is_done]


def chosen_settings(options: argparse.Namespace) -> Settings:
    """Settings from the options.

    Raises:
        FileNotFoundError: a model's file does not exist.
        ValueError: options contradict each other.
    """
    start = options.upscale_model
    if start is None and options.preset in (None, "B") and _fits_bundled_start(options.denoiser):
        start = BUNDLED_START.name
    student = chosen_student(options)
    preset = preset_method(options, [start] if start else [], student)
    (method,) = with_options([preset], options, student)
    return Settings(
        autoencoder=_portable(options.autoencoder),
        denoiser=_portable(options.denoiser),
        noise_predictor=_portable(options.noise_predictor),
        upscale_model=_portable(start) if start and method.start == Path(start).name else None,
        method=method,
        precision=options.precision,
        tile=options.tile,
        device=options.device or "",
        wrap=options.wrap,
        compiled=options.torch_compile,
        target=Target(options.factor, options.longest_side),
    )


def _fits_bundled_start(denoiser: str) -> bool:
    """Whether the bundled upscale model was made for the denoiser's family."""
    path = find_weights(denoiser)
    if path.suffix != ".safetensors":
        return False
    families: list[str | None] = []
    for file in (path, BUNDLED_START):
        with safe_open(file, "pt") as tensors:
            families.append((tensors.metadata() or {}).get("lpnsr.family"))
    return families[0] == families[1]


def _portable(name: str) -> str:
    """Name of a model for processes in other folders: an absolute path, or a bundled file's."""
    return str(Path(name).resolve()) if Path(name).is_file() else name
