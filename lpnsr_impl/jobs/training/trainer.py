"""The training loop: optimiser, cosine schedule, EMA, mixed precision, discriminator, checkpoints.

With several processes (accelerate launch, torchrun), each takes an equal part of every batch.
Samples and their noise do not depend on the number of processes.
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

LOG_EVERY = 10  # steps between log lines
NUM_SHOWN = 4
"""Number of validation pictures written to TensorBoard."""


class Trainer:
    """Runs one training in one folder, and resumes it if the folder has a `state.pt`.

    Files in `out`: `state.pt` (to resume), `last.safetensors` and `best.safetensors` (EMA weights,
    for the nodes), `config.json`, and TensorBoard events.

    Args:
        config: settings.
        data: folder of HR pictures.
        out: folder to write to.
        validation: folder of HR pictures to validate on; None to hold out some of `data`.
        cpu: use the CPU even if there is a GPU.

    Raises:
        ValueError: a folder has no pictures, the batch size is not a multiple of the number of
            processes, or `out` contains a training run with other settings or pictures.
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
                f"batch is {config.batch}, expected a multiple of {processes}, the number of "
                "processes."
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
            raise ValueError(f"validation_niqe is true, but {self.measurer.missing['NIQE']}")
        self.step = 0
        self.best = float("inf")
        self._make_networks()
        self._restore()

    @property
    def task(self) -> Task:
        """The task without data-parallel and mixed-precision wrappers."""
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
            settings = config.discriminator
            torch.manual_seed(config.seed + 1)
            judge: nn.Module
            if settings.features:
                judge = FeatureDiscriminator(settings.channels)
            else:
                judge = PatchDiscriminator(task.gan_channels, settings.channels, settings.layers)
            parameters = [p for p in judge.parameters() if p.requires_grad]
            optimizer = AdamW(
                parameters, settings.learning_rate, config.betas, weight_decay=config.weight_decay
            )
            self.judge, self.judge_optimizer = self.accelerator.prepare(judge, optimizer)

    def run(self, stop_at: int | None = None) -> dict[str, float]:
        """Train up to the last step, or up to step `stop_at`.

        Returns:
            Metrics of the last validation; empty if there was nothing to do.
        """
        stop = min(self.config.steps, stop_at or self.config.steps)
        if self.step >= stop:
            logger.info("already trained for %d steps", self.step)
            return {}
        writer = self._make_writer()
        loader = self._make_loader(stop)
        metrics: dict[str, float] = {}
        start_time, first_step = time.perf_counter(), self.step
        for batch in loader:
            terms = self._train_step(
                {key: x.to(self.accelerator.device) for key, x in batch.items()}
            )
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == stop:
                seconds = (time.perf_counter() - start_time) / (self.step - first_step)
                self._log(writer, terms, seconds, stop)
            if self.step % self.config.validate_every == 0 or self.step == stop:
                metrics = self.validate(writer)
            if self.step % self.config.save_every == 0 or self.step == stop:
                self.save()
        if writer:
            writer.close()
        return metrics

    def _make_loader(self, stop: int) -> DataLoader[Sample]:
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
        use_judge = self._is_judge_active() and losses.fake is not None
        if use_judge and self.judge is not None and losses.fake is not None:
            self.judge.requires_grad_(False)
            with self.accelerator.autocast():
                score = generator_loss(self.accelerator.unwrap_model(self.judge)(losses.fake))
            terms["gan"] = self.config.loss.gan * score
            self.judge.requires_grad_(True)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        self._check_finite("loss", total, terms)
        self.accelerator.backward(total)
        norm = self.accelerator.clip_grad_norm_(self.task.network.parameters(), self.config.clip)
        if self.accelerator.scaler is None:  # the fp16 scaler skips steps with infinite gradients
            self._check_finite("gradient", torch.as_tensor(norm), terms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.ema.update_parameters(self.task.network)
        report = {name: term.detach() for name, term in terms.items()}
        report["gradient_norm"] = torch.as_tensor(norm)
        if use_judge and self.step % self.config.discriminator.every == 0:
            report["discriminator"] = self._train_judge(losses)
        return {name: float(value) for name, value in report.items()}

    def _check_finite(self, what: str, value: Tensor, terms: dict[str, Tensor]) -> None:
        if not value.isfinite():
            raise FloatingPointError(
                f"The {what} is {float(value)} at step {self.step}: "
                f"{ {name: float(term.detach()) for name, term in terms.items()} }. Lower "
                "learning_rate, or set precision to 'bf16' or 'no', and resume from the last saved "
                "state."
            )

    def _is_judge_active(self) -> bool:
        """Whether there is a discriminator, and its `start_epoch` has begun."""
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

    @torch.no_grad()
    def validate(self, writer: SummaryWriter | None = None) -> dict[str, float]:
        """Measure the EMA weights, and export them to `last.safetensors`.

        If they are the best so far, also export them to `best.safetensors`.

        Returns:
            Metrics, averaged over the validation pictures; empty except on the main process.
        """
        if not self.accelerator.is_main_process:
            return {}
        network = self.ema.module.eval()
        means: dict[str, float] = {}
        for i in range(len(self.held_out)):
            sample = {
                key: x[None].to(self.accelerator.device) for key, x in self.held_out[i].items()
            }
            metrics, image = self.task.validate(network, sample)
            if self.measurer is not None:
                metrics["niqe"] = self.measurer.measure(to_01(image), None)["NIQE"]
            for name, value in metrics.items():
                means[name] = means.get(name, 0.0) + value / len(self.held_out)
            if writer and i < NUM_SHOWN:
                row = [bicubic_upsample(sample["lr"]), image, sample["hr"]]
                writer.add_image(f"lr, ours, hr/{i}", to_01(torch.cat(row, dim=3)[0]), self.step)
        logger.info("step %d: %s", self.step, "  ".join(f"{k} {v:.4f}" for k, v in means.items()))
        if writer:
            for name, value in means.items():
                writer.add_scalar(f"validation/{name}", value, self.step)
        if means[self.config.best] < self.best:
            self.best = means[self.config.best]
            self._export("best.safetensors", means)
        self._export("last.safetensors", means)
        return means

    def _export(self, name: str, metrics: dict[str, float]) -> None:
        provenance = {
            "data": self.data.name,
            "pictures": len(self.crops),
            "steps": self.step,
            "config": asdict(self.config),
            "validation": metrics,
        }
        export_network(
            replace(self.task.model, network=self.ema.module, family=self.config.family),
            self.out / name,
            provenance=provenance,
        )

    def _make_writer(self) -> SummaryWriter | None:
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

    def _stateful_parts(self) -> dict[str, Any]:
        """Objects whose state_dict is saved, by their key in `state.pt`."""
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

    def _hash_picture_names(self) -> str:
        """Hash the names of training and validation pictures."""
        names = [[p.name for p in crops.pictures] for crops in (self.crops, self.held_out)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def save(self) -> None:
        """Write the config and the full training state, from which a later run resumes."""
        if self.accelerator.is_main_process:
            with written_whole(self.out / "config.json") as file:
                file.write(json.dumps(asdict(self.config), indent=2).encode())
            state = {name: part.state_dict() for name, part in self._stateful_parts().items()}
            state |= {"step": self.step, "best": self.best, "pictures": self._hash_picture_names()}
            with written_whole(self.out / "state.pt") as file:
                torch.save(state, file)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        """Load `state.pt` if it exists.

        Raises:
            ValueError: it was saved with other settings or pictures, or config.json is unreadable.
        """
        path = self.out / "state.pt"
        if not path.exists():
            return
        try:
            before = json.loads((self.out / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise ValueError(
                f"{path} can't be resumed, since its config.json can't be read: {e}. Restore that "
                "file, or give another --out."
            ) from e
        if changed := changed_settings(before, self.config):
            raise ValueError(
                f"{self.out} contains a training run with other settings: {'; '.join(changed)}. "
                "Resume it with the same settings, or give another --out."
            )
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        if state["pictures"] != self._hash_picture_names():
            raise ValueError(
                f"{self.out} contains a training run on other pictures. Resume it with the same "
                "--data and --validation, or give another --out."
            )
        self.step, self.best = state["step"], state["best"]
        for name, part in self._stateful_parts().items():
            part.load_state_dict(state[name])
        logger.info("resuming %s at step %d", self.out, self.step)


def compile_networks(task: Task) -> None:
    """Compile the networks of a task in place, without changing the keys of their state dicts."""
    for network in task.children():
        if isinstance(network, Autoencoder):  # has encode and decode instead of forward
            network.encoder.compile()
            network.decoder.compile()
        else:
            network.compile()
