"""From LR images to super-resolved ones: start, encode, chain, decode, on images of any size.

ComfyUI's nodes, the command line and the evaluation all use this engine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..config import LPNSR_SCHEDULE, SCALE, PredictorMode
from ..method.noise import seeded_noise
from ..method.sampler import (
    ALL_ON,
    NoiseSource,
    StepCallback,
    predictor_steps,
    sample,
    sample_once,
    switches_for,
)
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.edges import resample
from ..pictures.images import to_01, to_pm1
from ..pictures.picture import Picture
from ..pictures.target import (
    WORKING_PICTURES,
    Target,
    check_memory,
    describe,
    pass_work,
    plan_passes,
)
from .finish import Finish
from .memory import Managed, Memory
from .progress import Progress
from .tiled import Tiles, Tiling

ENCODE_WORK, DECODE_WORK = 4.0, 5.0
"""Cost of an image in calls of the denoiser, as `python -m tests.bench speed` measures it."""

_START_COPIES = 3
"""Copies of a x4 start in main memory while an upscale model makes it."""

Start = Callable[[Picture], Tensor]
"""An SR network: LR images to the start y0-hat of the diffusion, rgb [B,3,4h,4w] in [0,1]."""


@dataclass(frozen=True)
class Sampling:
    """Settings of the chain.

    Attributes:
        seed: 0 to 2^64 - 1; all images of a batch get the same noise.
        steps: 1 to T. One-step students ignore it.
        kappa: scale of the noise.
        predictor_on: {t: on} at t = 4, 3 and 2.
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
    """Runs the networks on images of any size, tile by tile, within the memory that is free.

    Args:
        networks: of one family.
        memory: where they run.
        tiling: tile sizes that the user asks for.
        progress: receives progress updates.
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
        """The denoiser's schedule, with the kappa of a run."""
        return Schedule(**vars(self._denoiser.schedule), kappa=kappa)

    def switches(self, sampling: Sampling) -> Mapping[int, bool]:
        """The predictor switches that apply, after a check that the networks can run these steps.

        ResShift's 15-step models and their students have no predictor, so no switch applies.

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
        """Cost of the chain for one image, in network calls.

        Raises:
            ValueError: see `switches`.
        """
        if self._denoiser.student:
            return 1
        return sampling.steps + len(predictor_steps(sampling.steps, self.switches(sampling)))

    def encode(self, starts: Iterable[Tensor], lr: Picture) -> Tensor:
        """Encode pre-upsampled images. It costs `ENCODE_WORK` per image.

        Args:
            starts: rgb [n,3,4h,4w] each, in [0,1] or a little beyond, for all images in order.
            lr: the B LR images, h x w.

        Returns:
            y0 [B,C,h,w], on the device and in the dtype of results.
        """
        managed, tiles, first = self.networks.autoencoder, None, 0
        y0 = self._empty_latent(lr)
        for start in starts:
            # Planned after the first start, as making it may have loaded an upscale model.
            tiles = tiles or self._tiles([managed], lr)
            for images, text in tiles.groups(first, first + len(start)):
                y0[images] = tiles(
                    managed.network.encode,
                    to_pm1(start[images.start - first : images.stop - first]),
                    text=f"{text}encoding",
                    work=ENCODE_WORK,
                    input_scale=SCALE,
                )
            first += len(start)
        return y0

    def make_starts(
        self, lr: Picture, start: Start | None, keep: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Make the start y0-hat of as many images at a time as main memory has room for.

        Args:
            lr: the B LR images, h x w.
            start: an SR network (PreSet-B); None for bicubic (PreSet-A), which may overshoot.
            keep: [B,3,4h,4w] that the starts are also copied to, or None.

        Yields:
            rgb [n,3,4h,4w].
        """
        b, h, w = lr.size
        bytes_per_image = _START_COPIES * 4 * 3 * SCALE**2 * h * w
        at_once = max(1, self.memory.free_for_results() // 4 // bytes_per_image)
        for first in range(0, b, at_once):
            some = lr[first : first + at_once]
            made = start(some) if start else some.resize(SCALE * h, SCALE * w).rgb
            if keep is not None:
                keep[first : first + at_once] = made
            yield made

    def sample(
        self, y0: Tensor, lr: Picture, sampling: Sampling, callback: StepCallback | None = None
    ) -> Tensor:
        """Run the chain (Algorithm 2). It costs `sample_work` per image.

        Args:
            y0: [B,C,h,w].
            lr: the B LR images, h x w.
            sampling: settings.
            callback: see `sampler.sample`; called for each group of images that run together.

        Returns:
            x0 [B,C,h,w], on the device and in the dtype of results.

        Raises:
            ValueError: see `switches`.
            MemoryError: not even one tile of the smallest size fits.
        """
        predictor_on, student = self.switches(sampling), self._denoiser.student
        steps = 1 if student else sampling.steps
        schedule = self.schedule(sampling.kappa)
        networks: list[Managed[Any]] = [self.networks.denoiser]
        if predictor_steps(steps, predictor_on) and self.networks.noise_predictor:
            networks.append(self.networks.noise_predictor)
        denoiser, predictor = networks[0].network, networks[-1].network
        note = f"{student.name} takes its one step, whatever steps says" if student else ""
        tiles = self._tiles(networks, lr, note)
        noise = _share(seeded_noise(sampling.seed, schedule.num_timesteps))
        x0 = self._empty_latent(lr)
        for images, text in tiles.groups():

            def predict_x0(x: Tensor, t_index: int, lr: Tensor, text: str = text) -> Tensor:
                return tiles(
                    lambda x, lr: denoiser(x, t_index, lr),
                    x,
                    lr,
                    text=f"{text}step {steps - t_index if not student else 1}/{steps}",
                )

            def predict_noise(
                x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int, text: str = text
            ) -> tuple[Tensor, Tensor]:
                both = tiles(
                    lambda *x: torch.cat(predictor(*x, t_index), dim=1),
                    x_t,
                    x0_pred,
                    lr,
                    text=f"{text}step {steps - t_index}/{steps}",
                )
                mean, logvar = both.chunk(2, dim=1)
                return mean, logvar

            y0_i = y0[images].to(networks[0].device, torch.float32)
            lr_i = to_pm1(lr.rgb[images]).to(networks[0].device)
            on_step = _both(self.progress.preview(y0_i, lr_i), callback)
            if student:
                x0[images] = sample_once(
                    predict_x0, student, schedule, y0_i, lr_i, noise=noise, callback=on_step
                )
            else:
                x0[images] = sample(
                    predict_x0,
                    predict_noise if len(networks) > 1 else None,
                    schedule,
                    y0_i,
                    lr_i,
                    steps=steps,
                    predictor_on=predictor_on,
                    predictor_mode=sampling.predictor_mode,
                    noise=noise,
                    callback=on_step,
                )
        return x0

    def decode(
        self,
        x0: Tensor,
        lr: Picture,
        finish: Finish,
        *,
        alpha: Tensor | None = None,
        quantize: bool = True,
    ) -> tuple[Tensor, float]:
        """Decode latents and finish the images. It costs `DECODE_WORK` per image.

        Args:
            x0: [B,C,h,w].
            lr: the B LR images, h x w.
            finish: colour fix, size, LR consistency and mask.
            alpha: [B,1,*,*] in [0,1] for the results, resized; None for opaque results.
            quantize: whether the nearest codes are decoded, as for all networks except RSD.

        Returns:
            [B,3,H,W] or [B,4,H,W] in [0,1], on the device and in the dtype of results, stored as
            ComfyUI's images are, [B,H,W,C]; and the mean LR-PSNR in dB.

        Raises:
            ValueError: a result is not finite.
            MemoryError: not even one tile of the smallest size fits.
        """
        b, h, w = lr.size
        managed, memory = self.networks.autoencoder, self.memory
        size = finish.size or (SCALE * h, SCALE * w)
        images_bhwc = torch.empty(
            (b, *size, 3 if alpha is None else 4),
            device=memory.result_device,
            dtype=memory.result_dtype,
        )
        result, psnr = images_bhwc.movedim(3, 1), torch.zeros(b)
        tiles = self._tiles([managed], lr)
        tiles.place_output(4 * 3 * SCALE**2 * h * w * WORKING_PICTURES)
        for images, text in tiles.groups():
            sr = tiles(
                partial(managed.network.decode, quantize=quantize),
                x0[images].float(),
                text=f"{text}decoding",
                work=DECODE_WORK,
                output_scale=SCALE,
            )
            result[images, :3], psnr[images] = self._finish(sr, lr[images], finish, images)
            if alpha is not None:
                result[images, 3:] = resample(alpha[images], *size, lr.wrap).clamp(0, 1)
        return result, float(psnr.mean())

    def _finish(
        self, sr: Tensor, lr: Picture, finish: Finish, images: slice
    ) -> tuple[Tensor, float]:
        """Finish images where they are, or in main memory if there is not enough memory there."""
        sr = to_01(sr)
        try:
            return finish(sr, lr, images)
        except (RuntimeError, MemoryError) as error:
            elsewhere = sr.device != self.memory.result_device
            if not elsewhere or not self.memory.is_out_of_memory(error):
                raise
        self.memory.empty_cache()
        return finish(sr.to(self.memory.result_device), lr, images)

    def upscale(
        self,
        lr: Picture,
        start: Start | None,
        sampling: Sampling,
        finish: Finish,
        target: Target | None = None,
    ) -> tuple[Tensor, float]:
        """Upscale images to any size, in one pass of x4 or two.

        Args:
            lr: the B LR images, h x w.
            start: an SR network that makes the start of each pass; None for bicubic.
            sampling: settings of the chain.
            finish: of the result; its sizes and LR images are set here.
            target: the size; None for x4.

        Returns:
            As `decode`, with the alpha of `lr`.

        Raises:
            ValueError: the size cannot be reached, the networks cannot run these steps, or a result
            is not finite.
            MemoryError: the result does not fit into memory, or not even one tile does.
        """
        b, h, w = lr.size
        work = b * (ENCODE_WORK + self.sample_work(sampling) + DECODE_WORK)
        passes = plan_passes(h, w, target or Target())
        room = self.memory.free_for_results()
        check_memory(passes, room, b, lr.channels, has_mask=finish.region is not None)
        is_plain = passes == plan_passes(h, w, Target())
        self.progress.begin(work * sum(pass_work(passes)), "" if is_plain else describe(passes))
        current, result, psnr = lr, lr.rgb, 0.0
        for one_pass, weight in zip(passes, pass_work(passes), strict=True):
            self.progress.weight = weight
            last = one_pass is passes[-1]
            final = replace(
                finish,
                size=None if is_plain else one_pass.size,
                lr=None if is_plain else lr,
                lr_consistency=finish.lr_consistency and last,
            )
            starts = None
            if finish.region:
                starts = torch.empty(b, 3, *one_pass.x4)
                final = replace(final, region=replace(finish.region, start=starts))
            x0 = self.sample(
                self.encode(self.make_starts(current, start, starts), current), current, sampling
            )
            alpha = lr.alpha if last else None
            quantize = self._denoiser.predicts_codes
            result, psnr = self.decode(x0, current, final, alpha=alpha, quantize=quantize)
            if not last:
                current = Picture(result.float().contiguous(), wrap=lr.wrap)
        return result, psnr

    def _tiles(self, networks: Sequence[Managed[Any]], lr: Picture, note: str = "") -> Tiles:
        return Tiles(networks, lr.size, lr.wrap, self.memory, self.tiling, self.progress, note)

    def _empty_latent(self, lr: Picture) -> Tensor:
        b, h, w = lr.size
        channels = self.networks.autoencoder.network.config.embed_channels
        return torch.empty(
            (b, channels, h, w), device=self.memory.result_device, dtype=self.memory.result_dtype
        )


def _share(noise: NoiseSource) -> NoiseSource:
    """The same noise for each image of a batch, so that it comes out as it would alone."""

    def shared(kind: str, t: int, shape: torch.Size) -> Tensor:
        return noise(kind, t, torch.Size((1, *shape[1:]))).expand(shape)

    return shared


def _both(first: StepCallback | None, second: StepCallback | None) -> StepCallback | None:
    """A callback that calls both."""
    if first is None or second is None:
        return first or second

    def call(t: int, x_t: Tensor, x0_pred: Tensor) -> None:
        first(t, x_t, x0_pred)
        second(t, x_t, x0_pred)

    return call
