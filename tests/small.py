"""Small networks for tests, with pseudo-random weights from `tests.golden.fill`."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from lpnsr_impl.config import AutoencoderConfig, UNetConfig
from lpnsr_impl.models import Autoencoder, Denoiser, NoisePredictor
from tests.golden.fill import fill

PICTURE = Path(__file__).parents[1] / "workflows" / "lpnsr_example.png"

AUTOENCODER = AutoencoderConfig(level_channels=(32, 64, 64), num_res_blocks=1, num_codes=64)
UNET = UNetConfig(
    model_channels=32,
    level_channels=(32, 64),
    num_res_blocks=1,
    swin_width=32,
    mlp_width=64,
    head_width=16,
)


def unet_config(in_channels: int = 6, out_channels: int = 3, **sizes: object) -> UNetConfig:
    """Make a config like `UNET`, with given channels, and with the fields in `sizes` replaced."""
    return UNetConfig(
        **{**vars(UNET), "in_channels": in_channels, "out_channels": out_channels, **sizes}
    )


def state_dict(network: nn.Module, salt: str = "") -> dict[str, Tensor]:
    """Make a state dict for a network, with weights from `fill`. `salt` varies the weights."""
    return fill({key: tuple(value.shape) for key, value in network.state_dict().items()}, salt)


def autoencoder_weights(config: AutoencoderConfig = AUTOENCODER) -> dict[str, Tensor]:
    with torch.device("meta"):
        return state_dict(Autoencoder(config))


def denoiser_weights(config: UNetConfig | None = None) -> dict[str, Tensor]:
    with torch.device("meta"):
        return state_dict(Denoiser(config or unet_config()))


def predictor_weights(config: UNetConfig | None = None) -> dict[str, Tensor]:
    with torch.device("meta"):
        return state_dict(NoisePredictor(config or unet_config(9, 6)), salt="predictor.")


def save_crops(folder: Path, count: int, step: tuple[int, int]) -> Path:
    """Save 90x80 crops of the example picture to `folder`, each shifted by `step` (x, y) pixels."""
    with Image.open(PICTURE) as file:
        rgb = file.convert("RGB")
    for i in range(count):
        x, y = i * step[0], i * step[1]
        rgb.crop((x, y, x + 90, y + 80)).save(folder / f"{i}.png")
    return folder
