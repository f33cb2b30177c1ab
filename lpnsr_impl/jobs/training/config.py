"""Settings of a training, read from a TOML file. Every key, its meaning and its default."""

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
"""Settings that a training can go on with others of: what it learns does not depend on them."""


class _Table:
    """A table of the file: unknown keys and values of other types are errors."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Networks(_Table):
    """Weights: paths, or names of files in `lpnsr_impl/weights`; empty for none."""

    init: str = ""  # start from these; a denoiser's file may start a noise predictor
    autoencoder: str = ""  # frozen; for denoiser and noise predictor
    denoiser: str = ""  # frozen; for the noise predictor, and the chain of a decoder
    noise_predictor: str = ""  # frozen; for the chain of a decoder, and rollouts
    start: str = ""  # upscale model x4 that half of all chains start from; else bicubic
    teacher: str = ""  # an upscale model x4 whose pictures are learnt instead of HR


@dataclass(frozen=True)
class LossWeights(_Table):
    """Factors of the losses; 0 leaves one out. Images are in [-1,1]."""

    l1: float = 0.0  # image (Eq. 12)
    lpips: float = 0.0  # image, VGG (Eq. 12)
    features: float = 0.0  # image, EfficientNet-Lite0: where LPIPS's weights can't be had
    truth: float = 0.0  # L1 of the image to HR, beside a teacher's
    gan: float = 0.0  # hinge, of pictures; of a noise predictor's latents (Eq. 12)
    pyramid: float = 0.0  # L1 of pictures averaged 2x2 and 4x4: keeps colours
    gradient: float = 0.0  # L1 of differences between neighbours: keeps edges
    latent: float = 0.0  # squared error of x0_pred (ResShift's objective)
    codebook: float = 0.0  # codes to latents, and 0.25 of it the other way (VQ)
    noise: float = 0.0  # Gaussian likelihood of the optimal noise of Eq. 9, one step at a time


@dataclass(frozen=True)
class Discriminator(_Table):
    """Spectral-norm PatchGAN, or heads on features, used where `loss.gan` is above 0."""

    features: bool = False  # judge EfficientNet-Lite0's features of pictures
    channels: int = 64
    layers: OneOrMore = 3  # of the PatchGAN; features have five depths
    start_epoch: int = 2  # the first epoch is 1
    every: OneOrMore = 2  # updated at every second step
    learning_rate: float = 5e-5


@dataclass(frozen=True)
class TrainConfig(_Table):
    """A training. Sizes of crops are in HR pixels."""

    task: TaskName
    steps: OneOrMore
    batch: OneOrMore  # over all processes
    crop: Annotated[HRSize, Field(ge=16)]
    family: str = ""  # stored in the exported file; networks of one family go together
    size: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of a network made anew
    networks: Networks = Networks()
    loss: LossWeights = LossWeights()
    discriminator: Discriminator = Discriminator()
    learning_rate: AboveZero = 5e-5
    learning_rate_end: AboveZero = 1e-5  # cosine
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: AboveZero = 1.0  # gradient norm
    ema: float = 0.999
    precision: Literal["no", "fp16", "bf16"] = "no"  # mixed precision
    checkpointing: bool = False  # recompute the chain's activations in the backward pass
    compile: bool = False
    degradation: bool = True  # else LR is the picture averaged 4x4
    mild: Share = 0.0  # probability of a mild degradation
    fit_codes: bool = False  # autoencoder: begin with codes by k-means of its latents
    chain: Share = 0.0  # decoder: part of the crops whose latents the chain makes from LR
    rollout: Share = 0.0  # denoiser: part of the steps that are of the ends of its own chain
    together: OneOrMore = 1  # denoiser: rollouts of one draw, which a GPU runs as one batch
    reuse: OneOrMore = 1  # times that a degraded crop is used, flipped and turned anew
    seed: int = 0
    workers: int = 0  # processes that prepare pictures
    validation_pictures: OneOrMore = 16  # kept out of the training
    validation_crop: HRSize = 256
    validate_every: OneOrMore = 500
    validation_niqe: bool = False  # adds the figure "niqe"; needs pyiqa, and crops above 192
    best: str = "l1"  # which of the task's validation figures picks the best; the lowest wins
    save_every: OneOrMore = 250


def read_config(name: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config.

    Args:
        name: path of a TOML file, or the name of a shipped one, such as "lite-denoiser".
        overrides: "key=value" with TOML values, such as "steps=50" or "loss.gan=0.0".

    Raises:
        FileNotFoundError: there is no such file and no shipped config of that name.
        ValueError: a key is unknown or missing, or a value has the wrong type or range.
    """
    path = Path(name)
    if not path.is_file():
        path = SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise FileNotFoundError(
            f"There is no config {name!r}: give the path of a .toml file, or one of {shipped}."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for override in overrides:
            _merge(table, tomllib.loads(override))
    except tomllib.TOMLDecodeError as e:
        raise ValueError(
            f"{path.name} {list(overrides)}: {e}. Strings need quotes, Windows paths single ones."
        ) from e
    try:
        config = TypeAdapter(TrainConfig).validate_json(json.dumps(table, default=str))
    except ValidationError as e:
        problems = "; ".join(_problem(error) for error in e.errors())
        raise ValueError(f"{path.name}: {problems}.") from e
    if not any(vars(config.loss).values()):
        names = ", ".join(vars(config.loss))
        raise ValueError(f"{path.name}: all losses are 0; set one of [loss] {names}.")
    return config


def _problem(error: ErrorDetails) -> str:
    """Such as "steps is 0, expected greater than or equal to 1"."""
    *tables, name = error["loc"]
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "unexpected_keyword_argument":
        kind: Any = reduce(
            lambda kind, table: get_type_hints(kind)[str(table)], tables, TrainConfig
        )
        return f"{name!r} is unknown, expected some of {', '.join(get_type_hints(kind))}"
    return f"{key} is {error['input']!r}, {error['msg'].replace('Input should be', 'expected')}"


def changed_settings(before: Mapping[str, Any], now: TrainConfig) -> list[str]:
    """What a training that goes on would do otherwise, such as "loss.gan is 0.1, expected 0.0".

    Args:
        before: the config that it began with, as a table. What an older version had not is at its
            default.
        now: settings to go on with.
    """
    defaults = TrainConfig(now.task, now.steps, now.batch, now.crop)
    old = _flat(asdict(defaults)) | _flat(before)
    new = _flat(asdict(now))
    return [
        f"{key} is {new.get(key)!r}, expected {old.get(key)!r}"
        for key in sorted(old | new)
        if key not in MAY_CHANGE and old.get(key) != new.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key, tuples as the lists that files have."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _merge(table: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
