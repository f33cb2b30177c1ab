"""Runs several trainings in sequence, each with the networks that the earlier ones trained."""

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
    """Train several configs in sequence, each in a subfolder of `out` named after the config.

    Unfinished trainings are resumed, and finished ones skipped. Where a later config gives a file
    for a network that was trained before, the `best.safetensors` of that training is used instead.

    Args:
        names: config names, see `read_config`.
        overrides: overrides for all configs, see `read_config`.
        data: folder of HR pictures.
        out: folder to write to.
        validation: folder of HR pictures to validate on; None to hold out some of `data`.
        cpu: use the CPU even if there is a GPU.

    Raises:
        ValueError: two configs have the same name. See also `read_config` and `Trainer`.
    """
    configs = {Path(name).stem: read_config(name, overrides) for name in names}
    if len(configs) < len(names):
        raise ValueError(f"Two of the configs {', '.join(names)} have the same name. Rename one.")
    trained: dict[str, str] = {}
    for name, config in configs.items():
        networks = {part: path for part, path in trained.items() if getattr(config.networks, part)}
        config = replace(config, networks=replace(config.networks, **networks))
        trainer = Trainer(config, data, out / name, validation, cpu=cpu)
        trainer.run()
        trained[trainer.task.model.part] = str(out / name / "best.safetensors")
