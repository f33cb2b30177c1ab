"""The training loop: optimiser, cosine schedule, EMA, mixed precision, discriminator, checkpoints.

Several processes (accelerate launch, torchrun) share out each batch; sample numbers and their noise
do not depend on how many there are.
"""

import hashlib
import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from ...accelerate import train_on_cpu
from ...files.whole import written_whole
from ...models import Autoencoder
from ...pictures.images import bicubic_upsample, to_01
from ...pictures.reading import readable_pictures
from ..evaluation.metrics import Measurer
from .config import TrainConfig, changed_settings
from .data import Crops, Sample, batches, split_pictures
from .discriminator import (
    FeatureDiscriminator,
    PatchDiscriminator,
    discriminator_loss,
    generator_loss,
)
from .export import export_network
from .tasks import TASKS, Losses, Task

logger = logging.getLogger(__name__)

LOG_EVERY = 10
SHOWN = 4
"""Validation pictures written to TensorBoard."""


class Trainer:
    """One training in one folder, which it goes on with if it holds a `state.pt`.

    Files in `out`: `state.pt` (to resume), `last.safetensors` and `best.safetensors` (averaged
    weights, for the nodes), `config.json`, and TensorBoard's events.

    Args:
        config: settings.
        data: folder of HR pictures.
        out: folder to write to.
        validation: folder of HR pictures to validate on; None holds some of `data` out.
        cpu: use the CPU even if there is a GPU.

    Raises:
        ValueError: there are no pictures, the batch does not divide among the processes, or `out`
        holds a training with other settings.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Path,
        out: Path,
        validation: Path | None = None,
        *,
        cpu: bool = False,
    ) -> None:
        self.config = config
        self.data = data
        self.out = out
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
        processes = self.accelerator.num_processes
        if config.batch % processes:
            raise ValueError(
                f"batch is {config.batch} and there are {processes} processes; it must divide."
            )
        pictures = readable_pictures(data)
        held_out: list[Path] = readable_pictures(validation) if validation else []
        if not validation:
            pictures, held_out = split_pictures(pictures, config.validation_pictures, config.seed)
        self.crops = Crops(
            pictures,
            config.crop,
            config.seed,
            degraded=config.degradation,
            augment=True,
            mild=config.mild,
            reuse=config.reuse,
        )
        self.held_out = replace(
            self.crops,
            pictures=held_out[: config.validation_pictures],
            crop=config.validation_crop,
            augment=False,
            reuse=1,
        )
        self.measurer = Measurer(["NIQE"]) if config.validation_niqe else None
        if self.measurer and self.measurer.missing:
            raise ValueError(f"validation_niqe: {self.measurer.missing['NIQE']}")
        self.step = 0
        self.best = float("inf")
        self._make_networks()
        self._restore()

    @property
    def task(self) -> Task:
        """The task without wrappers."""
        return self.accelerator.unwrap_model(self.wrapped)

    def _make_networks(self) -> None:
        config = self.config
        task = TASKS[config.task](config).to(memory_format=torch.channels_last)
        if not (self.out / "state.pt").exists():
            task.prepare(self.crops)
        if self.accelerator.device.type == "cpu":
            train_on_cpu(task)
        task.folder = self.out
        trained = [p for p in task.network.parameters() if p.requires_grad]
        optimizer = AdamW(
            trained, config.learning_rate, config.betas, weight_decay=config.weight_decay
        )
        self.ema = AveragedModel(
            task.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        ).requires_grad_(False)
        self.ema.to(self.accelerator.device)
        if config.compile:
            compile_networks(task)
        self.schedule = CosineAnnealingLR(optimizer, config.steps, config.learning_rate_end)
        self.wrapped, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.judge: nn.Module | None = None
        if config.loss.gan:
            of = config.discriminator
            torch.manual_seed(config.seed + 1)
            judge: nn.Module
            if of.features:
                judge = FeatureDiscriminator(of.channels)
            else:
                judge = PatchDiscriminator(task.gan_channels, of.channels, of.layers)
            parameters = [p for p in judge.parameters() if p.requires_grad]
            optimizer = AdamW(
                parameters, of.learning_rate, config.betas, weight_decay=config.weight_decay
            )
            self.judge, self.judge_optimizer = self.accelerator.prepare(judge, optimizer)

    # Running

    def run(self, stop_at: int | None = None) -> dict[str, float]:
        """Train to the last step, or to `stop_at`.

        Returns:
            The last validation's figures.
        """
        stop = min(self.config.steps, stop_at or self.config.steps)
        if self.step >= stop:
            logger.info("already trained for %d steps", self.step)
            return {}
        writer = self._writer()
        loader = self._loader(stop)
        figures: dict[str, float] = {}
        began, first = time.perf_counter(), self.step
        for batch in loader:
            terms = self._train_step(
                {key: x.to(self.accelerator.device) for key, x in batch.items()}
            )
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == stop:
                seconds = (time.perf_counter() - began) / (self.step - first)
                self._log(writer, terms, seconds, stop)
            if self.step % self.config.validate_every == 0 or self.step == stop:
                figures = self.validate(writer)
            if self.step % self.config.save_every == 0 or self.step == stop:
                self.save()
        if writer:
            writer.close()
        return figures

    def _loader(self, stop: int) -> DataLoader[Sample]:
        processes = self.accelerator.num_processes
        rank = self.accelerator.process_index
        return DataLoader(
            self.crops,
            batch_sampler=batches(self.step, stop, self.config.batch, rank, processes),
            num_workers=self.config.workers,
        )

    def _train_step(self, batch: Sample) -> dict[str, float]:
        with self.accelerator.autocast():
            losses: Losses = self.wrapped(batch)
        terms = dict(losses.terms)
        judging = self._judging() and losses.fake is not None
        if judging and self.judge is not None and losses.fake is not None:
            self.judge.requires_grad_(False)
            with self.accelerator.autocast():
                score = generator_loss(self.accelerator.unwrap_model(self.judge)(losses.fake))
            terms["gan"] = self.config.loss.gan * score
            self.judge.requires_grad_(True)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        self._check_finite("loss", total, terms)
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.task.network.parameters(), self.config.clip)
        if self.accelerator.scaler is None:  # which skips such steps itself
            self._check_finite("gradient", torch.as_tensor(norm), terms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.update_parameters(self.task.network)
        report = {name: term.detach() for name, term in terms.items()}
        report["gradient_norm"] = torch.as_tensor(norm)
        if judging and self.step % self.config.discriminator.every == 0:
            report["discriminator"] = self._train_judge(losses)
        return {name: float(value) for name, value in report.items()}

    def _check_finite(self, what: str, value: Tensor, terms: dict[str, Tensor]) -> None:
        if not value.isfinite():
            raise FloatingPointError(
                f"The {what} is {float(value)} at step {self.step}: "
                f"{ {name: float(term.detach()) for name, term in terms.items()} }. Lower "
                "learning_rate, or use precision 'bf16' or 'no'; the last saved state is untouched."
            )

    def _judging(self) -> bool:
        epoch = self.step * self.config.batch // len(self.crops) + 1
        return self.judge is not None and epoch >= self.config.discriminator.start_epoch

    def _train_judge(self, losses: Losses) -> Tensor:
        assert self.judge is not None
        assert losses.fake is not None
        assert losses.real is not None
        with self.accelerator.autocast():
            scores = self.judge(torch.cat([losses.real, losses.fake.detach()]))
        loss = discriminator_loss(*scores.float().chunk(2))
        self.accelerator.backward(loss)
        self.judge_optimizer.step()
        self.judge_optimizer.zero_grad()
        return loss.detach()

    # Validating

    @torch.no_grad()
    def validate(self, writer: SummaryWriter | None = None) -> dict[str, float]:
        """Figures of the averaged weights, a mean over the validation pictures. The best so far are
        exported."""
        if not self.accelerator.is_main_process:
            return {}
        network = self.ema.module.eval()
        sums: dict[str, float] = {}
        for i in range(len(self.held_out)):
            sample = {
                key: x[None].to(self.accelerator.device) for key, x in self.held_out[i].items()
            }
            figures, image = self.task.validate(network, sample)
            if self.measurer is not None:
                figures["niqe"] = self.measurer.measure(to_01(image), None)["NIQE"]
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / len(self.held_out)
            if writer and i < SHOWN:
                row = [bicubic_upsample(sample["lr"]), image, sample["hr"]]
                writer.add_image(f"lr, ours, hr/{i}", to_01(torch.cat(row, dim=3)[0]), self.step)
        logger.info("step %d: %s", self.step, "  ".join(f"{k} {v:.4f}" for k, v in sums.items()))
        if writer:
            for name, value in sums.items():
                writer.add_scalar(f"validation/{name}", value, self.step)
        if sums[self.config.best] < self.best:
            self.best = sums[self.config.best]
            self._export("best.safetensors", sums)
        self._export("last.safetensors", sums)
        return sums

    def _export(self, name: str, figures: dict[str, float]) -> None:
        provenance = {
            "data": self.data.name,
            "pictures": len(self.crops),
            "steps": self.step,
            "config": asdict(self.config),
            "validation": figures,
        }
        export_network(
            replace(self.task.model, network=self.ema.module, family=self.config.family),
            self.out / name,
            provenance=provenance,
        )

    def _writer(self) -> SummaryWriter | None:
        if not self.accelerator.is_main_process:
            return None
        self.out.mkdir(parents=True, exist_ok=True)
        return SummaryWriter(str(self.out), purge_step=self.step + 1 if self.step else None)

    def _log(
        self, writer: SummaryWriter | None, terms: dict[str, float], seconds: float, stop: int
    ) -> None:
        if writer is None:
            return
        for name, value in terms.items():
            writer.add_scalar(f"training/{name}", value, self.step)
        writer.add_scalar("training/learning_rate", self.schedule.get_last_lr()[0], self.step)
        logger.info(
            "step %d of %d, %.2f s each, %.0f min left: %s",
            self.step,
            stop,
            seconds,
            seconds * (stop - self.step) / 60,
            "  ".join(f"{name} {value:.4f}" for name, value in terms.items()),
        )

    # Saving and resuming

    def _parts(self) -> dict[str, Any]:
        """All that has a state_dict, by its name in `state.pt`."""
        parts = {
            "network": self.task.network,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        if self.judge is not None:
            parts["judge"] = self.accelerator.unwrap_model(self.judge)
            parts["judge_optimizer"] = self.judge_optimizer
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def _pictures(self) -> str:
        """Changes with the names of training and validation pictures."""
        names = [[p.name for p in crops.pictures] for crops in (self.crops, self.held_out)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def save(self) -> None:
        """Write all that a later run needs to go on as if it had not stopped."""
        if self.accelerator.is_main_process:
            with written_whole(self.out / "config.json") as file:
                file.write(json.dumps(asdict(self.config), indent=2).encode())
            state = {name: part.state_dict() for name, part in self._parts().items()}
            state |= {"step": self.step, "best": self.best, "pictures": self._pictures()}
            with written_whole(self.out / "state.pt") as file:
                torch.save(state, file)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            before = json.loads((self.out / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ValueError(
                f"{path} is of a training whose config.json can't be read: {e}. Put it back, or "
                "give another --out."
            ) from e
        if changed := changed_settings(before, self.config):
            raise ValueError(
                f"{self.out} holds a training with other settings: {'; '.join(changed)}. Go on "
                "with the same settings, or give another --out."
            )
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if state["pictures"] != self._pictures():
            raise ValueError(
                f"{self.out} holds a training on other pictures. Go on with the same folders, or "
                "give another --out."
            )
        self.step, self.best = state["step"], state["best"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        logger.info("goes on at step %d of %s", self.step, self.out)


def compile_networks(task: Task) -> None:
    """torch.compile in place: keys of state dicts stay as they are."""
    for network in task.children():
        if isinstance(network, Autoencoder):  # entered by encode and decode, not by forward
            network.encoder.compile()
            network.decoder.compile()
        else:
            network.compile()
