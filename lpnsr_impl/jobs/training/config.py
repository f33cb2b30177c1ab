"""Settings of a training, read from a TOML file. Every key, its meaning and its default."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TaskName = Literal["autoencoder", "decoder", "denoiser", "noise_predictor", "compact"]
SHIPPED = Path(__file__).parent / "configs"

MAY_CHANGE = frozenset(
    {"workers", "save_every", "validate_every", "validation_niqe", "compile", "checkpointing"}
)
"""Settings that a training can go on with others of: what it learns does not depend on them."""


@dataclass(frozen=True)
class Networks:
    """Weights: paths, or names of files in `lpnsr_impl/weights`; empty for none."""

    init: str = ""  # start from these; a denoiser's file may start a noise predictor
    autoencoder: str = ""  # frozen; for denoiser and noise predictor
    denoiser: str = ""  # frozen; for the noise predictor, and the chain of a decoder
    noise_predictor: str = ""  # frozen; for the chain of a decoder
    start: str = ""  # decoder: an upscale model x4 that half of its chains start from, else bicubic
    teacher: str = ""  # compact: an upscale model x4 whose pictures are learnt instead of HR


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses; 0 leaves one out. Images are in [-1,1]."""

    l1: float = 0.0  # image (Eq. 12)
    lpips: float = 0.0  # image, VGG (Eq. 12)
    features: float = 0.0  # image, EfficientNet-Lite0: where LPIPS's weights can't be had
    truth: float = 0.0  # L1 of the image to HR, beside a teacher's
    gan: float = 0.0  # hinge; latents for the noise predictor, else images (Eq. 12)
    pyramid: float = 0.0  # L1 of pictures averaged 2x2 and 4x4: keeps colours
    gradient: float = 0.0  # L1 of differences between neighbours: keeps edges
    latent: float = 0.0  # squared error of x0_pred (ResShift's objective)
    codebook: float = 0.0  # codes to latents, and 0.25 of it the other way (VQ)
    noise: float = 0.0  # Gaussian likelihood of the optimal noise of Eq. 9, one step at a time


@dataclass(frozen=True)
class Discriminator:
    """Spectral-norm PatchGAN, used where `loss.gan` is above 0."""

    channels: int = 64
    layers: int = 3
    start_epoch: int = 2  # the first epoch is 1
    every: int = 2  # updated at every second step
    learning_rate: float = 5e-5


@dataclass(frozen=True)
class TrainConfig:
    """A training. Sizes of crops are in HR pixels."""

    task: TaskName
    steps: int
    batch: int  # over all processes
    crop: int
    family: str = ""  # stored in the exported file; networks of one family go together
    size: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of a network made anew
    networks: Networks = Networks()
    loss: LossWeights = LossWeights()
    discriminator: Discriminator = Discriminator()
    learning_rate: float = 5e-5
    learning_rate_end: float = 1e-5  # cosine
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm
    ema: float = 0.999
    precision: Literal["no", "fp16", "bf16"] = "no"  # mixed precision
    checkpointing: bool = False  # recompute the chain's activations in the backward pass
    compile: bool = False
    degradation: bool = True  # else LR is the picture averaged 4x4
    mild: float = 0.0  # probability of a mild degradation
    chain: float = 0.0  # decoder: part of the crops whose latents the chain makes from LR
    reuse: int = 1  # times that a degraded crop is used, flipped and turned anew
    seed: int = 0
    workers: int = 0  # processes that prepare pictures
    validation_pictures: int = 16  # kept out of the training
    validation_crop: int = 256
    validate_every: int = 500
    validation_niqe: bool = False  # adds the figure "niqe"; needs pyiqa, and crops above 192
    best: str = "l1"  # which of the task's validation figures picks the best; the lowest wins
    save_every: int = 250


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
    config = _parse(TrainConfig, table, path.name)
    _check(config, path.name)
    return config


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


def _parse(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table, strictly."""
    hints = get_type_hints(kind)
    unknown = table.keys() - hints.keys()
    if unknown:
        raise ValueError(
            f"{where}: unknown {sorted(unknown)}, expected some of {', '.join(hints)}."
        )
    required = {
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    }
    missing = required - table.keys()
    if missing:
        raise ValueError(f"{where}: {', '.join(sorted(missing))} missing.")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in table.items()}
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _parse(hint, value, where)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}, expected one of {arguments}.")
        return value
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_value(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if hint is float and type(value) is int:
        return float(value)
    assert origin not in (Union, UnionType), "settings have one type each"
    kind = cast(type, origin or hint)
    if not isinstance(value, kind) or (type(value) is bool and hint is not bool):
        raise ValueError(f"{where} is {value!r}, expected {getattr(hint, '__name__', hint)}.")
    return value


def _check(config: TrainConfig, where: str) -> None:
    least = {
        **dict.fromkeys(("steps", "batch", "reuse", "validate_every", "save_every"), 1),
        "crop": 16,
        **dict.fromkeys(("validation_pictures", "discriminator.every", "discriminator.layers"), 1),
    }
    for key, value in least.items():
        owner, _, name = key.rpartition(".")
        given = getattr(config.discriminator if owner else config, name)
        if given < value:
            raise ValueError(f"{where}: {key} is {given}, expected {value} or more.")
    for key in ("clip", "learning_rate", "learning_rate_end"):
        if not getattr(config, key) > 0:
            raise ValueError(f"{where}: {key} is {getattr(config, key)}, expected above 0.")
    for key in ("mild", "chain"):
        if not 0 <= getattr(config, key) <= 1:
            raise ValueError(f"{where}: {key} is {getattr(config, key)}, expected 0 to 1.")
    for key in ("crop", "validation_crop"):
        if getattr(config, key) % 4:
            raise ValueError(f"{where}: {key} is {getattr(config, key)}, expected a multiple of 4.")
    if not any(vars(config.loss).values()):
        raise ValueError(
            f"{where}: all losses are 0; set one of [loss] {', '.join(vars(config.loss))}."
        )
