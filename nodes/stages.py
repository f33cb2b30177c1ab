"""Code that several nodes share: creates the engine, runs upscale models, checks sizes and
memory."""

from typing import Any

from torch import Tensor

from ..lpnsr_impl.config import SCALE, wraps
from ..lpnsr_impl.engine.engine import Engine, Start
from ..lpnsr_impl.engine.tile_plan import TilePlan, plan_axis
from ..lpnsr_impl.engine.tiled import Tiling
from ..lpnsr_impl.pictures import target
from ..lpnsr_impl.pictures.edges import resample
from ..lpnsr_impl.pictures.images import SMALLEST_MODEL_INPUT
from ..lpnsr_impl.pictures.picture import Picture
from . import host
from .models import LPNSRModels


def make_engine(
    models: LPNSRModels, tile_size: int, overlap: int, progress: host.Progress
) -> Engine:
    """Create an engine that uses ComfyUI's memory management and the given tile size and overlap.

    Raises:
        ValueError: `tile_size` or `overlap` is negative.
    """
    return Engine(models, host.Memory(), Tiling(tile_size, overlap), progress)


def start_by(upscale_model: Any | None) -> Start | None:
    """Return a function that pre-upsamples images with the model.

    Without a model, return None, which stands for bicubic interpolation.

    Raises:
        ValueError: the input or output of the model is neither RGB nor grey.
    """
    if upscale_model is None:
        return None
    channels = upscale_model.input_channels
    if channels not in (1, 3) or upscale_model.output_channels != channels:
        raise ValueError(
            f"The upscale model has {channels} input and {upscale_model.output_channels} output "
            "channels, expected 3 and 3 (RGB), or 1 and 1 (grey). Choose another model in Load "
            "Upscale Model."
        )
    return lambda lr: _run_upscale_model(upscale_model, lr)


def _run_upscale_model(upscale_model: Any, lr: Picture) -> Tensor:
    """Upscale images x4 with a model of any scale.

    ComfyUI's own node runs the model and splits images into tiles. The `TilePlan` in this function
    has a single tile; it only pads images that are small or periodic.

    Args:
        upscale_model: UPSCALE_MODEL with 3 or 1 channels.
        lr: the LR images, [B,3,h,w].

    Returns:
        [B,3,4h,4w] in [0,1].

    Raises:
        ValueError: the output of the model is not finite.
    """
    b, h, w = lr.size
    channels = upscale_model.input_channels
    rows, columns = (
        plan_axis(side, side, 0, min_tile=SMALLEST_MODEL_INPUT, wraps=on)
        for side, on in zip((h, w), wraps(lr.wrap), strict=True)
    )
    x = lr.rgb.reshape(-1, channels, h, w)  # grey models process R, G and B as separate images

    def run(x: Tensor) -> Tensor:
        y = host.run_upscale_model(upscale_model, x.movedim(1, -1)).movedim(-1, 1)
        if not y.isfinite().all():
            raise ValueError(
                "The output of the upscale model has NaN or infinite values. Its file may be "
                "damaged. Choose another model in Load Upscale Model."
            )
        return y[:, :channels]

    y = TilePlan(rows, columns, batch=len(x)).apply(run, [x], output_scale=upscale_model.scale)
    y = y.reshape(b, 3, *y.shape[2:])
    return resample(y, SCALE * h, SCALE * w, lr.wrap).clamp(0, 1).to(lr.rgb.device)


def check_memory(lr: Picture, copies: int = 1) -> None:
    """Check that the x4 results of all LR images fit into main memory.

    Args:
        lr: the LR images.
        copies: number of x4 images that the node keeps in memory for each LR image.

    Raises:
        MemoryError: the results do not fit.
    """
    b, h, w = lr.size
    free = host.Memory().free_for_results()
    passes = target.plan_passes(h, w, target.Target())
    target.check_memory(passes, free, b, copies * lr.channels)


def check_start(start: Picture, lr: Picture) -> None:
    """Check the size and number of pre-upsampled images.

    Raises:
        ValueError: the pre-upsampled images are not exactly four times as high and wide as the LR
            images, or the batch sizes differ.
    """
    b, h, w = lr.size
    if start.size != (b, SCALE * h, SCALE * w):
        n, height, width = start.size
        raise ValueError(
            f"Got {n} pre-upsampled image(s) of {width}x{height}, expected {b} of "
            f"{SCALE * w}x{SCALE * h}: exactly {SCALE} times the size of the LR image, {w}x{h}. "
            "Create them with LPNSR Pre-Upsample from the same LR image."
        )
