"""Properties of the networks, tested on small ones: image sizes, windows, attention, quantiser,
precision, norms."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lpnsr_impl import load_autoencoder, load_denoiser, load_noise_predictor
from lpnsr_impl.accelerate import set_precision
from lpnsr_impl.config import RELEASED_DENOISER, UNetConfig
from lpnsr_impl.models import Denoiser, swin
from lpnsr_impl.models.layers import BorderedGroupNorm, timestep_embedding
from lpnsr_impl.models.swin import SwinBlock, relative_position_index, shift_mask
from tests.golden.fill import noise
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights, unet_config


def rand(name: str, *shape: int) -> Tensor:
    return noise(f"models.{name}", shape)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (16, 48), (64, 32)])
def test_unets_keep_the_size(h: int, w: int) -> None:
    denoiser, predictor = (
        load_denoiser(denoiser_weights()),
        load_noise_predictor(predictor_weights()),
    )
    x, lr = rand("x", 2, 3, h, w), rand("lr", 2, 3, h, w)
    x0_pred = denoiser(x, 3, lr)
    mean, logvar = predictor(x, x0_pred, lr, 3)
    assert x0_pred.shape == mean.shape == logvar.shape == x.shape
    assert x0_pred.isfinite().all()


def test_a_batch_equals_its_items_alone_and_takes_a_step_for_each() -> None:
    denoiser = load_denoiser(denoiser_weights())
    x, lr = rand("x", 3, 3, 32, 16), rand("lr", 3, 3, 32, 16)
    together = denoiser(x, torch.tensor([0, 1, 3]), lr)
    for i, t_index in enumerate((0, 1, 3)):
        alone = denoiser(x[i : i + 1], t_index, lr[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_logvar_is_clamped() -> None:
    weights = predictor_weights()
    weights["out.2.bias"] = torch.tensor([0.0, 0.0, 0.0, 1e4, -1e4, 0.0])
    x = rand("x", 1, 3, 16, 16)
    _, logvar = load_noise_predictor(weights)(x, x, x, 0)
    assert logvar[:, 0].eq(20).all()
    assert logvar[:, 1].eq(-30).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 21), "height 16 and width 21, expected multiples of 2"),
        ((1, 4, 16, 16), r"expected \[B,6,h,w\]"),
    ],
)
def test_sizes_that_cannot_be_halved_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_denoiser(denoiser_weights())(torch.zeros(shape), 0, torch.zeros(1, 3, *shape[2:]))


def test_windows_and_shifts_follow_the_trained_resolution() -> None:
    full, lite = RELEASED_DENOISER, UNetConfig(trained_resolution=32)
    assert [full.window_at(level) for level in range(4)] == [8, 8, 8, 8]
    assert [full.shift_at(level) for level in range(4)] == [4, 4, 4, 0]
    assert [lite.window_at(level) for level in range(4)] == [8, 8, 8, 4]
    assert [lite.shift_at(level) for level in range(4)] == [4, 4, 0, 0]
    assert (full.size_multiple, lite.size_multiple) == (8, 8)
    assert (full.tile_multiple, lite.tile_multiple) == (64, 32)


@torch.inference_mode()
def test_windows_that_stick_out_see_the_edge_mirrored() -> None:
    """Attention windows that extend beyond a map see its edge mirrored: the result for a 12x8 map
    equals that for the map reflection-padded to 16x8."""
    torch.manual_seed(0)
    block = SwinBlock(32, 1, 64, window=8, shift=0, norm_size=None, operations=torch.nn)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, 32, 12, 8)
    by_hand = torch.cat([x, x[:, :, [10, 9, 8, 7]]], dim=2)
    torch.testing.assert_close(block.attention(x), block.attention(by_hand)[:, :, :12])


def test_relative_position_index_counts_offsets() -> None:
    index = relative_position_index(3).view(3, 3, 3, 3)
    assert index[1, 1, 1, 1] == 12  # offset (0, 0) is the middle of 5x5 offsets
    assert index[2, 0, 0, 2] == (2 + 2) * 5 + (-2 + 2)
    assert index.unique().numel() == 25


def test_shift_mask_parts_left_from_right_columns() -> None:
    mask = shift_mask(8, 4).view(8, 8, 8, 8)  # [query y, query x, key y, key x]
    assert mask[0, 3, 7, 4]
    assert mask[7, 7, 0, 0]
    assert not mask[0, 3, 7, 2]
    assert not mask[0, 4, 7, 7]


def test_only_the_bottom_row_of_windows_is_masked() -> None:
    """The shift mask applies only to the bottom row of windows. With uniform attention, masked
    windows average their left and right halves separately; other windows average over both."""
    block = SwinBlock(32, 1, 32, window=8, shift=4, norm_size=None, operations=torch.nn)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.ones_(block.norm1.weight)
    block.attn.qkv.weight.data[64:] = torch.eye(32)  # queries and keys stay 0: uniform attention
    block.attn.proj.weight.data = torch.eye(32)
    x = rand("x", 1, 32, 24, 16)
    y = block.attention(x).roll((-4, -4), (2, 3)).detach()  # aligned with the shifted windows
    for row, column in ((0, 0), (1, 1), (2, 0), (2, 1)):
        window = y[0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        left, right = window[:, :, :4].flatten(1), window[:, :, 4:].flatten(1)
        assert (left - left[:, :1]).abs().max() < 1e-5
        assert (right - right[:, :1]).abs().max() < 1e-5
        assert ((left[:, 0] - right[:, 0]).abs().max() > 1e-3) == (row == 2)


def test_training_works_after_inference_mode() -> None:
    denoiser = load_denoiser(denoiser_weights())
    x = rand("x", 1, 3, 16, 16)
    with torch.inference_mode():
        denoiser(x, 0, x)
    denoiser.requires_grad_(True)
    denoiser(x, 0, x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())


def test_timestep_embedding_has_cosines_first() -> None:
    embedding = timestep_embedding(torch.tensor([0, 2]), 4)
    expected = torch.tensor([[1, 1, 0, 0], [2.0, 0.02, 2.0, 0.02]])
    expected[1] = torch.cat([expected[1, :2].cos(), expected[1, 2:].sin()])
    torch.testing.assert_close(embedding, expected)


@pytest.mark.parametrize(("h", "w"), [(16, 24), (13, 9), (3, 1)])
@pytest.mark.parametrize("shift", [0, 4])
def test_windows_are_cut_and_put_together(h: int, w: int, shift: int) -> None:
    """If attention is replaced by the identity, splitting a map into windows and merging them gives
    the original map."""
    block = SwinBlock(32, 1, 32, window=8, shift=shift, norm_size=None, operations=torch.nn)
    block.attn.forward = lambda windows, num_masked: windows
    x = rand("x", 2, 32, h, w)
    assert torch.equal(block.attention(x), x)


@torch.inference_mode()
def test_many_windows_go_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention processes many windows in several calls, since CUDA limits grid dimensions to
    65,535. The result stays the same."""
    block = SwinBlock(32, 2, 32, window=8, shift=4, norm_size=None, operations=torch.nn)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    x = rand("x", 3, 32, 32, 24)
    expected = block.attention(x)
    monkeypatch.setattr(swin, "_MOST_WINDOWS", 5)
    torch.testing.assert_close(block.attention(x), expected)


def test_attention_never_holds_the_whole_matrix() -> None:
    """Attention works with the flash kernel alone, which never allocates the whole score matrix."""
    autoencoder, denoiser = (
        load_autoencoder(autoencoder_weights()),
        load_denoiser(denoiser_weights()),
    )
    x = rand("x", 1, 3, 32, 32)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        autoencoder.decode(autoencoder.encode(rand("image", 1, 3, 64, 96)))
        autoencoder.decode(x, quantize=False)
        denoiser(x, 0, x)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 50, 60)])
def test_quantize_takes_the_nearest_code(shape: tuple[int, ...]) -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    z = rand("z", *shape)
    codebook = autoencoder.quantize.embedding.weight
    distances = torch.cdist(z.movedim(1, -1).reshape(-1, 3), codebook)
    chosen = autoencoder.quantize.codes(z).flatten()
    torch.testing.assert_close(
        distances.gather(1, chosen[:, None])[:, 0], distances.min(dim=1).values
    )
    quantized = autoencoder.quantize(z)
    assert torch.equal(quantized.movedim(1, -1).reshape(-1, 3), codebook[chosen])


def test_quantized_latents_stay_as_they_are() -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    z_q = autoencoder.quantize(rand("z", 1, 3, 8, 8))
    assert torch.equal(autoencoder.quantize(z_q), z_q)
    assert torch.equal(autoencoder.decode(z_q), autoencoder.decode(z_q, quantize=False))


@pytest.mark.parametrize(("h", "w"), [(4, 4), (8, 20)])
def test_autoencoder_compresses_by_four(h: int, w: int) -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    z = autoencoder.encode(rand("image", 1, 3, h, w))
    assert z.shape == (1, 3, h // 4, w // 4)
    assert autoencoder.decode(z).shape == (1, 3, h, w)


def test_autoencoder_refuses_what_it_can_not_compress() -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    with pytest.raises(ValueError, match="height 6 and width 8, expected multiples of 4"):
        autoencoder.encode(torch.zeros(1, 3, 6, 8))
    with pytest.raises(ValueError, match=r"expected \[B,3,H,W\]"):
        autoencoder.encode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"expected \[B,3,h,w\]"):
        autoencoder.decode(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(("dtype", "bar"), [(torch.bfloat16, 0.04), (torch.float16, 5e-3)])
def test_half_precision_stays_close_and_keeps_the_codebook(dtype: torch.dtype, bar: float) -> None:
    """The error limits (`bar`) are twice the measured errors."""
    exact, half = load_autoencoder(autoencoder_weights()), load_autoencoder(autoencoder_weights())
    set_precision(half, dtype, dtype)
    assert half.encoder.conv_in.weight.dtype == dtype
    assert half.encoder.norm_out.weight.dtype == dtype
    assert torch.equal(half.quantize.embedding.weight, exact.quantize.embedding.weight)
    image = rand("image", 1, 3, 32, 32).tanh()
    difference = (half.encode(image) - exact.encode(image)).abs().mean() / exact.encode(
        image
    ).abs().mean()
    assert 0 < difference < bar

    exact, half = load_denoiser(denoiser_weights()), load_denoiser(denoiser_weights())
    set_precision(half, dtype, dtype)
    x = rand("x", 1, 3, 16, 16)
    y = half(x, 2, x)
    assert y.dtype == torch.float32
    assert 0 < (y - exact(x, 2, x)).abs().mean() / y.abs().mean() < bar


# `BorderedGroupNorm`, whose scale does not depend on the size of an image


def spiked(side: int) -> Tensor:
    """Make a feature map, [1,64,side,side], with large values at its border, as caused by zero
    padding."""
    x = torch.randn(1, 64, side, side, generator=torch.Generator().manual_seed(0))
    x[:, :, 2:-2, 2:-2] /= 8
    return x


def test_at_its_size_a_bordered_norm_is_group_norm() -> None:
    norm, plain = BorderedGroupNorm(64, 16), nn.GroupNorm(32, 64)
    plain.load_state_dict({"weight": rand("weight", 64), "bias": rand("bias", 64)})
    norm.load_state_dict(plain.state_dict())
    for x in (spiked(16), spiked(4)):
        torch.testing.assert_close(norm(x), plain(x), atol=1e-5, rtol=1e-5)
    x = spiked(16).bfloat16()
    torch.testing.assert_close(norm(x).float(), plain(x.float()), atol=0.1, rtol=0.05)


@torch.no_grad()
def test_a_bordered_norm_scales_maps_of_all_sizes_alike() -> None:
    norm, plain = BorderedGroupNorm(64, 16), nn.GroupNorm(32, 64)
    deviations = [float(norm(spiked(side))[:, :, 2:-2, 2:-2].std()) for side in (8, 16, 64)]
    assert max(deviations) < 1.1 * min(deviations)
    assert float(plain(spiked(64))[:, :, 2:-2, 2:-2].std()) > 1.5 * deviations[2]


@pytest.mark.parametrize("shape", [(7, 40), (48, 64), (16, 16)])
def test_a_bordered_norm_gives_the_border_a_constant_weight(shape: tuple[int, int]) -> None:
    norm, (h, w) = BorderedGroupNorm(64, 16).double(), shape
    x = 3 + 2 * torch.randn(2, 64, h, w, generator=torch.Generator().manual_seed(0)).double()
    border = torch.ones(h, w, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    x[:, :, border] = 4 * x[:, :, border] - 7
    share = 1 - (12 / 16) ** 2
    weights = torch.where(border, share / border.sum(), (1 - share) / (~border).sum()) / 2
    groups = x.unflatten(1, (32, 2))  # [B,G,2,h,w]
    mean = (weights * groups).sum(dim=(2, 3, 4), keepdim=True)
    var = (weights * (groups - mean).square()).sum(dim=(2, 3, 4), keepdim=True)
    expected = ((groups - mean) / var.sqrt()).flatten(1, 2)
    torch.testing.assert_close(norm(x), expected, atol=1e-4, rtol=1e-4)


def test_norm_size_halves_from_level_to_level() -> None:
    denoiser = Denoiser(unet_config(norm_size=32))
    norms = {name: m for name, m in denoiser.named_modules() if isinstance(m, nn.GroupNorm)}
    sizes = {name: m.size for name, m in norms.items() if isinstance(m, BorderedGroupNorm)}
    assert sizes.keys() == norms.keys()
    assert {size for name, size in sizes.items() if name.startswith("middle")} == {16}
    assert sizes["out.0"] == sizes["input_blocks.1.1.blocks.0.norm1"] == 32
    assert Denoiser(unet_config()).state_dict().keys() == denoiser.state_dict().keys()
