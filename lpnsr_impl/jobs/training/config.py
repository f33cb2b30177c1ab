"""Training settings and their defaults, read from a TOML file."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TaskName = Literal["autoencoder", "decoder", "denoiser", "noise_predictor", "compact"]
OneOrMore = Annotated[int, Field(ge=1)]
AboveZero = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
HRSize = Annotated[int, Field(multiple_of=4)]
SHIPPED = Path(__file__).parent / "configs"

MAY_CHANGE = frozenset(
    {"workers", "save_every", "validate_every", "validation_niqe", "compile", "checkpointing"}
)
"""Settings that may change when a training is resumed, since the result does not depend on them."""


class _Table:
    """Base class of the config file's tables. Unknown keys and wrong types are errors."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Networks(_Table):
    """Model files, given by path or by the name of a bundled file. Empty for no file."""

    init: str = ""  # initial weights; for a noise predictor, also those of a denoiser
    autoencoder: str = ""  # frozen; required to train denoisers and noise predictors
    denoiser: str = ""  # frozen; required to train noise predictors, and decoders with `chain`
    noise_predictor: str = ""  # frozen; optional, used with `chain` and `rollout`
    start: str = ""  # x4 upscale model; replaces bicubic upsampling in half of the sampling runs
    teacher: str = ""  # x4 upscale model whose output replaces HR as the training target


@dataclass(frozen=True)
class LossWeights(_Table):
    """Weights of the losses; 0 disables a loss. Images are in [-1,1]."""

    l1: float = 0.0  # L1 between image and target (paper, Eq. 12)
    lpips: float = 0.0  # LPIPS with VGG (paper, Eq. 12)
    features: float = 0.0  # distance of EfficientNet-Lite0 features, an alternative to LPIPS
    truth: float = 0.0  # L1 between image and HR, in addition to the losses against a teacher
    gan: float = 0.0  # GAN loss on images or, for a noise predictor, latents (paper, Eq. 12)
    pyramid: float = 0.0  # L1 between images averaged over 2x2 and 4x4 blocks; preserves colours
    gradient: float = 0.0  # L1 between differences of neighbouring pixels; preserves edges
    latent: float = 0.0  # squared error of x0_pred (ResShift's objective)
    codebook: float = 0.0  # VQ codebook loss, plus 0.25 times the commitment loss
    noise: float = 0.0  # Gaussian negative log-likelihood of the optimal noise (paper, Eq. 9)


@dataclass(frozen=True)
class Discriminator(_Table):
    """Spectral-norm PatchGAN, or heads on image features. Used if `loss.gan` is above 0."""

    features: bool = False  # score EfficientNet-Lite0 features of images instead of patches
    channels: int = 64
    layers: OneOrMore = 3  # number of strided convolutions of the PatchGAN; ignored with `features`
    start_epoch: int = 2  # first epoch with the discriminator; epochs count from 1
    every: OneOrMore = 2  # steps between updates of the discriminator
    learning_rate: float = 5e-5


@dataclass(frozen=True)
class TrainConfig(_Table):
    """Settings of one training. Crop sizes are in HR pixels."""

    task: TaskName
    steps: OneOrMore
    batch: OneOrMore  # batch size, summed over all processes
    crop: Annotated[HRSize, Field(ge=16)]
    family: str = ""  # stored in exported files; networks of different families can't be combined
    size: Mapping[str, Any] = field(default_factory=dict[str, Any])  # network hyperparameters
    networks: Networks = Networks()
    loss: LossWeights = LossWeights()
    discriminator: Discriminator = Discriminator()
    learning_rate: AboveZero = 5e-5
    learning_rate_end: AboveZero = 1e-5  # final learning rate of the cosine schedule
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: AboveZero = 1.0  # maximum gradient norm
    ema: float = 0.999  # decay of the moving average of the weights
    precision: Literal["no", "fp16", "bf16"] = "no"  # mixed precision
    checkpointing: bool = False  # noise predictor: use gradient checkpointing to save memory
    compile: bool = False
    degradation: bool = True  # if false, LR is HR averaged over 4x4 blocks
    mild: Share = 0.0  # probability of a mild degradation
    fit_codes: bool = False  # autoencoder: initialise the codes by k-means of the latents
    chain: Share = 0.0  # decoder: probability that a crop's latents are sampled from LR
    rollout: Share = 0.0  # denoiser: probability that a training step runs all sampling steps
    together: OneOrMore = 1  # denoiser: number of rollouts (sampling runs) computed as one batch
    reuse: OneOrMore = 1  # times each degraded crop is used, with random flips and rotations
    seed: int = 0
    workers: int = 0  # number of data loader processes
    validation_pictures: OneOrMore = 16  # maximum number of validation pictures
    validation_crop: HRSize = 256
    validate_every: OneOrMore = 500  # steps between validations
    validation_niqe: bool = False  # add the metric "niqe"; needs pyiqa and validation_crop > 192
    best: str = "l1"  # validation metric that selects the best checkpoint; lower is better
    save_every: OneOrMore = 250  # steps between saved training states


def read_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config file and apply overrides.

    Args:
        name: path of a TOML file, or the name of a shipped config, such as "lite-denoiser".
        overrides: "key=value" with TOML values, such as "steps=50" or "loss.gan=0.0".

    Raises:
        FileNotFoundError: there is neither a file nor a shipped config of that name.
        ValueError: a key is unknown or missing, a value has the wrong type or range, or all
            losses are 0.
    """
    path = Path(name)
    if not path.is_file():
        path = SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise FileNotFoundError(
            f"There is no config {name!r}. Give the path of a .toml file, or one of {shipped}."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            _merge(table, tomllib.loads(override))
    except tomllib.TOMLDecodeError as e:
        raise ValueError(
            f"{path.name} {list(overrides)}: {e}. Strings need quotes; Windows paths need single "
            "quotes."
        ) from e
    try:
        config = TypeAdapter(TrainConfig).validate_json(json.dumps(table, default=str))
    except ValidationError as e:
        problems = "; ".join(_describe_error(error) for error in e.errors())
        raise ValueError(f"{path.name}: {problems}.") from e
    if not any(vars(config.loss).values()):
        names = ", ".join(vars(config.loss))
        raise ValueError(f"{path.name}: all losses are 0. Set one of {names} in [loss].")
    return config


def _describe_error(error: ErrorDetails) -> str:
    """Describe an error, such as "steps is 0, expected greater than or equal to 1"."""
    *tables, name = error["loc"]
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "unexpected_keyword_argument":
        kind: Any = reduce(
            lambda kind, table: get_type_hints(kind)[str(table)], tables, TrainConfig
        )
        return f"{name!r} is unknown, expected one of {', '.join(get_type_hints(kind))}"
    return f"{key} is {error['input']!r}, {error['msg'].replace('Input should be', 'expected')}"


def changed_settings(before: Mapping[str, Any], now: TrainConfig) -> list[str]:
    """Describe each setting that must not change when a training is resumed, but did.

    Args:
        before: saved config of the training, as a table. Missing keys, which an older version did
            not write, have their default values.
        now: config to resume with.

    Returns:
        Descriptions such as "loss.gan is 0.1, expected 0.0".
    """
    defaults = TrainConfig(now.task, now.steps, now.batch, now.crop)
    old = _flatten(asdict(defaults)) | _flatten(before)
    new = _flatten(asdict(now))
    return [
        f"{key} is {new.get(key)!r}, expected {old.get(key)!r}"
        for key in sorted(old | new)
        if key not in MAY_CHANGE and old.get(key) != new.get(key)
    ]


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys. Tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _merge(table: dict[str, Any], other: dict[str, Any]) -> None:
    """Update a table and its nested tables in place with the values of another."""
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
