"""Creates the network to train, with weights from a file, random weights, or another network's."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from torch import nn

from ...config import SCALE, AutoencoderConfig, UNetConfig
from ...files.checkpoints import (
    AUTOENCODER,
    DENOISER,
    NOISE_PREDICTOR,
    ModelDescriptor,
    load_autoencoder,
    load_model,
)
from ...files.folders import find_weights
from ...files.weights import UnsupportedCheckpointError
from ...models import Autoencoder, Denoiser, NoisePredictor
from .config import TrainConfig

logger = logging.getLogger(__name__)


def make_model(config: TrainConfig) -> ModelDescriptor[Any]:
    """Make the network that `config.task` trains, in fp32.

    If `networks.init` is given, the network gets the weights of this file.

    Raises:
        ValueError: `size` has unknown keys, or contradicts `networks.init`.
        UnsupportedCheckpointError: the file `networks.init` does not fit the task.
    """
    torch.manual_seed(config.seed)
    init = find_weights(config.networks.init) if config.networks.init else None
    makers = {
        "autoencoder": _make_autoencoder,
        "decoder": _make_autoencoder,
        "denoiser": _make_denoiser,
        "noise_predictor": _make_noise_predictor,
        "compact": _make_compact,
    }
    try:
        model = makers[config.task](config, init)
    except TypeError as e:
        raise ValueError(f"size = {dict(config.size)} does not fit this network: {e}.") from e
    _check_sizes(config, model.network)
    model.network.requires_grad_(True).train()
    return model


def _check_sizes(config: TrainConfig, network: nn.Module) -> None:
    """Raise ValueError if `size` contradicts the hyperparameters of `networks.init`."""
    actual = vars(network.config) if hasattr(network, "config") else {}
    for name, value in _size_arguments(config).items():
        if name in actual and actual[name] != value:
            raise ValueError(
                f"size.{name} is {value!r}, but {config.networks.init} has {actual[name]!r}. Leave "
                "networks.init empty to train a network of another size."
            )


def _make_autoencoder(config: TrainConfig, init: Path | None) -> ModelDescriptor[Autoencoder]:
    part = AUTOENCODER.name
    if init is None:
        return ModelDescriptor(part, Autoencoder(AutoencoderConfig(**_size_arguments(config))))
    source = load_autoencoder(init)
    sizes = {"norm_groups": config.size.get("norm_groups", source.config.norm_groups)}
    if config.task == "decoder" and sizes["norm_groups"] != source.config.norm_groups:
        raise ValueError(
            f"size.norm_groups is {sizes['norm_groups']}, but {init.name} has "
            f"{source.config.norm_groups}. Other norms would change the latents, but training "
            "a decoder must keep them. Remove size.norm_groups from the config, or train the task "
            "'autoencoder'."
        )
    if sizes["norm_groups"] and not source.config.norm_groups:
        raise ValueError(
            f"size.norm_groups is {sizes['norm_groups']}, expected 0, since {init.name} has no "
            "norms. Leave networks.init empty to train an autoencoder with norms."
        )
    if not config.size.get("attention", True):
        sizes["attention"] = False
    autoencoder = Autoencoder(replace(source.config, **sizes))
    weights, targets = source.state_dict(), autoencoder.state_dict()
    matching = {key: weights[key] for key, x in targets.items() if weights[key].shape == x.shape}
    # Not strict: attention may be left out, and norms may be replaced, which `fix_norms` then sets.
    autoencoder.load_state_dict(matching, strict=False)
    return ModelDescriptor(part, autoencoder)


def _make_denoiser(config: TrainConfig, init: Path | None) -> ModelDescriptor[Denoiser]:
    if init:
        return load_stepwise_denoiser(init)
    return ModelDescriptor(DENOISER.name, Denoiser(UNetConfig(**_size_arguments(config))))


def load_stepwise_denoiser(path: Path) -> ModelDescriptor[Denoiser]:
    """Load a multi-step denoiser. Also raises the errors of `load_model`.

    Raises:
        ValueError: the file holds a one-step student.
    """
    denoiser = load_model(path, DENOISER)
    if denoiser.student:
        raise ValueError(
            f"{path.name} is a one-step student ({denoiser.student.name}), expected a multi-step "
            "denoiser. Give the denoiser that it was distilled from."
        )
    return denoiser


def _make_noise_predictor(
    config: TrainConfig, init: Path | None
) -> ModelDescriptor[NoisePredictor]:
    denoiser = None
    if init:
        try:
            denoiser = load_stepwise_denoiser(init).network
        except UnsupportedCheckpointError:
            return load_model(init, NOISE_PREDICTOR)
    sizes: dict[str, Any] = vars(denoiser.config) if denoiser else {}
    channels = denoiser.config.out_channels if denoiser else UNetConfig.out_channels
    sizes = {**sizes, "in_channels": 2 * channels + 3, "out_channels": 2 * channels}
    predictor = NoisePredictor(UNetConfig(**{**sizes, **_size_arguments(config)}))
    if denoiser:
        copy_denoiser(denoiser, predictor)
    # Initially, the predictor returns mean 0 and log-variance 0: ResShift's random noise.
    last = predictor.out[2]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return ModelDescriptor(NOISE_PREDICTOR.name, predictor)


def _make_compact(config: TrainConfig, init: Path | None) -> ModelDescriptor[Compact]:
    if init:
        loaded = ModelLoader("cpu").load_from_file(str(init))
        if not isinstance(loaded.model, Compact) or loaded.scale != SCALE:
            raise ValueError(
                f"{init.name} is {loaded.architecture.name} x{loaded.scale}, expected RealESRGAN "
                f"Compact x{SCALE}."
            )
        deeper = _deepen(loaded.model.float(), config.size.get("num_conv", 0))
        return ModelDescriptor("compact", deeper)
    sizes: dict[str, Any] = {"num_feat": 64, "num_conv": 16, **config.size}
    network = Compact(num_in_ch=3, num_out_ch=3, upscale=SCALE, **sizes)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        # With PyTorch's default initialisation, activations vanish, and training stalls.
        nn.init.kaiming_normal_(layer.weight, a=0.25)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    # Start close to nearest-neighbour upsampling, to which the network adds a residual.
    with torch.no_grad():
        convolutions[-1].weight.mul_(0.01)
    return ModelDescriptor("compact", network)


@torch.no_grad()
def _deepen(compact: Compact, num_conv: int) -> Compact:
    """Raise Compact's `num_conv` by inserting identity convolutions before the last convolution.

    Returns the network unchanged if it is already that deep, or its activations are not PReLU.
    """
    if num_conv <= compact.num_conv or compact.act_type != "prelu":
        return compact
    deeper = Compact(num_feat=compact.num_feat, num_conv=num_conv, upscale=compact.upscale)
    num_kept = 2 * compact.num_conv + 2
    for layer in list(deeper.body)[num_kept:-1]:
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.PReLU):
            nn.init.ones_(layer.weight)
    for layer, source in zip([*deeper.body[:num_kept], deeper.body[-1]], compact.body, strict=True):
        layer.load_state_dict(source.state_dict())
    return deeper


def _size_arguments(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments from `config.size`, with tuples in place of TOML's lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.size.items()}


@torch.no_grad()
def copy_denoiser(denoiser: Denoiser, predictor: NoisePredictor) -> int:
    """Copy the weights of a denoiser into a noise predictor, which may have fewer levels.

    Levels are matched from the finest one. The first convolution gets the denoiser's weights for
    its inputs x_t and lr, and zeros for x0_pred. Other tensors are copied only
    if their shapes agree.

    Returns:
        The number of tensors that were copied.
    """
    levels = len(denoiser.config.level_channels), len(predictor.config.level_channels)
    skipped = (levels[0] - levels[1]) * (denoiser.config.num_res_blocks + 1)
    source = denoiser.state_dict()
    copied = 0
    for key, target in predictor.state_dict().items():
        parts = key.split(".")
        if parts[0] == "output_blocks":
            parts[1] = str(int(parts[1]) + skipped)
        weight = source.get(".".join(parts))
        if weight is not None and weight.shape == target.shape:
            target.copy_(weight)
            copied += 1
    c = denoiser.config.out_channels
    first, weight = (x["input_blocks.0.0.weight"] for x in (predictor.state_dict(), source))
    if weight.shape[0] == first.shape[0]:
        first.zero_()
        first[:, :c] = weight[:, :c]
        first[:, 2 * c :] = weight[:, c:]
        copied += 1
    logger.info("copied %d of %d tensors from the denoiser", copied, len(predictor.state_dict()))
    return copied
