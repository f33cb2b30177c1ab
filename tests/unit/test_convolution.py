"""The cheaper 3x3 convolutions give what the plain layers give."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr_impl.models import convolution, winograd
from lpnsr_impl.models.convolution import (
    norm_silu_conv,
    pointwise,
    pointwise_mlp,
    upsample_conv,
)
from lpnsr_impl.models.winograd import filtered


def layers(in_channels: int, out_channels: int) -> tuple[nn.GroupNorm, nn.Conv2d]:
    torch.manual_seed(0)
    norm = nn.GroupNorm(32, in_channels)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias)
    return norm, nn.Conv2d(in_channels, out_channels, 3, padding=1)


def plain(norm: nn.GroupNorm, conv: nn.Conv2d, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return conv(F.silu(norm(x) * (1 + scale) + shift))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Inputs of Winograd's filtering."""
    seen: list[Tensor] = []
    monkeypatch.setattr(
        convolution, "filtered", lambda x, *a, **k: (seen.append(x), filtered(x, *a, **k))[1]
    )
    return seen


@pytest.mark.parametrize("strip", [1, 50, 1 << 24])
@pytest.mark.parametrize("size", [(48, 48), (50, 61), (97, 31)])
@torch.inference_mode()
def test_winograd_is_the_convolution(
    monkeypatch: pytest.MonkeyPatch, calls: list[Tensor], size: tuple[int, int], strip: int
) -> None:
    """For any size and number of strips, with a mean far from 0, scale and shift."""
    monkeypatch.setattr(winograd, "_STRIP_TILES", strip)
    norm, conv = layers(128, 160)
    x = 5 + torch.randn(2, 128, *size)
    scale, shift = torch.randn(2, 2, 128, 1, 1)
    before = x.clone()
    result = norm_silu_conv(norm, conv, x, scale, shift)
    assert calls
    assert torch.equal(x, before)
    torch.testing.assert_close(result, plain(norm, conv, x, scale, shift), atol=2e-4, rtol=0)


@torch.inference_mode()
def test_other_layouts_and_no_bias(calls: list[Tensor]) -> None:
    norm, conv = layers(128, 128)
    x = torch.randn(1, 128, 52, 48)
    conv.bias = None
    expected = conv(F.silu(norm(x)))
    for layout in (torch.contiguous_format, torch.channels_last):
        result = norm_silu_conv(norm, conv, x.to(memory_format=layout))
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)
    assert len(calls) == 2


def test_gradients_flow(calls: list[Tensor]) -> None:
    norm, conv = layers(128, 128)
    x = torch.randn(1, 128, 48, 48)
    norm_silu_conv(norm, conv, x).sum().backward()
    assert not calls
    assert conv.weight.grad is not None
    assert norm.weight.grad is not None


@torch.inference_mode()
def test_half_precision_and_small_maps_take_the_plain_layers(calls: list[Tensor]) -> None:
    norm, conv = layers(128, 128)
    norm_silu_conv(norm, conv, torch.randn(1, 128, 16, 16))
    half = norm_silu_conv(norm, conv.to(torch.bfloat16), torch.randn(1, 128, 48, 48).bfloat16())
    assert half.dtype == torch.bfloat16
    assert not calls


@pytest.mark.parametrize("strip", [1, 50, 1 << 24])
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (32, 33)])
@torch.inference_mode()
def test_winograd_is_upsampling_and_convolution(
    monkeypatch: pytest.MonkeyPatch, calls: list[Tensor], size: tuple[int, int], strip: int
) -> None:
    monkeypatch.setattr(winograd, "_STRIP_TILES", strip)
    _, conv = layers(64, 96)
    x = torch.randn(2, 64, *size)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(upsample_conv(conv, x), expected, atol=1e-4, rtol=0)
    assert calls


def test_upsampling_has_gradients() -> None:
    _, conv = layers(64, 64)
    upsample_conv(conv, torch.randn(1, 64, 8, 8)).sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("spare", [False, True])
@torch.inference_mode()
def test_a_sum_takes_memory_only_if_it_is_spare(calls: list[Tensor], spare: bool) -> None:
    for size in (50, 16):  # by Winograd, and plain
        norm, conv = layers(128, 160)
        x, plus = torch.randn(2, 128, size, 61), torch.randn(2, 160, size, 61)
        before = plus.clone()
        expected = plus + conv(F.silu(norm(x)))
        result = norm_silu_conv(norm, conv, x, plus=plus, spare=spare)
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)
        if not spare:
            assert torch.equal(plus, before)
        elif size == 50:
            assert result.data_ptr() == plus.data_ptr()
    assert len(calls) == 1


def test_with_gradients_no_memory_is_spare(calls: list[Tensor]) -> None:
    norm, conv = layers(128, 128)
    x, plus = torch.randn(1, 128, 48, 48), torch.zeros(1, 128, 48, 48)
    norm_silu_conv(norm, conv, x, plus=plus, spare=True).sum().backward()
    assert not plus.any()
    assert not calls


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strip", [1, 1 << 24])
@torch.inference_mode()
def test_pointwise_convolutions_are_matrix_products(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, strip: int
) -> None:
    monkeypatch.setattr(convolution, "_STRIP_VALUES", strip)
    torch.manual_seed(0)
    fc1, fc2 = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 32, 1)
    x = torch.randn(2, 32, 9, 7).to(memory_format=layout)
    torch.testing.assert_close(pointwise(fc1, x), fc1(x), atol=1e-5, rtol=0)
    expected = fc2(F.gelu(fc1(x)))
    torch.testing.assert_close(pointwise_mlp(fc1, fc2, x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [(32, 48), (48, 32)])
@torch.inference_mode()
def test_spare_memory_takes_a_pointwise_convolution(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, channels: tuple[int, int]
) -> None:
    monkeypatch.setattr(convolution, "_STRIP_VALUES", 500)
    conv = nn.Conv2d(*channels, 1)
    x = torch.randn(2, channels[0], 9, 7).to(memory_format=layout)
    before, expected = x.clone(), conv(x)
    result = pointwise(conv, x, spare=True)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    fits = channels[1] < channels[0] and layout == torch.channels_last
    assert (result.data_ptr() == x.data_ptr()) == fits
    assert fits or torch.equal(x, before)


@pytest.mark.parametrize("strip", [1, 30_000, 1 << 24])
@torch.inference_mode()
def test_narrow_convolutions_go_by_strips(
    monkeypatch: pytest.MonkeyPatch, calls: list[Tensor], strip: int
) -> None:
    monkeypatch.setattr(convolution, "_STRIP_VALUES", strip)
    norm, conv = layers(32, 48)
    x, plus = torch.randn(2, 32, 50, 61), torch.randn(2, 48, 50, 61)
    scale, shift = torch.randn(2, 2, 32, 1, 1)
    expected = plus + plain(norm, conv, x, scale, shift)
    result = norm_silu_conv(norm, conv, x, scale, shift, plus=plus)
    torch.testing.assert_close(result, expected, atol=5e-5, rtol=0)
    assert not calls


def test_frozen_layers_still_pass_gradients_on(calls: list[Tensor]) -> None:
    norm, conv = layers(128, 128)
    conv.requires_grad_(False)
    norm_silu_conv(norm, conv, torch.randn(1, 128, 48, 48)).sum().backward()
    assert norm.weight.grad is not None
    assert not calls
