"""Runs the `evaluate` command, which writes tables, contact sheets and figures."""

import argparse
from pathlib import Path

from ...config import StudentConfig
from ..options import apply_options, fingerprint_models, make_preset_method, read_student
from ..upscaler import Method, load_upscaler
from .experiments import EXPERIMENTS
from .metrics import Measurer
from .report import contact_sheet, markdown_table
from .run import evaluate, find_pairs

DEFAULT_STEPS = 4


def run(options: argparse.Namespace) -> str:
    """Run the command with the options of `lpnsr_impl.cli`.

    Returns:
        The table in Markdown, which is also written to `out`.

    Raises:
        ValueError: options contradict each other.
    """
    has_method_options = options.preset or options.predictor_off or options.steps != DEFAULT_STEPS
    if options.experiment and has_method_options:
        raise ValueError(
            "--experiment sets the presets, steps and predictor switches. Leave out --preset, "
            "--steps and --predictor-off."
        )
    student = read_student(options)
    if student and options.experiment not in (None, "table6"):
        raise ValueError(
            f"--experiment {options.experiment} compares steps and switches, but {student.name} "
            "has one step and no noise predictor. Leave --experiment out, or give table6."
        )
    upscaler = load_upscaler(
        options.autoencoder,
        options.denoiser,
        options.noise_predictor,
        options.upscale_model,
        device=options.device,
        tile=options.tile,
    )
    out: Path = options.out
    pairs = find_pairs(options.lr, options.hr, out)
    if options.experiment == "noise":
        from .noise_maps import noise_experiment

        text = noise_experiment(upscaler, pairs, out, options.seed)
        (out / "noise.md").write_text(text, encoding="utf-8")
        return text
    measurer = Measurer(options.metrics)
    methods = make_methods(options, student)
    settings: dict[str, object] = {
        "metrics": measurer.labels,
        "tile": options.tile,
        "lr": str(options.lr.resolve()),
        "hr": str(options.hr.resolve()) if options.hr else "",
        "models": fingerprint_models(
            [
                options.autoencoder,
                options.denoiser,
                options.noise_predictor,
                *options.upscale_model,
            ]
        ),
    }
    rows = evaluate(upscaler, methods, pairs, measurer, out, settings)
    text = markdown_table(rows, measurer.missing)
    (out / "table.md").write_text(text, encoding="utf-8")
    contact_sheet(pairs, methods, out).save(out / "sheet.jpg", quality=90)
    return text


def make_methods(options: argparse.Namespace, student: StudentConfig | None = None) -> list[Method]:
    """Create the methods to compare from the command-line options.

    Args:
        options: see `lpnsr_impl.cli`.
        student: config of the one-step student, or None for other denoisers.

    Raises:
        ValueError: a method needs a network that is not given, or two upscale models have the same
            file name.
    """
    starts = [Path(name).name for name in options.upscale_model]
    if len(set(starts)) < len(starts):
        raise ValueError(
            f"Two upscale models have the same file name: {', '.join(starts)}. Rename one."
        )
    if options.experiment:
        methods = EXPERIMENTS[options.experiment](starts)
    else:
        methods = [Method("bicubic", steps=0), make_preset_method(options, starts, student)]
    return apply_options(methods, options, student)
