"""Super-resolution of images of any size: pre-upsample, encode, sample, decode.

ComfyUI's nodes, the command line and the evaluation all use this engine.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import SCALE, Family
from ..method.noise import seeded_noise
from ..method.sampler import Sampling, StepCallback, predictor_steps, sample, sample_once
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.edges import resample
from ..pictures.images import to_01, to_pm1
from ..pictures.picture import Picture, upsample_bicubic, upscale_alpha
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
"""Cost of encoding and decoding an image relative to one call of the denoiser, as measured by
`python -m tests.bench speed`."""

_START_COPIES = 3
"""Number of copies of the x4 image in main memory while an upscale model runs."""

Start = Callable[[Picture], Tensor]
"""Function that pre-upsamples LR images. It returns y0-hat, the start of the diffusion, as rgb
[B,3,4h,4w]."""


@dataclass(frozen=True)
class Networks:
    """The networks of one family. `noise_predictor` is None for plain ResShift and for students."""

    family: Family
    autoencoder: Managed[Autoencoder]
    denoiser: Managed[Denoiser]
    noise_predictor: Managed[NoisePredictor] | None = None


class Engine:
    """Runs the networks on images of any size, tile by tile, within the memory that is free.

    Args:
        networks: networks of one family.
        memory: memory of the networks' device and of results.
        tiling: tile sizes that the user has set.
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

    def schedule(self, kappa: float = 2.0) -> Schedule:
        """Create the noise schedule of the networks with the given kappa."""
        return Schedule(**vars(self.networks.family.schedule), kappa=kappa)

    def plan_chain(self, sampling: Sampling) -> tuple[int, Mapping[int, bool]]:
        """Return the number of steps, and at which t the noise predictor is on.

        Raises:
            ValueError: see `Sampling.switches`.
        """
        if self.networks.family.student:
            return 1, {}
        has_predictor = self.networks.noise_predictor is not None
        num_timesteps = self.networks.family.schedule.num_timesteps
        return sampling.steps, sampling.switches(num_timesteps, has_predictor)

    def sample_work(self, sampling: Sampling) -> float:
        """Return the number of network calls that `sample` needs for one image.

        Raises:
            ValueError: see `plan_chain`.
        """
        steps, switches = self.plan_chain(sampling)
        return steps + len(predictor_steps(steps, switches))

    def encode(self, starts: Iterable[Tensor], lr: Picture) -> Tensor:
        """Encode pre-upsampled images. Each image adds `ENCODE_WORK` to the progress.

        Args:
            starts: batches of pre-upsampled images, rgb [n,3,4h,4w] in [0,1] or slightly beyond, in
                the order of the LR images.
            lr: the B LR images, h x w.

        Returns:
            y0 [B,C,h,w], on `memory.result_device` and of `memory.result_dtype`.
        """
        managed, tiles, first = self.networks.autoencoder, None, 0
        y0 = self._empty_latent(lr)
        for start in starts:
            # Tiles are planned after the first upsampling, which may have loaded an upscale model.
            tiles = tiles or self._tiles([managed], lr, encoding=True)
            for images in tiles.groups(first, first + len(start)):
                y0[images] = tiles(
                    managed.network.encode,
                    to_pm1(start[images.start - first : images.stop - first]),
                    text="encoding",
                    work=ENCODE_WORK,
                    input_scale=SCALE,
                )
            first += len(start)
        return y0

    def make_starts(
        self, lr: Picture, start: Start, keep: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Pre-upsample as many images at a time as main memory has room for.

        Args:
            lr: the B LR images, h x w.
            start: an SR network (PreSet-B), or `upsample_bicubic` (PreSet-A).
            keep: tensor [B,3,4h,4w] into which the results are also copied, or None.

        Yields:
            rgb [n,3,4h,4w].
        """
        b, h, w = lr.size
        bytes_per_image = _START_COPIES * 4 * 3 * SCALE**2 * h * w
        at_once = max(1, self.memory.free_for_results() // 4 // bytes_per_image)
        for first in range(0, b, at_once):
            made = start(lr[first : first + at_once])
            if keep is not None:
                keep[first : first + at_once] = made
            yield made

    def sample(
        self, y0: Tensor, lr: Picture, sampling: Sampling, callback: StepCallback | None = None
    ) -> Tensor:
        """Sample clean latents (LPNSR paper, Algorithm 2).

        Each image adds `sample_work` to the progress.

        Args:
            y0: [B,C,h,w].
            lr: the B LR images, h x w.
            sampling: number of steps, kappa, seed and switches of the noise predictor.
            callback: see `sampler.sample`. It is called once per step for each group of images
                that are processed together.

        Returns:
            x0 [B,C,h,w], on `memory.result_device` and of `memory.result_dtype`.

        Raises:
            ValueError: see `plan_chain`.
            MemoryError: even a single tile of the smallest size does not fit into memory.
        """
        (steps, predictor_on), student = self.plan_chain(sampling), self.networks.family.student
        schedule = self.schedule(sampling.kappa)
        networks: list[Managed[Any]] = [self.networks.denoiser]
        if predictor_steps(steps, predictor_on) and self.networks.noise_predictor:
            networks.append(self.networks.noise_predictor)
        denoiser, predictor = networks[0].network, networks[-1].network
        if student and sampling.steps != 1:
            self.progress.note(f"{student.name} takes one step and ignores the steps setting")
        tiles, x0 = self._tiles(networks, lr), self._empty_latent(lr)
        noise = seeded_noise(sampling.seed, schedule.num_timesteps)
        first_t = schedule.num_timesteps if student else steps

        def share_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
            """Draw the noise of one image and use it for all images, so that results do not depend
            on the batch size."""
            return noise(kind, t, torch.Size((1, *shape[1:]))).expand(shape)

        def predict_x0(x: Tensor, t_index: int, lr: Tensor) -> Tensor:
            text = f"step {first_t - t_index}/{steps}"
            return tiles(lambda x, lr: denoiser(x, t_index, lr), x, lr, text=text)

        def predict_noise(
            x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int
        ) -> tuple[Tensor, Tensor]:
            text = f"noise of step {first_t - t_index}/{steps}"
            both = tiles(
                lambda *x: torch.cat(predictor(*x, t_index), dim=1), x_t, x0_pred, lr, text=text
            )
            mean, logvar = both.chunk(2, dim=1)
            return mean, logvar

        for images in tiles.groups():
            y0_i = y0[images].to(networks[0].device, torch.float32)
            lr_i = to_pm1(lr.rgb[images]).to(networks[0].device)
            watchers = [w for w in (self.progress.preview(y0_i, lr_i), callback) if w]

            def on_step(t: int, x_t: Tensor, x0_pred: Tensor, watchers: Any = watchers) -> None:
                for watcher in watchers:
                    watcher(t, x_t, x0_pred)

            if student:
                x0[images] = sample_once(
                    predict_x0, student, schedule, y0_i, lr_i, noise=share_noise, callback=on_step
                )
                continue
            x0[images] = sample(
                predict_x0,
                predict_noise if len(networks) > 1 else None,
                schedule,
                y0_i,
                lr_i,
                steps=steps,
                predictor_on=predictor_on,
                predictor_mode=sampling.predictor_mode,
                noise=share_noise,
                callback=on_step,
            )
        return x0

    def decode(
        self,
        x0: Tensor | None,
        lr: Picture,
        finish: Finish,
        *,
        alpha: Tensor | None = None,
        quantize: bool = True,
    ) -> tuple[Tensor, float]:
        """Decode latents and finish the images. Each image adds `DECODE_WORK` to the progress.

        If the mask is empty, no network runs, and the results are the pre-upsampled images.

        Args:
            x0: [B,C,h,w]. It may be None if the mask is empty.
            lr: the B LR images, h x w.
            finish: colour fix, size, LR consistency and mask.
            alpha: [B,1,*,*] in [0,1], resized to the size of the results; None for opaque results.
            quantize: whether latents are quantised before decoding. True for all networks except
                RSD.

        Returns:
            Images [B,3,H,W] or [B,4,H,W] in [0,1], on `memory.result_device` and of
            `memory.result_dtype`, in memory laid out like ComfyUI's images [B,H,W,C]; and the mean
            LR-PSNR in dB.

        Raises:
            ValueError: a result is not finite.
            MemoryError: even a single tile of the smallest size does not fit into memory.
        """
        b, h, w = lr.size
        size = finish.size or (SCALE * h, SCALE * w)
        images_bhwc = torch.empty(
            (b, *size, 3 if alpha is None else 4),
            device=self.memory.result_device,
            dtype=self.memory.result_dtype,
        )
        result, psnr = images_bhwc.movedim(3, 1), torch.zeros(b)
        if finish.region and finish.region.is_empty:
            assert finish.region.start is not None
            self.progress.note("The mask is empty: the pre-upsampled image is kept everywhere")
            decoded = self._skip_decoding(finish.region.start)
            finish = replace(finish, color_fix="none", lr_consistency=False)
        else:
            assert x0 is not None
            decoded = self._decode(x0, lr, quantize)
        for images, sr in decoded:
            result[images, :3], psnr[images] = self._finish(sr, lr[images], finish, images)
            if alpha is not None:
                result[images, 3:] = resample(alpha[images], *size, lr.wrap).clamp(0, 1)
        return result, float(psnr.mean())

    def _decode(self, x0: Tensor, lr: Picture, quantize: bool) -> Iterator[tuple[slice, Tensor]]:
        """Yield groups of decoded images, [n,3,4h,4w], with their indices in the batch."""
        _, h, w = lr.size
        managed = self.networks.autoencoder
        tiles = self._tiles([managed], lr)
        tiles.place_output(4 * 3 * SCALE**2 * h * w * WORKING_PICTURES)
        for images in tiles.groups():
            sr = tiles(
                partial(managed.network.decode, quantize=quantize),
                x0[images].float(),
                text="decoding",
                work=DECODE_WORK,
                output_scale=SCALE,
            )
            yield images, sr

    def _skip_decoding(self, start: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield pre-upsampled images as `_decode` yields decoded ones."""
        for i in range(len(start)):
            self.progress.advance(DECODE_WORK, "keeping the pre-upsampled image")
            yield slice(i, i + 1), to_pm1(start[i : i + 1])

    def _finish(
        self, sr: Tensor, lr: Picture, finish: Finish, images: slice
    ) -> tuple[Tensor, float]:
        """Finish images on their device or, if memory runs out there, on the device of results."""
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
        """Upscale images to any size, in one or two x4 passes.

        Args:
            lr: the B LR images, h x w.
            start: an SR network that pre-upsamples the images of each pass; None for bicubic.
            sampling: number of steps, kappa, seed and switches of the noise predictor.
            finish: steps after decoding. `size` and `lr` in it are ignored.
            target: size of the result; None for x4.

        Returns:
            See `decode`. Results have an alpha channel if `lr` has one.

        Raises:
            ValueError: the size cannot be reached, the networks cannot run these steps, or a result
                is not finite.
            MemoryError: the result, or a single tile of the smallest size, does not fit into
                memory.
        """
        b, h, w = lr.size
        work = b * (ENCODE_WORK + self.sample_work(sampling) + DECODE_WORK)
        passes = plan_passes(h, w, target or Target(), b)
        room = self.memory.free_for_results()
        check_memory(passes, room, b, lr.channels, has_mask=finish.region is not None)
        is_plain = passes == plan_passes(h, w, Target())
        self.progress.begin(work * sum(pass_work(passes)), "" if is_plain else describe(passes))
        alpha = upscale_alpha(lr, start) if start else lr.alpha
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
            made = self.make_starts(current, start or upsample_bicubic, starts)
            if final.region and final.region.is_empty:
                x0 = None
                deque(made, maxlen=0)  # copies the images to `starts`
            else:
                x0 = self.sample(self.encode(made, current), current, sampling)
            result, psnr = self.decode(
                x0,
                current,
                final,
                alpha=alpha if last else None,
                quantize=self.networks.family.quantize,
            )
            if not last:
                current = Picture(result.float().contiguous(), wrap=lr.wrap)
        return result, psnr

    def _tiles(
        self, networks: Sequence[Managed[Any]], lr: Picture, encoding: bool = False
    ) -> Tiles:
        return Tiles(networks, lr, self.memory, self.tiling, self.progress, encoding)

    def _empty_latent(self, lr: Picture) -> Tensor:
        b, h, w = lr.size
        channels = self.networks.autoencoder.network.config.embed_channels
        return torch.empty(
            (b, channels, h, w), device=self.memory.result_device, dtype=self.memory.result_dtype
        )
