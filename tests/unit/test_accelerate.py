"""Accelerated layers give the same results as plain ones, and `restore` removes them."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr_impl import load_autoencoder, load_denoiser
from lpnsr_impl.accelerate import (
    accelerate,
    restore,
    set_precision,
    train_on_cpu,
    winograd,
)
from lpnsr_impl.accelerate.cpu import (
    CachedQuantizer,
    StripMlp,
    UpsampleConv2d,
    WinogradConv2d,
    WinogradUpsample,
)
from lpnsr_impl.accelerate.winograd import UPSAMPLE_CONV, convolve
from lpnsr_impl.models import Autoencoder
from lpnsr_impl.models.layers import BorderedGroupNorm
from tests.golden.fill import noise
from tests.small import AUTOENCODER, autoencoder_weights, denoiser_weights, unet_config

CPU, MPS, CUDA = torch.device("cpu"), torch.device("mps"), torch.device("cuda")
WIDE_AUTOENCODER = replace(AUTOENCODER, level_channels=(64, 64, 64))
WIDE_UNET = unet_config(model_channels=64, level_channels=(64, 64))


def rand(name: str, *shape: int) -> Tensor:
    return noise(f"accelerate.{name}", shape)


def conv_of(in_channels: int, out_channels: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def classes(network: nn.Module) -> list[type]:
    return [type(module) for module in network.modules()]


def autoencoder_runs(autoencoder: Autoencoder) -> list[Tensor]:
    image, z = rand("image", 1, 3, 200, 196).tanh(), rand("z", 1, 3, 25, 26)
    return [autoencoder.encode(image), autoencoder.decode(z), autoencoder.decode(z, quantize=False)]


@pytest.mark.parametrize("strip", [1, 50, 1 << 24])
@pytest.mark.parametrize("size", [(48, 48), (50, 61), (97, 31), (1, 1)])
@torch.inference_mode()
def test_winograd_is_the_convolution(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], strip: int
) -> None:
    """The Winograd convolution gives the same result as PyTorch's, for any image size, number of
    strips and memory layout, and for inputs whose mean is far from 0."""
    monkeypatch.setattr(winograd, "_STRIP_TILES", strip)
    conv = conv_of(128, 160)
    x = 5 + torch.randn(2, 128, *size)
    for layout in (torch.contiguous_format, torch.channels_last):
        result = convolve(x.to(memory_format=layout), conv.weight, conv.bias)
        torch.testing.assert_close(result, conv(x), atol=2e-4, rtol=0)
    without = convolve(x, conv.weight, None)
    torch.testing.assert_close(without, F.conv2d(x, conv.weight, padding=1), atol=2e-4, rtol=0)


@pytest.mark.parametrize("strip", [1, 50, 1 << 24])
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (32, 33)])
@torch.inference_mode()
def test_winograd_is_upsampling_and_convolution(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], strip: int
) -> None:
    monkeypatch.setattr(winograd, "_STRIP_TILES", strip)
    conv = conv_of(64, 96)
    x = torch.randn(2, 64, *size)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    result = convolve(x, conv.weight, conv.bias, UPSAMPLE_CONV)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_winograd_rounds_as_it_says() -> None:
    torch.manual_seed(0)
    x = F.silu(torch.randn(1, 512, 48, 48))
    weight = torch.randn(64, 512, 3, 3) / (9 * 512) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    error = (convolve(x, weight, None) - exact) / exact.square().mean().sqrt()
    assert error.square().mean().sqrt() < 3.5e-6
    assert error.abs().max() < 6e-5


@torch.inference_mode()
def test_an_autoencoder_on_a_cpu_gives_the_same() -> None:
    autoencoder = load_autoencoder(autoencoder_weights(WIDE_AUTOENCODER))
    expected = autoencoder_runs(autoencoder)
    accelerate(autoencoder, CPU)
    found = classes(autoencoder)
    assert WinogradUpsample in found
    assert CachedQuantizer in found
    assert any(issubclass(each, WinogradConv2d) for each in found)
    assert any(issubclass(each, UpsampleConv2d) for each in found)
    for _ in range(2):  # the first run must leave the network as it was
        for result, wanted in zip(autoencoder_runs(autoencoder), expected, strict=True):
            torch.testing.assert_close(result, wanted, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_denoiser_on_a_cpu_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = load_denoiser(denoiser_weights(WIDE_UNET))
    x, lr = rand("x", 2, 3, 64, 72), rand("lr", 2, 3, 64, 72)
    expected = denoiser(x, 2, lr)
    for values in (1, 1 << 20):
        monkeypatch.setattr("lpnsr_impl.accelerate.cpu._CACHED_VALUES", values)
        accelerate(denoiser, CPU)
        assert StripMlp in classes(denoiser)
        torch.testing.assert_close(denoiser(x, 2, lr), expected, atol=1e-4, rtol=0)


def test_narrow_layers_strides_and_half_precision_stay_direct() -> None:
    narrow = load_autoencoder(
        autoencoder_weights(replace(AUTOENCODER, level_channels=(32, 32, 32)))
    )
    accelerate(narrow, CPU)
    assert not any(issubclass(each, WinogradConv2d) for each in classes(narrow))
    wide = load_autoencoder(autoencoder_weights(WIDE_AUTOENCODER))
    accelerate(wide, CPU)
    assert isinstance(wide.decoder.up[0].block[0].conv1, WinogradConv2d)
    for conv in (wide.encoder.conv_in, wide.decoder.conv_out, wide.encoder.down[0].downsample.conv):
        assert type(conv) is nn.Conv2d
    set_precision(wide, torch.bfloat16, torch.bfloat16)
    accelerate(wide, CPU)
    assert type(wide.decoder.up[0].block[0].conv1) is nn.Conv2d
    assert type(wide.decoder.up[1].upsample.conv) is nn.Conv2d


@torch.inference_mode()
def test_a_hosts_layers_stay_its_own() -> None:
    """An accelerated layer is still a layer of the host. Only the convolution itself is replaced;
    the host's code for casting weights still runs."""

    class Host(nn.Module):
        class Conv2d(nn.Conv2d):
            casts = 0

            def forward(self, input: Tensor) -> Tensor:
                type(self).casts += 1
                return self._conv_forward(input, 2 * self.weight, self.bias)

        Linear, GroupNorm, Embedding = nn.Linear, nn.GroupNorm, nn.Embedding

    autoencoder = load_autoencoder(autoencoder_weights(WIDE_AUTOENCODER), operations=Host)
    expected = autoencoder_runs(autoencoder)
    accelerate(autoencoder, CPU)
    conv = autoencoder.decoder.up[0].block[0].conv1
    assert isinstance(conv, WinogradConv2d)
    assert isinstance(conv, Host.Conv2d)
    before = type(conv).casts
    for result, wanted in zip(autoencoder_runs(autoencoder), expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-3, rtol=1e-4)
    assert type(conv).casts > before


@pytest.mark.parametrize("device", [CPU, MPS, CUDA], ids=str)
@torch.inference_mode()
def test_keys_copies_and_the_way_back(device: torch.device) -> None:
    autoencoder = load_autoencoder(autoencoder_weights(WIDE_AUTOENCODER))
    expected, keys, plain = autoencoder_runs(autoencoder), list(autoencoder.state_dict()), []
    plain = classes(autoencoder)
    accelerate(autoencoder, device)
    assert list(autoencoder.state_dict()) == keys
    copied = copy.deepcopy(autoencoder)
    assert classes(copied) == classes(autoencoder)
    restore(copied)
    assert classes(copied) == plain
    for result, wanted in zip(autoencoder_runs(copied), expected, strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-4, rtol=0)


def convolution_layouts(network: nn.Module) -> set[bool]:
    """Return the layouts of the weights of 3x3 convolutions: True for channels-last, else False."""
    return {
        module.weight.is_contiguous(memory_format=torch.channels_last)
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.in_channels > 1
    }


def test_only_cpus_have_channels_last() -> None:
    autoencoder = load_autoencoder(autoencoder_weights())
    accelerate(autoencoder, CUDA)
    assert convolution_layouts(autoencoder) == {False}
    accelerate(autoencoder, CPU)
    assert convolution_layouts(autoencoder) == {True}


@pytest.mark.parametrize("device", [CPU, MPS, CUDA], ids=str)
@torch.inference_mode()
def test_attention_goes_in_slices(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """The autoencoder computes attention for slices of the queries, on all devices: "cuda" may be
    ROCm, which has no fused kernel for this head width."""
    autoencoder = load_autoencoder(autoencoder_weights())
    z = rand("z", 2, 3, 20, 30)
    accelerate(autoencoder, device)
    expected = autoencoder.decode(z)
    largest = 2 * 600 * 7 * 4
    monkeypatch.setattr("lpnsr_impl.models.autoencoder._SCORE_BYTES", largest)
    sizes: list[int] = []
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention

    def record(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sizes.append(4 * len(q) * q.shape[2] * k.shape[2])
        return attend(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    torch.testing.assert_close(autoencoder.decode(z), expected, atol=1e-5, rtol=0)
    assert len(sizes) == 86  # 600 queries, 7 at a time
    assert max(sizes) == largest


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("plain", "precision"),
    [
        (nn.GroupNorm(1, 32), 1e-10),
        (nn.GroupNorm(4, 32), 1e-10),
        (nn.GroupNorm(32, 32), 1e-10),
        (BorderedGroupNorm(32, 16), 1e-5),  # its border statistics are float32
    ],
)
def test_a_training_norm_has_the_gradients_of_the_norm(
    layout: torch.memory_format, plain: nn.GroupNorm, precision: float
) -> None:
    torch.manual_seed(0)
    plain = copy.deepcopy(plain).double()
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    trained = copy.deepcopy(plain)
    train_on_cpu(trained)
    x = (2 + torch.randn(3, 32, 5, 7, dtype=torch.float64)).contiguous(memory_format=layout)
    weight = torch.randn_like(x)
    grads = []
    for norm in (plain, trained):
        given = x.clone().requires_grad_()
        y = norm(given)
        (y * weight).sum().backward()
        grads.append((y, given.grad, norm.weight.grad, norm.bias.grad))
    assert type(trained) is not type(plain)
    for wanted, got in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=precision, atol=precision)


def test_training_norms_are_put_back() -> None:
    for norm in (nn.GroupNorm(4, 32), BorderedGroupNorm(32, 16)):
        kind = type(norm)
        train_on_cpu(norm)
        restore(norm)
        assert type(norm) is kind
