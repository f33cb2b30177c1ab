"""Super-resolution of images of any size: pre-upsample, encode, sample, decode.

ComfyUI's nodes, the command line and the evaluation all use this engine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, Family
from ..method.noise import seeded_noise
from ..method.sampler import Sampling, StepCallback, predictor_steps, sample, sample_once
from ..method.schedule import Schedule
from ..models import Autoencoder, Denoiser, NoisePredictor
from ..pictures.consistency import lr_psnr
from ..pictures.edges import resample, surround
from ..pictures.images import to_01, to_pm1
from ..pictures.picture import Picture
from ..pictures.target import (
    WORKING_PICTURES,
    Pass,
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
"""An SR network. It upscales LR images to the start y0-hat of the diffusion, rgb [B,3,4h,4w] in
[0,1]."""


@dataclass(frozen=True)
class Networks:
    """The networks of one family; `noise_predictor` is None for plain ResShift and students."""

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
        """Make the schedule of the family with the given kappa."""
        return Schedule(**vars(self.networks.family.schedule), kappa=kappa)

    def plan_chain(self, sampling: Sampling) -> tuple[int, Mapping[int, bool]]:
        """Return the number of steps, and the steps at which the noise predictor is on.

        Raises:
            ValueError: see `Sampling.switches`.
        """
        if self.networks.family.student:
            return 1, {}
        has_predictor = self.networks.noise_predictor is not None
        num_timesteps = self.networks.family.schedule.num_timesteps
        return sampling.steps, sampling.switches(num_timesteps, has_predictor)

    def sample_work(self, sampling: Sampling) -> float:
        """Return the cost of the chain for one image, in network calls.

        Raises:
            ValueError: see `plan_chain`.
        """
        steps, switches = self.plan_chain(sampling)
        return steps + len(predictor_steps(steps, switches))

    def encode(self, starts: Iterable[Tensor], lr: Picture) -> Tensor:
        """Encode pre-upsampled images. The cost per image is `ENCODE_WORK`.

        Args:
            starts: batches of pre-upsampled images, rgb [n,3,4h,4w] in [0,1] or slightly beyond, in
                the order of the LR images.
            lr: the B LR images, h x w.

        Returns:
            y0 [B,C,h,w], on the device and in the dtype of results.
        """
        managed, tiles, first = self.networks.autoencoder, None, 0
        y0 = self._empty_latent(lr)
        for start in starts:
            # Tiles are planned after the first upsampling, which may have loaded an upscale model.
            tiles = tiles or self._tiles([managed], lr)
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
        self, lr: Picture, start: Start | None, keep: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Pre-upsample as many images at a time as main memory has room for.

        Args:
            lr: the B LR images, h x w.
            start: an SR network (PreSet-B); None for bicubic (PreSet-A), which may overshoot.
            keep: tensor [B,3,4h,4w] into which the results are also copied, or None.

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
        """Run the chain (Algorithm 2). The cost per image is `sample_work`.

        Args:
            y0: [B,C,h,w].
            lr: the B LR images, h x w.
            sampling: settings.
            callback: see `sampler.sample`; called for each group of images that are processed
                together.

        Returns:
            x0 [B,C,h,w], on the device and in the dtype of results.

        Raises:
            ValueError: see `plan_chain`.
            MemoryError: not even one tile of the smallest size fits.
        """
        (steps, predictor_on), student = self.plan_chain(sampling), self.networks.family.student
        schedule = self.schedule(sampling.kappa)
        networks: list[Managed[Any]] = [self.networks.denoiser]
        if predictor_steps(steps, predictor_on) and self.networks.noise_predictor:
            networks.append(self.networks.noise_predictor)
        denoiser, predictor = networks[0].network, networks[-1].network
        note = f"{student.name} takes one step and ignores the steps setting" if student else ""
        tiles, x0 = self._tiles(networks, lr, note), self._empty_latent(lr)
        noise = seeded_noise(sampling.seed, schedule.num_timesteps)
        first_t = schedule.num_timesteps if student else steps

        def share_noise(kind: str, t: int, shape: torch.Size) -> Tensor:
            """Draw noise for one image and use it for all, so that results do not depend on the
            batch size."""
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
        x0: Tensor,
        lr: Picture,
        finish: Finish,
        *,
        alpha: Tensor | None = None,
        quantize: bool = True,
    ) -> tuple[Tensor, float]:
        """Decode latents and finish the images. The cost per image is `DECODE_WORK`.

        Args:
            x0: [B,C,h,w].
            lr: the B LR images, h x w.
            finish: colour fix, size, LR consistency and mask.
            alpha: [B,1,*,*] in [0,1], resized to the size of the results; None for opaque results.
            quantize: whether latents are quantised before decoding. True for all networks except
                RSD.

        Returns:
            [B,3,H,W] or [B,4,H,W] in [0,1], on the device and in the dtype of results, in memory
            laid out like ComfyUI's images [B,H,W,C]; and the mean LR-PSNR in dB.

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
        for images in tiles.groups():
            sr = tiles(
                partial(managed.network.decode, quantize=quantize),
                x0[images].float(),
                text="decoding",
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
        """Finish images on their device, or on the device of results after running out of
        memory."""
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
            sampling: settings of the chain.
            finish: steps after decoding; its sizes and LR images are set here.
            target: size of the result; None for x4.

        Returns:
            See `decode`. Results have an alpha channel if `lr` has one.

        Raises:
            ValueError: the size cannot be reached, the networks cannot run these steps, or a result
                is not finite.
            MemoryError: the result does not fit into memory, or not even one tile does.
        """
        b, h, w = lr.size
        work = b * (ENCODE_WORK + self.sample_work(sampling) + DECODE_WORK)
        passes = plan_passes(h, w, target or Target(), b)
        room = self.memory.free_for_results()
        check_memory(passes, room, b, lr.channels, has_mask=finish.region is not None)
        is_plain = passes == plan_passes(h, w, Target())
        self.progress.begin(work * sum(pass_work(passes)), "" if is_plain else describe(passes))
        alpha = upscale_alpha(lr, start) if start else lr.alpha
        if finish.region and not finish.region.mask.any():
            self.progress.note("The mask is empty: the pre-upsampled image is kept everywhere")
            return self._keep_starts(lr, start, passes, alpha)
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

    def _keep_starts(
        self, lr: Picture, start: Start | None, passes: Sequence[Pass], alpha: Tensor | None
    ) -> tuple[Tensor, float]:
        """Return the pre-upsampled images as the result for an empty mask, without running any
        network of the family."""
        current = lr
        for one_pass in passes:
            starts = self.make_starts(current, start)
            rgb = [resample(y, *one_pass.size, lr.wrap).clamp(0, 1) for y in starts]
            current = replace(current, rgb=torch.cat(rgb))
        planes, (_, h, w) = [current.rgb], current.size
        if alpha is not None:
            planes.append(resample(alpha, h, w, lr.wrap).clamp(0, 1))
        psnr = lr_psnr(current.rgb, lr)
        result = torch.cat(planes, dim=1).movedim(1, 3).contiguous().movedim(3, 1)
        return result.to(self.memory.result_device, self.memory.result_dtype), psnr

    def _tiles(self, networks: Sequence[Managed[Any]], lr: Picture, note: str = "") -> Tiles:
        return Tiles(networks, lr, self.memory, self.tiling, self.progress, note)

    def _empty_latent(self, lr: Picture) -> Tensor:
        b, h, w = lr.size
        channels = self.networks.autoencoder.network.config.embed_channels
        return torch.empty(
            (b, channels, h, w), device=self.memory.result_device, dtype=self.memory.result_dtype
        )


def upscale_alpha(lr: Picture, start: Start | None) -> Tensor | None:
    """Upscale alpha x4 with the SR network, as a grey image, or by bicubic interpolation.

    The SR network makes alpha as sharp as the colours. Values are clamped to the range of the 3x3
    LR pixels around them, so that transparent and opaque areas remain exactly 0 and 1.

    Returns:
        [B,1,4h,4w] in [0,1], or None for opaque images.
    """
    if lr.alpha is None or start is None:
        return lr.resize(SCALE * lr.size[1], SCALE * lr.size[2]).alpha
    alpha = start(Picture(lr.alpha.expand(-1, 3, -1, -1), wrap=lr.wrap)).mean(dim=1, keepdim=True)
    pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
    low, high = (sign * surround(pool, sign * lr.alpha, reach=1, wrap=lr.wrap) for sign in (-1, 1))
    low, high = (x.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) for x in (low, high))
    return alpha.clamp(low, high)
