"""The `evaluate` command: from its options to tables, sheets and figures."""

import argparse
from pathlib import Path

from ...config import StudentConfig
from ..options import chosen_student, model_fingerprints, preset_method, with_options
from ..upscaler import Method, load_upscaler
from .experiments import EXPERIMENTS
from .metrics import Measurer
from .report import contact_sheet, markdown_table
from .run import evaluate, find_pairs

DEFAULT_STEPS = 4


def run(options: argparse.Namespace) -> str:
    """Do what the options say (see `lpnsr_impl.cli`).

    Returns:
        The table, which is also in `out`.

    Raises:
        ValueError: options contradict each other.
    """
    chosen = options.preset or options.predictor_off or options.steps != DEFAULT_STEPS
    if options.experiment and chosen:
        raise ValueError("--experiment chooses presets, steps and switches; leave them out.")
    student = chosen_student(options)
    if student and options.experiment not in (None, "table6"):
        raise ValueError(
            f"--experiment {options.experiment} compares steps and switches, and {student.name} "
            "has one step and none. Leave it out, or give table6."
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
    methods = chosen_methods(options, student)
    settings: dict[str, object] = {
        "metrics": measurer.labels,
        "tile": options.tile,
        "lr": str(options.lr.resolve()),
        "hr": str(options.hr.resolve()) if options.hr else "",
        "models": model_fingerprints(
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


def chosen_methods(
    options: argparse.Namespace, student: StudentConfig | None = None
) -> list[Method]:
    """The methods that the options name, of a one-step student if the denoiser is one.

    Raises:
        ValueError: one needs a network that is not given, or two starts have one name.
    """
    starts = [Path(name).name for name in options.upscale_model]
    if len(set(starts)) < len(starts):
        raise ValueError(f"Two upscale models have the same file name: {', '.join(starts)}.")
    if options.experiment:
        methods = EXPERIMENTS[options.experiment](starts)
    else:
        methods = [Method("bicubic", steps=0), preset_method(options, starts, student)]
    return with_options(methods, options, student)
