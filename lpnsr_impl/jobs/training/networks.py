"""Networks to train: loaded, made anew, or a noise predictor made from a denoiser."""

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
    """Make the network that `config.task` trains, in fp32, with `networks.init`'s weights if given.

    Raises:
        ValueError: `size` does not fit the network.
        UnsupportedCheckpointError: the file does not fit the task.
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
        raise ValueError(f"size = {dict(config.size)} does not fit: {e}.") from e
    _check_sizes(config, model.network)
    model.network.requires_grad_(True).train()
    return model


def _check_sizes(config: TrainConfig, network: nn.Module) -> None:
    """A network from a file has its own sizes; what `size` says must not differ."""
    found = vars(network.config) if hasattr(network, "config") else {}
    for name, value in _tuples(config).items():
        if name in found and found[name] != value:
            raise ValueError(
                f"size.{name} is {value!r}, but {config.networks.init} has {found[name]!r}. Leave "
                "networks.init empty to train a network of another size."
            )


def _make_autoencoder(config: TrainConfig, init: Path | None) -> ModelDescriptor[Autoencoder]:
    part = AUTOENCODER.name
    if init is None:
        return ModelDescriptor(part, Autoencoder(AutoencoderConfig(**_tuples(config))))
    given = load_autoencoder(init)
    sizes = {"norm_groups": config.size.get("norm_groups", given.config.norm_groups)}
    if config.task == "decoder" and sizes["norm_groups"] != given.config.norm_groups:
        raise ValueError(
            f"size.norm_groups is {sizes['norm_groups']}, but {init.name} has "
            f"{given.config.norm_groups}, and a decoder's latents must stay. Leave it out, or "
            "train the task 'autoencoder'."
        )
    if sizes["norm_groups"] and not given.config.norm_groups:
        raise ValueError(
            f"size.norm_groups is {sizes['norm_groups']}, but {init.name} has no norms, expected "
            "0. Leave networks.init empty to train one with norms."
        )
    if not config.size.get("attention", True):
        sizes["attention"] = False
    # Asked for one without the attention that the file has, or with other norms.
    autoencoder = Autoencoder(replace(given.config, **sizes))
    weights, shapes = given.state_dict(), autoencoder.state_dict()
    kept = {key: weights[key] for key, x in shapes.items() if weights[key].shape == x.shape}
    autoencoder.load_state_dict(kept, strict=False)  # but for norms, which `fix_norms` makes
    return ModelDescriptor(part, autoencoder)


def _make_denoiser(config: TrainConfig, init: Path | None) -> ModelDescriptor[Denoiser]:
    if init:
        return load_stepwise_denoiser(init)
    return ModelDescriptor(DENOISER.name, Denoiser(UNetConfig(**_tuples(config))))


def load_stepwise_denoiser(path: Path) -> ModelDescriptor[Denoiser]:
    """Load a denoiser that takes several steps. See `load_model`.

    Raises:
        ValueError: it is a one-step student.
    """
    denoiser = load_model(path, DENOISER)
    if denoiser.student:
        raise ValueError(
            f"{path.name} is a one-step student ({denoiser.student.name}), and this training runs "
            "in steps. Give the denoiser that it was distilled from."
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
    predictor = NoisePredictor(UNetConfig(**{**sizes, **_tuples(config)}))
    if denoiser:
        copy_denoiser(denoiser, predictor)
    # Mean 0 and log-variance 0: the training starts from ResShift's random noise.
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
        deeper = _deepened(loaded.model.float(), config.size.get("num_conv", 0))
        return ModelDescriptor("compact", deeper)
    sizes: dict[str, Any] = {"num_feat": 64, "num_conv": 16, **config.size}
    network = Compact(num_in_ch=3, num_out_ch=3, upscale=SCALE, **sizes)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        # PyTorch's default fades over so many layers that nothing is learnt for thousands of steps.
        nn.init.kaiming_normal_(layer.weight, a=0.25)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    # The residual starts small, beside the nearest-neighbour picture that the network adds.
    with torch.no_grad():
        convolutions[-1].weight.mul_(0.01)
    return ModelDescriptor("compact", network)


@torch.no_grad()
def _deepened(compact: Compact, num_conv: int) -> Compact:
    """The same function by `num_conv` convolutions: new ones before the last pass on what they get.
    A network that has as many or more, or other activations, stays as it is."""
    if num_conv <= compact.num_conv or compact.act_type != "prelu":
        return compact
    deeper = Compact(num_feat=compact.num_feat, num_conv=num_conv, upscale=compact.upscale)
    before = 2 * compact.num_conv + 2
    for layer in list(deeper.body)[before:-1]:
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.PReLU):
            nn.init.ones_(layer.weight)
    for layer, given in zip([*deeper.body[:before], deeper.body[-1]], compact.body, strict=True):
        layer.load_state_dict(given.state_dict())
    return deeper


def _tuples(config: TrainConfig) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in config.size.items()}


@torch.no_grad()
def copy_denoiser(denoiser: Denoiser, predictor: NoisePredictor) -> int:
    """Start a noise predictor from the features of a denoiser, which may have more levels.

    Levels are matched from the finest on. The first convolution reads x_t and lr with the
    denoiser's weights and x0_pred with zeros. What has another shape stays as it is. The result is
    the number of tensors that were copied.
    """
    levels = len(denoiser.config.level_channels), len(predictor.config.level_channels)
    skipped = (levels[0] - levels[1]) * (denoiser.config.num_res_blocks + 1)
    source = denoiser.state_dict()
    copied = 0
    for key, target in predictor.state_dict().items():
        parts = key.split(".")
        if parts[0] == "output_blocks":
            parts[1] = str(int(parts[1]) + skipped)
        found = source.get(".".join(parts))
        if found is not None and found.shape == target.shape:
            target.copy_(found)
            copied += 1
    c = denoiser.config.out_channels
    first, given = (x["input_blocks.0.0.weight"] for x in (predictor.state_dict(), source))
    if given.shape[0] == first.shape[0]:
        first.zero_()
        first[:, :c] = given[:, :c]
        first[:, 2 * c :] = given[:, c:]
        copied += 1
    logger.info("%d of %d tensors come from the denoiser", copied, len(predictor.state_dict()))
    return copied
