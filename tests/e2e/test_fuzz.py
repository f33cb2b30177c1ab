"""Random pictures and settings, run through the nodes in a real ComfyUI.

By default, the examples are the same in every run. `LPNSR_FUZZ=10 pytest tests/e2e/test_fuzz.py`
tries ten times as many, and different ones in each run.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lpnsr_impl.config import LARGEST_TILE
from lpnsr_impl.pictures.color import COLOR_FIXES
from lpnsr_impl.pictures.images import OPAQUE
from tests.host.server import PromptError, Server

from .conftest import BUNDLED_START, Graph, random_image

Prompt = dict[str, Any]

TIMES = int(os.environ.get("LPNSR_FUZZ", "1"))
# Limits batch size and steps of an example: blocks of 32x32 pixels x pictures x steps <= WORK. A
# single picture with one step may exceed it.
WORK = 4
FLOATS = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
NO_FLOATS = [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool, torch.complex64]
LAYOUTS = ["", "transposed", "channels_first", "channels_last", "strided", "offset", "expanded"]
RANGES = {
    "seed": (0, 2**64 - 1),
    "steps": (1, 4),
    "kappa": (0.0, 10.0),
    "tile_size": (0, 2048),
    "overlap": (0, 512),
}


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def small_result(server: Server) -> Tensor:
    graph = Graph(server)
    return graph.run(graph.upscale(random_image(1, 8, 8, 3), steps=1), "upscale")


@pytest.fixture(scope="module")
def before(server: Server) -> Tensor:
    return small_result(server)


@pytest.fixture(autouse=True)
def check_server(server: Server, before: Tensor) -> Iterator[None]:
    """Check after each test that the server still gives the same result for a small picture."""
    yield
    assert torch.equal(small_result(server), before)


# Valid pictures and settings


@dataclass(frozen=True)
class Picture:
    """Parameters of a random picture. Hypothesis prints them in its reports instead of pixels."""

    batch: int
    size: tuple[int, int]
    channels: int
    content: str
    factor: float
    shift: float
    seed: int

    def make(self) -> Tensor:
        """Make the picture as a float64 tensor [B,H,W,C]."""
        shape = (self.batch, *self.size, self.channels)
        generator = torch.Generator().manual_seed(self.seed)
        if self.content == "smooth":
            x = random_image(*shape, seed=self.seed).double()
        elif self.content == "noise":
            x = torch.rand(shape, generator=generator, dtype=torch.float64)
        elif self.content == "black and white":
            x = torch.randint(0, 2, shape, generator=generator).double()
        else:  # "constant"
            x = torch.rand(1, generator=generator, dtype=torch.float64).expand(shape)
        return self.factor * x + self.shift


@dataclass(frozen=True)
class Settings:
    seed: int
    steps: int
    kappa: float
    switches: tuple[bool, bool, bool]
    mode: str
    color_fix: str
    tile_size: int
    overlap: int
    upscale_model: bool

    @property
    def chain(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "steps": self.steps,
            "kappa": self.kappa,
            "predictor_mode": self.mode,
        }


def work(size: tuple[int, int]) -> int:
    return -(-size[0] // 32) * -(-size[1] // 32)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    """Draw a picture size (h, w): mostly small, sometimes with one long side."""
    largest = draw(st.sampled_from([32, 32, 32, 32, 70, 70, 150, 300]))
    h, w = draw(st.integers(1, largest)), draw(st.integers(1, 32))
    return (h, w) if draw(st.booleans()) else (w, h)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    size = draw(sizes())
    return Picture(
        batch=draw(st.integers(1, max(1, min(5, WORK // work(size))))),
        size=size,
        channels=draw(st.sampled_from([3, 3, 1, 4])),
        content=draw(st.sampled_from(["smooth", "noise", "black and white", "constant"])),
        factor=draw(st.sampled_from([1.0, 1.0, 3.0, -2.0, 1e-42, 1e30])),
        shift=draw(st.sampled_from([0.0, 0.0, -1.0, 0.5])),
        seed=draw(st.integers(0, 999)),
    )


@st.composite
def settings_for(draw: st.DrawFn, picture: Picture) -> Settings:
    on = draw(st.booleans())
    one_by_one = st.tuples(*[st.booleans()] * 3)
    tile_sizes = st.one_of(st.just(0), st.integers(1, 70), st.integers(0, 2048))
    return Settings(
        seed=draw(st.integers(*RANGES["seed"])),
        steps=draw(st.integers(1, max(1, min(4, WORK // (work(picture.size) * picture.batch))))),
        kappa=draw(st.one_of(st.just(2.0), st.floats(*RANGES["kappa"]))),
        switches=draw(st.one_of(st.just((on, on, on)), one_by_one)),
        mode=draw(st.sampled_from(["sample", "mean"])),
        color_fix=draw(st.sampled_from(list(COLOR_FIXES))),
        tile_size=draw(tile_sizes),
        overlap=draw(st.one_of(st.just(32), st.integers(*RANGES["overlap"]))),
        upscale_model=draw(st.booleans()),
    )


def in_one_box(graph: Graph, image: Tensor, s: Settings) -> Prompt:
    inputs = {"use_predictor": s.switches[0], "tile_size": s.tile_size, "overlap": s.overlap}
    return graph.upscale(image, **s.chain, **inputs, color_fix=s.color_fix)


def in_stages(graph: Graph, image: Tensor, s: Settings) -> Prompt:
    switches = dict(zip(("predictor_t4", "predictor_t3", "predictor_t2"), s.switches, strict=True))
    prompt = graph.stages(image, **s.chain, **switches)
    for node in ("encode", "sample", "decode"):
        prompt[node]["inputs"] |= {"tile_size": s.tile_size, "overlap": s.overlap}
    prompt["decode"]["inputs"]["color_fix"] = s.color_fix
    return prompt


def run(graph: Graph, prompt: Prompt, s: Settings, layout: str = "") -> Tensor:
    prompt["image"]["inputs"]["layout"] = layout
    if s.upscale_model:
        loader = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": BUNDLED_START}}
        prompt["loader"] = loader
        start = prompt.get("start") or prompt["upscale"]
        start["inputs"]["upscale_model"] = ["loader", 0]
    return graph.run(prompt, "decode" if "decode" in prompt else "upscale")


@example(  # bright colours next to transparent pixels
    example=(
        Picture(1, (5, 1), 4, "black and white", factor=3.0, shift=0.0, seed=0),
        Settings(0, 1, 2.0, (False, False, False), "sample", "none", 0, 32, False),
    ),
    dtype=torch.float32,
    layout="",
    item=0,
)
@fuzz(10)
@given(
    example=pictures().flatmap(lambda p: st.tuples(st.just(p), settings_for(p))),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
    item=st.integers(0, 4),
)
def test_every_picture_comes_out_four_times_larger_and_as_it_would_alone(
    server: Server, example: tuple[Picture, Settings], dtype: torch.dtype, layout: str, item: int
) -> None:
    """Upscale a batch of any dtype, memory layout and range. Then upscale one of its pictures
    alone, as contiguous fp32 in [0,1], and compare the results.

    The batch runs in LPNSR Upscale if all predictor switches are equal, otherwise in separate
    nodes. The single picture runs in separate nodes, and with the default tile_size if it fits into
    one tile.

    Rounding may differ, since small pictures of a batch share a network call. A picture with alpha
    runs in the same nodes both times: separate nodes would replace the colours of transparent
    pixels a second time, in the start image.
    """
    picture, s = example
    graph, (h, w) = Graph(server), picture.size
    finite = torch.finfo(dtype)
    image = picture.make().clamp(max(finite.min, -1e38), min(finite.max, 1e38)).to(dtype)
    if layout == "expanded":
        image = image[:1].repeat(len(image), 1, 1, 1)

    make = in_one_box if len(set(s.switches)) == 1 else in_stages
    result = run(graph, make(graph, image, s), s, layout)
    transparent = picture.channels == 4 and image[..., 3].float().min() < OPAQUE
    assert result.shape == (picture.batch, 4 * h, 4 * w, 4 if transparent else 3)
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert 0 <= result.min() <= result.max() <= 1

    i = item % picture.batch
    alone = image[i : i + 1].float().clamp(0, 1)
    if s.tile_size >= max(h, w) and max(h, w) <= LARGEST_TILE:
        s = replace(s, tile_size=0)
    make = make if picture.channels == 4 else in_stages
    again = run(graph, make(graph, alone, s), s)
    same = result[i : i + 1, ..., : again.shape[3]]  # an opaque result has no alpha
    assert (again - same).abs().mean() < 1e-3


# Invalid pictures and settings


@dataclass(frozen=True)
class Bad:
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    value: float = 0.5
    message: str = ""


@st.composite
def bad_pictures(draw: st.DrawFn) -> Bad:
    side = st.integers(1, 40)
    shape = (draw(st.integers(1, 3)), draw(side), draw(side), draw(st.sampled_from([1, 3, 4])))
    kind = draw(st.sampled_from(["channels", "dimensions", "empty", "dtype", "value"]))
    if kind == "channels":
        shape = (*shape[:3], draw(st.sampled_from([0, 2, 5, 6, 16])))
        return Bad(shape, message=f"has shape {shape}, expected an IMAGE")
    if kind == "dimensions":
        shape = draw(st.sampled_from([shape[:1], shape[1:3], shape[1:], (*shape[:2], *shape[1:])]))
        return Bad(shape, message=f"has shape {shape}, expected an IMAGE")
    if kind == "empty":
        gone = draw(st.integers(0, 2))
        shape = tuple(0 if i == gone else n for i, n in enumerate(shape))
        return Bad(shape, message=f"has shape {shape} and no pixels, expected 1x1 or more")
    if kind == "dtype":
        dtype = draw(st.sampled_from(NO_FLOATS))
        return Bad(shape, dtype, message=f"has the dtype {dtype}, expected floats from 0 to 1")
    dtype, value = draw(st.sampled_from(FLOATS[:4])), draw(st.sampled_from(["nan", "inf", "-inf"]))
    return Bad(shape, dtype, float(value), "has NaN or infinite values (first in image ")


@fuzz(24)
@given(
    bad=bad_pictures(),
    place=st.sampled_from(["upscale", "start", "image", "lr_image"]),
    position=st.floats(0, 1, exclude_max=True),
)
def test_bad_pictures_are_told_what_was_expected(
    server: Server, bad: Bad, place: str, position: float
) -> None:
    graph = Graph(server)
    image = torch.full(bad.shape, 0.5).to(bad.dtype)
    if not math.isfinite(bad.value):
        image.view(-1)[int(position * image.numel())] = bad.value
    good = random_image(1, 8, 8, 3)
    prompt = graph.upscale(good) if place == "upscale" else graph.stages(good)
    prompt["bad"] = graph.picture(image, "bad.safetensors")
    if place in ("image", "lr_image"):
        prompt["encode"]["inputs"][place] = ["bad", 0]
    else:
        prompt[place]["inputs"]["image"] = ["bad", 0]
    name = "lr_image" if place == "lr_image" else "image"
    with pytest.raises(PromptError) as error:
        graph.run(prompt, "upscale" if place == "upscale" else "decode")
    assert f"{name} {bad.message}" in str(error.value)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


@fuzz(8)
@given(large=shapes, small=shapes)
def test_pictures_that_do_not_belong_together_are_told_their_sizes(
    server: Server, large: tuple[int, int, int], small: tuple[int, int, int]
) -> None:
    b, h, w = small
    assume(large != (b, 4 * h, 4 * w))
    graph = Graph(server)
    prompt = graph.stages(random_image(*small, 3))
    prompt["large"] = graph.picture(random_image(*large, 3), "large.safetensors")
    prompt["encode"]["inputs"]["image"] = ["large", 0]
    with pytest.raises(PromptError) as error:
        graph.run(prompt, "decode")
    given = f"Got {large[0]} pre-upsampled image(s) of {large[2]}x{large[1]}"
    assert f"{given}, expected {b} of {4 * w}x{4 * h}" in str(error.value)


def outside(low: float, high: float) -> st.SearchStrategy[float]:
    if isinstance(low, int):
        return st.integers(low - 10**9, low - 1) | st.integers(int(high) + 1, int(high) + 10**9)
    below = st.floats(max_value=low, exclude_max=True, allow_infinity=False)
    return below | st.floats(min_value=high, exclude_min=True, allow_infinity=False)


no_numbers = st.sampled_from(["", "four", "1,5", "0x10", None, {}])


@fuzz(24)
@given(
    setting=st.sampled_from(sorted(RANGES)).flatmap(
        lambda name: st.tuples(st.just(name), outside(*RANGES[name]) | no_numbers)
    ),
    one_box=st.booleans(),
)
def test_settings_out_of_range_are_named(
    server: Server, setting: tuple[str, Any], one_box: bool
) -> None:
    widget, value = setting
    graph, image = Graph(server), random_image(1, 8, 8, 3)
    prompt = graph.upscale(image) if one_box else graph.stages(image)
    prompt["upscale" if one_box else "sample"]["inputs"][widget] = value
    with pytest.raises(PromptError, match=rf"{widget}"):
        graph.run(prompt, "upscale" if one_box else "decode")


@fuzz(16)
@given(
    setting=st.one_of(
        st.tuples(st.just("steps"), outside(*RANGES["steps"])),
        st.tuples(st.just("kappa"), st.floats(-1e15, 0, exclude_max=True)),
        st.tuples(st.sampled_from(["tile_size", "overlap"]), st.integers(-(10**9), -1)),
    ),
    one_box=st.booleans(),
)
def test_linked_settings_out_of_range_are_named(
    server: Server, setting: tuple[str, float], one_box: bool
) -> None:
    """ComfyUI does not check the range of linked values, so the nodes must check it."""
    widget, value = setting
    graph, image = Graph(server), random_image(1, 8, 8, 3)
    prompt = graph.upscale(image) if one_box else graph.stages(image)
    kind = "PrimitiveInt" if isinstance(value, int) else "PrimitiveFloat"
    prompt["number"] = {"class_type": kind, "inputs": {"value": value}}
    prompt["upscale" if one_box else "sample"]["inputs"][widget] = ["number", 0]
    with pytest.raises(PromptError) as error:
        graph.run(prompt, "upscale" if one_box else "decode")
    reason = "but this denoiser has 4 steps" if widget == "steps" and value > 4 else "expected"
    assert f"{widget} is {value}, {reason}" in str(error.value)
