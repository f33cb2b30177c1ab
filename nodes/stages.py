"""What the nodes share: the engine, starts by an upscale model, checks of pre-upsampled images."""

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
    """The engine, in ComfyUI's memory, with the tile sizes of the widgets.

    Raises:
        ValueError: a size is negative.
    """
    return Engine(models, host.Memory(), Tiling(tile_size, overlap), progress)


def start_by(upscale_model: Any | None) -> Start | None:
    """Starts by an UPSCALE_MODEL; None for bicubic.

    Raises:
        ValueError: the model reads neither RGB nor grey images.
    """
    if upscale_model is None:
        return None
    channels = upscale_model.input_channels
    if channels not in (1, 3) or upscale_model.output_channels != channels:
        raise ValueError(
            f"The upscale model reads {channels} and writes {upscale_model.output_channels} "
            "channels, expected 3 and 3 (RGB), or 1 and 1 (grey). Choose another one in Load "
            "Upscale Model."
        )
    return lambda lr: _run_upscale_model(upscale_model, lr)


def _run_upscale_model(upscale_model: Any, lr: Picture) -> Tensor:
    """[B,3,h,w] -> [B,3,4h,4w] in [0,1], by a model of any scale.

    ComfyUI's own node runs the model, in its own tiles. So a single tile of ours gives it images
    that are large enough, and continues those that wrap.

    Raises:
        ValueError: the model gives values that are not finite.
    """
    b, h, w = lr.size
    channels = upscale_model.input_channels
    rows, columns = (
        plan_axis(side, side, 0, min_tile=SMALLEST_MODEL_INPUT, wraps=on)
        for side, on in zip((h, w), wraps(lr.wrap), strict=True)
    )
    x = lr.rgb.reshape(-1, channels, h, w)  # grey models see R, G and B as images of their own

    def run(x: Tensor) -> Tensor:
        y = host.run_upscale_model(upscale_model, x.movedim(1, -1)).movedim(-1, 1)
        if not y.isfinite().all():
            raise ValueError(
                "The upscale model gave NaN or infinite values. Its file may be damaged; choose "
                "another one in Load Upscale Model."
            )
        return y[:, :channels]

    y = TilePlan(rows, columns, batch=len(x)).apply(run, [x], output_scale=upscale_model.scale)
    y = y.reshape(b, 3, *y.shape[2:])
    return resample(y, SCALE * h, SCALE * w, lr.wrap).clamp(0, 1).to(lr.rgb.device)


def check_memory(lr: Picture, copies: int = 1) -> None:
    """Check that main memory has room for x4 images of all LR images.

    Args:
        lr: the LR images.
        copies: number of such images that the node holds for each of them.

    Raises:
        MemoryError: it has not.
    """
    b, h, w = lr.size
    free = host.Memory().free_for_results()
    passes = target.plan_passes(h, w, target.Target())
    target.check_memory(passes, free, b, copies * lr.channels)


def check_start(start: Picture, lr: Picture) -> None:
    """Check the size of pre-upsampled images.

    Raises:
        ValueError: they are not exactly four times as high and wide as the LR images, or of another
        batch size.
    """
    b, h, w = lr.size
    if start.size != (b, SCALE * h, SCALE * w):
        n, height, width = start.size
        raise ValueError(
            f"The pre-upsampled image is {n} of {width}x{height}, expected {b} of "
            f"{SCALE * w}x{SCALE * h}: exactly {SCALE} times the LR image, which is {b} of {w}x{h}."
            " Make it with LPNSR Pre-Upsample from the same LR image."
        )
