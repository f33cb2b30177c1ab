"""Trainings one after another, each with the networks of those before it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .config import read_config
from .trainer import Trainer


def train_stages(
    names: Sequence[str],
    overrides: Sequence[str],
    data: Path,
    out: Path,
    validation: Path | None = None,
    *,
    cpu: bool = False,
) -> None:
    """Train by several configs, in folders of `out` named after them.

    A training goes on where it stopped, and one that is done is skipped. Its `best.safetensors`
    replaces the file of its part in the `networks` of the later configs that name one.

    Args:
        names: of configs, as in `read_config`.
        overrides: for all of them.
        data: folder of HR pictures.
        out: folder to write to.
        validation: folder of HR pictures to validate on; None holds some of `data` out.
        cpu: use the CPU even if there is a GPU.
    """
    configs = {Path(name).stem: read_config(name, overrides) for name in names}
    if len(configs) < len(names):
        raise ValueError(f"These configs have the same name: {', '.join(names)}.")
    trained: dict[str, str] = {}
    for name, config in configs.items():
        networks = {part: path for part, path in trained.items() if getattr(config.networks, part)}
        config = replace(config, networks=replace(config.networks, **networks))
        trainer = Trainer(config, data, out / name, validation, cpu=cpu)
        trainer.run()
        trained[trainer.task.model.part] = str(out / name / "best.safetensors")
