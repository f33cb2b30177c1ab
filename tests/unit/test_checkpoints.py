"""Loading checkpoints: accepted formats, and the error for each kind of wrong file."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lpnsr_impl import (
    UnsupportedCheckpointError,
    check_family,
    load_autoencoder,
    load_denoiser,
    load_noise_predictor,
)
from lpnsr_impl.config import (
    LPNSR_SCHEDULE,
    RESSHIFT_15,
    AutoencoderConfig,
    ScheduleConfig,
    UNetConfig,
)
from lpnsr_impl.files.checkpoints import load_model
from tests.small import (
    AUTOENCODER,
    autoencoder_weights,
    denoiser_weights,
    predictor_weights,
    unet_config,
)

Weights = dict[str, Tensor]


def same(network: torch.nn.Module, weights: Weights) -> bool:
    state = network.state_dict()
    return state.keys() == weights.keys() and all(
        torch.equal(state[key], weights[key]) for key in state
    )


# Accepted files


@pytest.mark.parametrize(
    "config",
    [
        unet_config(),
        unet_config(level_channels=(32, 64, 64, 96), num_res_blocks=2, swin_depth=2),
        unet_config(
            level_channels=(64, 64, 128),
            model_channels=64,
            swin_width=96,
            head_width=32,
            mlp_width=96,
        ),
        unet_config(swin_depth=4, num_res_blocks=3),
        unet_config(in_channels=7, out_channels=4),
        unet_config(
            level_channels=(32, 32, 32, 32), trained_resolution=32
        ),  # attention windows of 4x4 at the deepest level
    ],
)
def test_a_unets_config_is_derived_from_shapes(config: UNetConfig) -> None:
    weights = denoiser_weights(config)
    denoiser = load_denoiser(weights)
    assert denoiser.config == config
    assert same(denoiser, weights)
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())


@pytest.mark.parametrize(
    "config",
    [
        AUTOENCODER,
        AutoencoderConfig(
            level_channels=(32, 64, 96), num_res_blocks=2, latent_channels=4, embed_channels=5
        ),
    ],
)
def test_an_autoencoders_config_is_derived_from_shapes(config: AutoencoderConfig) -> None:
    weights = autoencoder_weights(config)
    assert load_autoencoder(weights).config == config
    assert same(load_autoencoder(weights), weights)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "params_ema", "params"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_stripped(
    tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    weights = predictor_weights()
    stored: dict[str, Any] = {prefix + key: tensor for key, tensor in weights.items()}
    stored[f"{prefix}input_blocks.1.1.blocks.0.attn.relative_position_index"] = torch.zeros(
        64, 64
    ).long()
    if wrapper:
        stored = {wrapper: stored, "epoch": 3}
    path = tmp_path / "weights.pth"
    torch.save(stored, path)
    assert same(load_noise_predictor(path), weights)


def test_half_precision_files_load_as_fp32_and_losses_are_ignored(tmp_path: Path) -> None:
    weights = {key: tensor.half() for key, tensor in autoencoder_weights().items()}
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {**weights, "loss.discriminator.weight": torch.zeros(3)}}, path)
    assert same(
        load_autoencoder(str(path)), {key: tensor.float() for key, tensor in weights.items()}
    )


def test_a_header_sets_what_shapes_do_not_give(tmp_path: Path) -> None:
    config = {"trained_resolution": 32, "window_size": 8, "head_width": 16}
    config |= {"largest_tile": 64, "norm_size": 32}
    header = {"lpnsr.family": "mine", "lpnsr.part": "denoiser", "lpnsr.config": json.dumps(config)}
    path = tmp_path / "weights.safetensors"
    save_file(denoiser_weights(), path, header)
    model = load_model(path)
    assert model.family == "mine"
    assert model.network.config == unet_config(trained_resolution=32, largest_tile=64, norm_size=32)
    without = load_denoiser(denoiser_weights()).config
    assert (without.trained_resolution, without.largest_tile) == (64, 256)


def test_a_stored_shift_mask_gives_the_trained_resolution() -> None:
    weights = denoiser_weights()
    weights["input_blocks.1.1.blocks.1.attn_mask"] = torch.zeros(16, 64, 64)
    assert load_denoiser(weights).config.trained_resolution == 32


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("resshift_realsrx4_s15_v1.pth", RESSHIFT_15),
        ("resshift_realsrx4_s15_v2.pth", RESSHIFT_15),
        ("mine_s15.pth", RESSHIFT_15),
        ("resshift_realsrx4_s4_v3.pth", LPNSR_SCHEDULE),
        ("resshift_bicsrx4_s4.pth", LPNSR_SCHEDULE),
        ("mine_s150.pth", LPNSR_SCHEDULE),
    ],
)
def test_the_name_of_a_released_file_gives_its_schedule(
    tmp_path: Path, name: str, schedule: ScheduleConfig
) -> None:
    torch.save(denoiser_weights(), tmp_path / name)
    assert load_model(tmp_path / name).schedule == schedule


def test_a_headers_schedule_overrides_the_name(tmp_path: Path) -> None:
    path = tmp_path / "x_s15_.safetensors"
    given = ScheduleConfig(num_timesteps=8, min_noise_level=0.1, sqrt_eta_end=0.9, power=0.5)
    save_file(predictor_weights(), path, {"lpnsr.schedule": json.dumps(vars(given))})
    assert load_model(path).schedule == given
    assert load_model(denoiser_weights()).schedule == LPNSR_SCHEDULE


class LazyLinear(nn.Linear):
    """Like ComfyUI's layer for dynamic VRAM: it has no weights until they are loaded."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.weight = self.bias = None  # pyright: ignore[reportAttributeAccessIssue]

    def _load_from_state_dict(
        self,
        state_dict: Weights,
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        assert local_metadata["assign_to_params_buffers"], "the layer has no weights to copy into"
        for key, tensor in state_dict.items():
            name = key[len(prefix) :]
            assert getattr(self, name) is None, "the weight was set before it was loaded"
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))


class LazyEmbedding(nn.Embedding):
    """Like `LazyLinear`, but with a weight on the meta device."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, device="meta")


LAZY = SimpleNamespace(
    Linear=LazyLinear, Embedding=LazyEmbedding, Conv2d=nn.Conv2d, GroupNorm=nn.GroupNorm
)


@pytest.mark.parametrize(
    ("load", "make"),
    [
        (load_autoencoder, autoencoder_weights),
        (load_denoiser, denoiser_weights),
        (load_noise_predictor, predictor_weights),
    ],
)
def test_a_hosts_layers_may_have_no_weights_before_they_are_loaded(
    load: Callable[..., nn.Module], make: Callable[[], Weights]
) -> None:
    weights = make()
    assert same(load(weights, operations=LAZY), weights)
    with pytest.raises(UnsupportedCheckpointError, match=r"1 keys .* missing"):
        load(dict(list(weights.items())[:-1]), operations=LAZY)


def test_networks_of_the_released_sizes_are_of_the_released_family() -> None:
    keys = json.loads((Path(__file__).parents[1] / "golden" / "checkpoint_keys.json").read_text())
    structural = ("relative_position_index", "attn_mask")
    weights = {
        k: torch.zeros(s)
        for k, s in keys["autoencoder_vq_f4"].items()
        if not k.endswith(structural)
    }
    assert load_model(weights).family == "released"
    assert load_model(autoencoder_weights()).family is None


# Refused files


class Exploit:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target, path = tmp_path / "pwned", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": Exploit(target)}))
    with pytest.raises(UnsupportedCheckpointError, match=r"evil\.pth .*run code"):
        load_denoiser(path)
    torch.save({**denoiser_weights(), "x": Exploit(target)}, path)
    with pytest.raises(UnsupportedCheckpointError, match=r"evil\.pth .*run code"):
        load_denoiser(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(denoiser_weights(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UnsupportedCheckpointError, match=rf"cut\{suffix} .*get the file again"):
        load_denoiser(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "is a text page"),
        (b"version https://git-lfs.github.com/spec/v1", "is a text page"),
        (bytes(range(256)) * 8, "damaged"),
    ],
)
def test_files_without_weights_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load_autoencoder(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        load_denoiser(tmp_path / "nothing.pth")
    with pytest.raises(UnsupportedCheckpointError, match="is a folder"):
        load_denoiser(tmp_path)


def rrdb_net() -> Weights:
    """State dict of RealESRGAN's RRDBNet with 2 blocks."""
    shapes = {
        "conv_first": (8, 3),
        "conv_body": (8, 8),
        "conv_up1": (8, 8),
        "conv_up2": (8, 8),
        "conv_hr": (8, 8),
    }
    shapes["conv_last"] = (3, 8)
    for block in range(2):
        for rdb in (1, 2, 3):
            shapes |= {
                f"body.{block}.rdb{rdb}.conv{i + 1}": (8 if i == 4 else 4, 8 + 4 * i)
                for i in range(5)
            }
    weights = {f"{name}.weight": torch.zeros(*shape, 3, 3) for name, shape in shapes.items()}
    return {**weights, **{f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}}


LOADERS = {
    "an autoencoder": (load_autoencoder, autoencoder_weights),
    "a denoiser": (load_denoiser, denoiser_weights),
    "a noise predictor": (load_noise_predictor, predictor_weights),
}


@pytest.mark.parametrize("expected", LOADERS)
@pytest.mark.parametrize("given", LOADERS)
def test_each_part_is_detected_in_the_place_of_another(given: str, expected: str) -> None:
    weights = LOADERS[given][1]()
    if given == expected:
        assert same(LOADERS[expected][0](weights), weights)
        return
    with pytest.raises(
        UnsupportedCheckpointError, match=f"looks like {given}, expected {expected}"
    ):
        LOADERS[expected][0](weights)


@pytest.mark.parametrize("expected", LOADERS)
@pytest.mark.parametrize(
    ("weights", "looks_like"),
    [
        (
            {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)},
            "a Stable Diffusion checkpoint",
        ),
        ({"encoder.conv_in.weight": torch.zeros(1)}, "an autoencoder without a codebook"),
        ({"lora_unet_x.lora_up.weight": torch.zeros(1)}, "a LoRA"),
        ({"something.weight": torch.zeros(1)}, "something unknown"),
        (rrdb_net(), r"an upscale model \(ESRGAN\)"),
    ],
)
def test_foreign_files_are_detected(weights: Weights, looks_like: str, expected: str) -> None:
    with pytest.raises(
        UnsupportedCheckpointError, match=rf"looks like {looks_like}.*expected {expected}"
    ):
        LOADERS[expected][0](weights)


@pytest.mark.parametrize("expected", LOADERS)
def test_damaged_state_dicts_are_refused(expected: str) -> None:
    load, make = LOADERS[expected]
    weights = make()
    for missing in weights:
        with pytest.raises(UnsupportedCheckpointError):
            load({key: tensor for key, tensor in weights.items() if key != missing})
    key = next(k for k in weights if k.endswith(".bias"))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(UnsupportedCheckpointError, match=f"{key} has NaN or infinite values"):
            load({**weights, key: torch.full_like(weights[key], bad)})
    with pytest.raises(UnsupportedCheckpointError, match=r"1 keys \(surplus\.weight\) unexpected"):
        load({**weights, "surplus.weight": torch.zeros(1)})
    with pytest.raises(UnsupportedCheckpointError, match="is a str"):
        load({**weights, "note": "text"})


def test_parts_of_wide_latents_are_detected_by_their_header(tmp_path: Path) -> None:
    config, path = (
        unet_config(11, 8),
        tmp_path / "wide.safetensors",
    )  # shapes of a denoiser for 8 latent channels, and of a noise predictor for 4
    assert load_denoiser(denoiser_weights(config)).config == config
    assert load_noise_predictor(denoiser_weights(config)).config == config
    save_file(denoiser_weights(config), path, {"lpnsr.part": "denoiser"})
    with pytest.raises(UnsupportedCheckpointError, match="looks like a denoiser"):
        load_noise_predictor(path)


def test_a_header_may_repeat_shapes_and_add_other_fields(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = {"lpnsr.config": '{"model_channels": 32, "level_channels": [32, 64], "note": "x"}'}
    save_file(denoiser_weights(), path, header)
    assert load_denoiser(path).config == unet_config()


def test_a_callers_state_dict_is_not_changed_by_its_network() -> None:
    weights = denoiser_weights()
    first, second = load_denoiser(weights), load_denoiser(weights)
    first.out[2].bias.data.zero_()
    assert same(second, weights)
    first.requires_grad_(True)
    load_denoiser(dict(first.named_parameters()))
    assert all(p.requires_grad for p in first.parameters())


def test_a_network_does_not_change_with_its_file(tmp_path: Path) -> None:
    weights, path = denoiser_weights(), tmp_path / "weights.safetensors"
    save_file(weights, path)
    denoiser = load_denoiser(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert same(denoiser, weights)


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("out.2.bias", torch.zeros(3, dtype=torch.int64), "out.2.bias is torch.int64"),
        ("input_blocks.0.0.weight", torch.zeros(32), "expected 4 dimensions"),
        ("out.2.weight", torch.zeros(()), "expected 4 dimensions"),
        ("time_embed.0.bias", torch.zeros(5), "time_embed.0.bias has shape"),
        (
            "input_blocks.1.1.blocks.0.attn.relative_position_bias_table",
            torch.zeros(225, 0),
            "expected 2 dimensions",
        ),
    ],
)
def test_tensors_of_wrong_types_and_shapes_are_refused(
    key: str, tensor: Tensor, message: str
) -> None:
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load_denoiser({**denoiser_weights(), key: tensor})


def test_one_key_under_two_prefixes_is_refused() -> None:
    weights = denoiser_weights()
    with pytest.raises(UnsupportedCheckpointError, match="twice, under different prefixes"):
        load_denoiser({**weights, "module.out.2.bias": weights["out.2.bias"]})


def test_missing_keys_are_listed() -> None:
    weights = denoiser_weights()
    del weights["out.0.bias"], weights["time_embed.2.weight"]
    with pytest.raises(
        UnsupportedCheckpointError, match=r"2 keys \(out\.0\.bias, time_embed\.2\.weight\) missing"
    ):
        load_denoiser(weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_channels": 64}', "has model_channels = 64, but its weights have 32"),
        ("{", "is not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"window_size": "8"}', "window_size = '8'"),
        ('{"largest_tile": 0}', "largest_tile = 0, expected 1 or more"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, config: str, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(denoiser_weights(), path, {"lpnsr.config": config})
    with pytest.raises(UnsupportedCheckpointError, match=message):
        load_denoiser(path)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ('{"steps": 15}', "unexpected keyword argument 'steps'"),
        ('{"num_timesteps": 1}', "num_timesteps is 1, expected 2 or more"),
        ('{"num_timesteps": "15"}', "not supported between"),
        ('{"min_noise_level": 3}', r"expected above 1\.5"),
        ("15", "is '15', expected a JSON object"),
    ],
)
def test_invalid_schedules_in_headers_are_refused(
    tmp_path: Path, schedule: str, message: str
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(denoiser_weights(), path, {"lpnsr.schedule": schedule})
    with pytest.raises(UnsupportedCheckpointError, match=rf"lpnsr\.schedule .*{message}"):
        load_denoiser(path)


def test_a_header_that_contradicts_shapes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(denoiser_weights(), path, {"lpnsr.config": '{"window_size": 4}'})
    with pytest.raises(
        UnsupportedCheckpointError, match=r"relative_position_bias_table has shape \(225, 2\)"
    ):
        load_denoiser(path)


def test_an_autoencoder_of_another_scale_is_refused() -> None:
    config = AutoencoderConfig(level_channels=(32, 32), num_res_blocks=1, num_codes=8)
    with pytest.raises(UnsupportedCheckpointError, match="compresses x2, expected x4"):
        load_autoencoder(autoencoder_weights(config))


# Families of networks


def test_networks_of_different_families_are_refused() -> None:
    a, d, p = (load_model(LOADERS[part][1]()) for part in LOADERS)
    assert check_family(a, d, p).name == "unnamed"
    d = replace(d, family="one")
    assert check_family(a, d, p).name == check_family(a, d, None).name == "one"
    p = replace(p, family="two")
    with pytest.raises(ValueError, match="Denoiser is of 'one', NoisePredictor is of 'two'"):
        check_family(a, d, p)


def test_a_predictor_of_another_schedule_is_refused() -> None:
    a, d, p = (load_model(LOADERS[part][1]()) for part in LOADERS)
    d = replace(d, schedule=RESSHIFT_15)
    assert check_family(a, d, None).schedule == RESSHIFT_15
    with pytest.raises(ValueError, match=r"num_timesteps=15.* Choose 'none' as the noise pred"):
        check_family(a, d, p)
    assert check_family(a, d, replace(p, schedule=RESSHIFT_15)).schedule == RESSHIFT_15


def test_latents_of_different_channels_are_refused() -> None:
    wide = load_model(denoiser_weights(unet_config(7, 4)))
    with pytest.raises(ValueError, match="different numbers of channels"):
        check_family(load_model(autoencoder_weights()), wide, None)
