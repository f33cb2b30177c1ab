"""The one way of a picture: start, encode, chain, decode, in tiles and within memory.

ComfyUI's nodes, `upscale` and `evaluate` go it; `passes` goes it again until a size is reached.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..config import LPNSR_SCHEDULE, SCALE, PredictorMode, Wrap
from ..method.sampler import ALL_ON, StepCallback, predictor_steps, switches_for
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.target import WORKING_PICTURES
from ..pictures.tiling import TilePlan
from ..pictures.wrap import resampled, upsampled
from .estimates import autoencoder_activations, unet_activations
from .finish import Finish, finished
from .memory import Managed, Memory, in_results
from .pipeline import decode_latent, encode_start, run_chain
from .progress import Call, Progress
from .tiles import Tiles, Tiling, Work

ENCODE_WORK, DECODE_WORK = 4.0, 5.0
"""In calls of the denoiser, as `python -m tests.bench speed` measures them."""

_START_PIXELS = 1 << 24
"""Of the x4 starts of a batch that are made before they are encoded; four at least."""

Start = Callable[[Tensor, Wrap], Tensor]
"""y0-hat of pictures by an SR network: start(lr [B,3,h,w], wrap) -> [B,3,4h,4w], all in [0,1]."""


@dataclass(frozen=True)
class Sampling:
    """How the chain runs.

    Attributes:
        seed: 0 to 2^64 - 1; each picture of a batch has the same noise.
        steps: 1 to T; a one-step student takes its step whatever this says.
        kappa: scale of the noise.
        predictor_on: {t: on}, LPNSR's switches at t = 4, 3 and 2.
        predictor_mode: see `sampler.sample`.
    """

    seed: int = 0
    steps: int = 4
    kappa: float = 2.0
    predictor_on: Mapping[int, bool] = field(default_factory=lambda: dict(ALL_ON))
    predictor_mode: PredictorMode = "sample"


class Networks(Protocol):
    """The networks of one family; `noise_predictor` is None for plain ResShift and students."""

    @property
    def autoencoder(self) -> Managed[Autoencoder]: ...

    @property
    def denoiser(self) -> Managed[Denoiser]: ...

    @property
    def noise_predictor(self) -> Managed[NoisePredictor] | None: ...


class Engine:
    """Takes pictures of any size through networks.

    Attributes:
        networks: of one family.
        memory: looks after them, and says what is free.
        tiling: wishes for tiles.
        progress: told of what happens.
    """

    def __init__(
        self,
        networks: Networks,
        memory: Memory,
        tiling: Tiling | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.networks = networks
        self.memory = memory
        self.tiling = tiling or Tiling()
        self.progress = progress or Progress()

    @property
    def _denoiser(self) -> Denoiser:
        return self.networks.denoiser.network

    def schedule(self, kappa: float = 2.0) -> Schedule:
        """The denoiser's, with the kappa of a run."""
        return Schedule(**vars(self._denoiser.schedule), kappa=kappa)

    def switches(self, sampling: Sampling) -> Mapping[int, bool]:
        """The switches that apply, and a check that the networks can run these steps.

        With a denoiser of another number of steps than 4 and no predictor none does: there is no
        predictor to choose for ResShift's 15-step models and their students.

        Raises:
            ValueError: the denoiser has fewer steps, or a switch is on without a predictor.
        """
        if self._denoiser.student:
            return {}
        num_timesteps = self._denoiser.schedule.num_timesteps
        if sampling.steps > num_timesteps:
            raise ValueError(
                f"steps is {sampling.steps}, but this denoiser has {num_timesteps} steps. Set "
                f"steps to {num_timesteps} or less."
            )
        predictor = self.networks.noise_predictor
        if num_timesteps != LPNSR_SCHEDULE.num_timesteps and predictor is None:
            return {}
        predictor_on = switches_for(num_timesteps, sampling.predictor_on)
        predictor_at = predictor_steps(sampling.steps, predictor_on)
        if predictor_at and predictor is None:
            raise ValueError(
                f"The noise predictor is switched on at t = {', '.join(map(str, predictor_at))}, "
                "but noise_predictor is 'none'. Choose one where models are loaded, or switch the "
                "predictor off."
            )
        return predictor_on

    def sample_work(self, sampling: Sampling) -> float:
        """Calls of networks for one picture.

        Raises:
            ValueError: see `switches`.
        """
        if self._denoiser.student:
            return 1
        return sampling.steps + len(predictor_steps(sampling.steps, self.switches(sampling)))

    def encode(self, start: Tensor, wrap: Wrap = "none") -> Tensor:
        """y0 of pre-upsampled pictures. `ENCODE_WORK` for each.

        Args:
            start: [B,3,4h,4w] in [0,1] or a little beyond.
            wrap: axes in which they go on periodically.

        Returns:
            [B,C,H,W], padded (`UNetConfig.padded`), a result.
        """
        b, _, height, width = start.shape
        h, w = height // SCALE, width // SCALE
        size = self._denoiser.config.padded(h, w, wrap)
        managed = self.networks.autoencoder

        def run(pictures: slice, plan: TilePlan, on_tile: Callable[[], None]) -> Tensor:
            return encode_start(
                managed.network, start[pictures], size, plan, on_tile, managed.device, wrap
            )

        tiles = self._autoencoder_tiles(b, (h, w), wrap)
        calls = [Call("encoding", ENCODE_WORK)]
        return torch.cat([in_results(self.memory, y0) for _, y0 in tiles.run(run, calls)])

    def sample(
        self,
        y0: Tensor,
        lr: Tensor,
        sampling: Sampling,
        wrap: Wrap = "none",
        watch: StepCallback | None = None,
    ) -> Tensor:
        """Run the chain. `sample_work` for each picture.

        Args:
            y0: [B,C,H,W], padded.
            lr: [B,3,h,w] in [-1,1], not padded.
            sampling: how.
            wrap: axes in which the pictures go on periodically.
            watch: called after each step, with as many pictures as go together; again from the
                first step where memory has run out.

        Returns:
            x0 [B,C,H,W], padded, a result.

        Raises:
            ValueError: see `switches`.
            MemoryError: not even the smallest tiles fit.
        """
        predictor_on, student = self.switches(sampling), self._denoiser.student
        steps = 1 if student else sampling.steps
        predictor_at = predictor_steps(steps, predictor_on)
        denoiser = self.networks.denoiser
        predictor = self.networks.noise_predictor if predictor_at else None
        schedule, device = self.schedule(sampling.kappa), denoiser.device

        def run(pictures: slice, plan: TilePlan, on_tile: Callable[[], None]) -> Tensor:
            shown = self.progress.watch(y0[pictures], lr[pictures])
            return run_chain(
                denoiser.network,
                None if predictor is None else predictor.network,
                schedule,
                y0[pictures].to(device),
                lr[pictures].to(device),
                seed=sampling.seed,
                steps=steps,
                predictor_on=predictor_on,
                predictor_mode=sampling.predictor_mode,
                callback=_both(shown, watch),
                plan=plan,
                on_tile=on_tile,
                wrap=wrap,
            )

        tiles = self._tiles(
            Work(
                [denoiser] if predictor is None else [denoiser, predictor],
                lambda h, w: unet_activations(denoiser.network, h, w),
                len(y0),
                (lr.shape[2], lr.shape[3]),
                denoiser.network.config,
                wrap,
                denoiser.network.compiled,
                f"{student.name} takes its one step, whatever steps says" if student else "",
            )
        )
        calls = [
            Call(f"step {steps - t + 1}/{steps}")
            for t in range(steps, 0, -1)
            for _ in range(2 if t in predictor_at else 1)
        ]
        return torch.cat([in_results(self.memory, x0) for _, x0 in tiles.run(run, calls)])

    def decode(
        self, x0: Tensor, lr: Tensor, finish: Finish, wrap: Wrap = "none", *, codes: bool = True
    ) -> tuple[Tensor, float]:
        """Pictures of latents. `DECODE_WORK` for each.

        Args:
            x0: [B,C,H,W], padded.
            lr: [B,3,h,w] in [-1,1], not padded.
            finish: what becomes of them.
            wrap: axes in which they go on periodically.
            codes: whether the nearest codes are decoded, as all but RSD wants it.

        Returns:
            [B,3,4h,4w] in [0,1], or as `finish` says, with alpha as a fourth channel, a result that
            lies in memory as ComfyUI's images do, [B,4h,4w,3]; and the mean LR-PSNR in dB.

        Raises:
            ValueError: a result is not finite.
            MemoryError: not even the smallest tiles fit.
        """
        (b, _, h, w), memory = lr.shape, self.memory
        size = finish.size or (SCALE * h, SCALE * w)
        managed = self.networks.autoencoder
        channels = 3 if finish.alpha is None else 4
        images = torch.empty(
            (b, *size, channels), device=memory.result_device, dtype=memory.result_dtype
        ).movedim(3, 1)
        psnr = torch.zeros(b)
        tiles = self._autoencoder_tiles(b, (h, w), wrap)

        def run(pictures: slice, plan: TilePlan, on_tile: Callable[[], None]) -> Tensor:
            some = x0[pictures]
            bytes_needed = 4 * 3 * SCALE**2 * h * w * len(some) * WORKING_PICTURES
            on = managed.device if bytes_needed <= tiles.left else memory.result_device
            sr = decode_latent(
                managed.network, some.to(managed.device), (h, w), plan, on_tile, on, wrap, codes
            )
            sr, psnr[pictures] = finished(sr, lr[pictures].to(on), finish, pictures, wrap)
            return sr

        for pictures, rgb in tiles.run(run, [Call("decoding", DECODE_WORK)]):
            images[pictures, :3] = rgb
            if finish.alpha is not None:
                alpha = resampled(finish.alpha[pictures], *size, wrap).clamp(0, 1)
                images[pictures, 3:] = alpha
        return images, float(psnr.mean())

    def encode_starts(
        self,
        lr: Tensor,
        start: Start | None,
        wrap: Wrap = "none",
        on_start: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """`made_start` and `encode`, a few pictures at a time, so that the memory that a video
        needs does not grow with its length. `on_start` is called with the starts, as they come."""
        latents: list[Tensor] = []
        for some in lr.split(max(4, _START_PIXELS // (SCALE**2 * lr.shape[2] * lr.shape[3]))):
            made = made_start(some, start, wrap)
            latents.append(self.encode(made, wrap))
            if on_start:
                on_start(made)
        return torch.cat(latents)

    def _autoencoder_tiles(self, pictures: int, size: tuple[int, int], wrap: Wrap) -> Tiles:
        managed = self.networks.autoencoder
        return self._tiles(
            Work(
                [managed],
                lambda h, w: autoencoder_activations(managed.network, h, w),
                pictures,
                size,
                self._denoiser.config,
                wrap,
                managed.network.compiled,
            )
        )

    def _tiles(self, work: Work) -> Tiles:
        return Tiles(work, self.memory, self.tiling, self.progress)


def made_start(lr: Tensor, start: Start | None, wrap: Wrap) -> Tensor:
    """y0-hat: pictures exactly x4, by an SR network (PreSet-B), or by bicubic (PreSet-A), which may
    overshoot. [B,3,h,w] in [0,1] -> [B,3,4h,4w]"""
    return start(lr, wrap) if start else upsampled(lr, wrap)


def _both(first: StepCallback | None, second: StepCallback | None) -> StepCallback | None:
    """A callback that calls both."""
    if first is None or second is None:
        return first or second

    def call(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        first(t, x_t, x0_pred)
        second(t, x_t, x0_pred)

    return call
