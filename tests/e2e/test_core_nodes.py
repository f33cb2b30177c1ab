"""ComfyUI's core nodes before, between and after the pack's nodes: valid graphs give the right
pictures, and invalid ones raise errors that explain why."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.host.server import PromptError, Server

from .conftest import Graph, random_image

Prompt = dict[str, Any]
LINK = "the output of the node before"
PLACES = [("encode", "sample"), ("sample", "decode")]
"""Links between the pack's nodes, (source, target), into which core nodes are inserted."""


def insert(prompt: Prompt, source: str, target: str, widget: str, *nodes: tuple[str, Any]) -> None:
    """Insert core nodes, (class, inputs) each, into the link from `source` to the input `widget` of
    `target`. `LINK` in their inputs stands for the output of the previous node."""
    link: Any = [source, 0]
    for i, (class_type, inputs) in enumerate(nodes):
        name = f"{source}_{target}_{i}"
        linked = {key: (link if value is LINK else value) for key, value in inputs.items()}
        prompt[name] = {"class_type": class_type, "inputs": linked}
        link = [name, 0]
    prompt[target]["inputs"][widget] = link


def from_batch(index: int) -> tuple[str, Any]:
    return "LatentFromBatch", {"samples": LINK, "batch_index": index, "length": 1}


def seed_behavior(behavior: str) -> tuple[str, Any]:
    return "LatentBatchSeedBehavior", {"samples": LINK, "seed_behavior": behavior}


REPEAT = ("RepeatLatentBatch", {"samples": LINK, "amount": 2})
BATCH = ("LatentBatch", {"samples1": LINK, "samples2": LINK})
UNKNOWN = r"Connect an LR image for each sample to lr_image"


def assert_same(result: Tensor, expected: Tensor) -> None:
    """Assert equality up to rounding errors. These depend on how many small images of a batch share
    a network call."""
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


# Latents in core nodes: each keeps its LR image


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return random_image(2, 6, 8, 3)


@pytest.fixture(scope="module")
def alone(server: Server, batch: Tensor) -> Tensor:
    """The two pictures of `batch`, upscaled without core nodes."""
    return Graph(server).run(Graph(server).stages(batch, steps=1), "decode")


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
@pytest.mark.parametrize(
    ("nodes", "pictures"),
    [
        ([from_batch(1)], [1]),
        ([REPEAT], [0, 1, 0, 1]),
        ([from_batch(1), REPEAT], [1, 1]),
        ([REPEAT, REPEAT, from_batch(5)], [1]),
        ([BATCH], [0, 1, 0, 1]),
        ([BATCH, from_batch(3)], [1]),
        ([("LatentMultiply", {"samples": LINK, "multiplier": 1.0})], [0, 1]),
        ([seed_behavior("fixed")], [0, 1]),
        ([seed_behavior("random")], [0, 1]),
    ],
)
def test_each_latent_keeps_its_picture_through_batch_nodes(
    graph: Graph,
    batch: Tensor,
    alone: Tensor,
    place: tuple[str, str],
    nodes: list[tuple[str, Any]],
    pictures: list[int],
) -> None:
    prompt = graph.stages(batch, steps=1)
    insert(prompt, *place, "samples", *nodes)
    assert_same(graph.run(prompt, "decode"), alone[pictures])


def test_latents_change_places(graph: Graph, batch: Tensor, alone: Tensor) -> None:
    prompt = graph.stages(batch, steps=1)
    for i in (0, 1):
        prompt[f"item{i}"] = {
            "class_type": "LatentFromBatch",
            "inputs": {"samples": ["encode", 0], "batch_index": i, "length": 1},
        }
    swapped = {"samples1": ["item1", 0], "samples2": ["item0", 0]}
    prompt["swapped"] = {"class_type": "LatentBatch", "inputs": swapped}
    prompt["sample"]["inputs"]["samples"] = ["swapped", 0]
    assert_same(graph.run(prompt, "decode"), alone[[1, 0]])


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_rebatched_latents_need_rebatched_lr_images(
    graph: Graph, batch: Tensor, alone: Tensor, place: tuple[str, str]
) -> None:
    """The core node Rebatch Latents drops the LR images that latents carry, so the LR images must
    also be rebatched, and connected to `lr_image`."""
    prompt = graph.stages(batch, steps=1)
    insert(prompt, *place, "samples", ("RebatchLatents", {"latents": LINK, "batch_size": 1}))
    two = {"images": ["decode", 0], "batch_size": 2}
    prompt["together"] = {"class_type": "RebatchImages", "inputs": two}
    with pytest.raises(PromptError, match=r"carries no LR image.*Rebatch Latents.*to lr_image"):
        graph.run(prompt, "together")
    one = {"images": ["image", 0], "batch_size": 1}
    prompt["lr"] = {"class_type": "RebatchImages", "inputs": one}
    prompt[place[1]]["inputs"]["lr_image"] = ["lr", 0]
    assert_same(graph.run(prompt, "together"), alone)


def test_joined_latents_of_two_sources_need_lr_images(graph: Graph) -> None:
    """Latent Batch keeps only the LR images of its first input. If latents of the second input go
    to LPNSR Sample, all LR images must be connected to `lr_image`."""
    first, second = (random_image(1, 6, 8, 3, seed=seed) for seed in (0, 1))
    prompt = graph.stages(first, steps=1)
    prompt["image2"] = graph.picture(second, "second.safetensors")
    prompt["start2"] = {"class_type": "LPNSRPreUpsample", "inputs": {"image": ["image2", 0]}}
    links = {"models": ["models", 0], "image": ["start2", 0], "lr_image": ["image2", 0]}
    prompt["encode2"] = {"class_type": "ResShiftEncode", "inputs": links}
    joined = ("LatentBatch", {"samples1": LINK, "samples2": ["encode2", 0]})
    insert(prompt, "encode", "sample", "samples", joined, from_batch(1))
    with pytest.raises(PromptError, match=UNKNOWN):
        graph.run(prompt, "decode")
    insert(prompt, "encode", "sample", "samples", joined)
    with pytest.raises(PromptError, match=UNKNOWN):
        graph.run(prompt, "decode")
    both = {"image1": ["image", 0], "image2": ["image2", 0]}
    prompt["both"] = {"class_type": "ImageBatch", "inputs": both}
    prompt["sample"]["inputs"]["lr_image"] = ["both", 0]
    result = graph.run(prompt, "decode")
    assert_same(result[:1], graph.run(graph.stages(first, steps=1), "decode"))
    assert_same(result[1:], graph.run(graph.stages(second, steps=1), "decode"))


def test_what_was_picked_and_then_changed_is_not_guessed(graph: Graph, batch: Tensor) -> None:
    prompt = graph.stages(batch, steps=1)
    half = ("LatentMultiply", {"samples": LINK, "multiplier": 0.5})
    insert(prompt, "sample", "decode", "samples", from_batch(0), REPEAT, half)
    with pytest.raises(PromptError, match=UNKNOWN):
        graph.run(prompt, "decode")


@pytest.mark.parametrize("index", [0, 1])
def test_pictures_that_differ_only_in_alpha_are_not_mixed_up(
    graph: Graph, batch: Tensor, index: int
) -> None:
    """Both pictures have equal latents, so that only `batch_index` shows which LR image belongs to
    the selected latent."""
    rgb = batch[:1].expand(2, -1, -1, -1)
    alpha = torch.stack([torch.full((6, 8, 1), value) for value in (0.25, 0.75)])
    prompt = graph.stages(torch.cat([rgb, alpha], dim=3), steps=1)
    insert(prompt, "encode", "sample", "samples", from_batch(index))
    result = graph.run(prompt, "decode")
    assert result[..., 3].eq(0.25 + 0.5 * index).all()


@pytest.mark.parametrize(
    "nodes",
    [
        [("LatentAdd", {"samples1": LINK, "samples2": LINK})],
        [("LatentSubtract", {"samples1": LINK, "samples2": LINK})],
        [("LatentBlend", {"samples1": LINK, "samples2": ["other", 0], "blend_factor": 0.5})],
        [("LatentInterpolate", {"samples1": LINK, "samples2": ["other", 0], "ratio": 0.5})],
        [("LatentApplyOperation", {"samples": LINK, "operation": ["sharpen", 0]})],
        [
            (
                "LatentComposite",
                {"samples_to": LINK, "samples_from": ["other", 0], "x": 8, "y": 0, "feather": 0},
            )
        ],
        [
            (
                "LatentCompositeMasked",
                {
                    "destination": LINK,
                    "source": ["other", 0],
                    "x": 0,
                    "y": 0,
                    "resize_source": False,
                    "mask": ["mask", 0],
                },
            )
        ],
    ],
    ids=lambda nodes: nodes[0][0],
)
def test_latents_can_be_mixed_on_their_way(graph: Graph, nodes: list[tuple[str, Any]]) -> None:
    """Each core node changes the latent, or mixes it with a latent that was sampled from the same
    picture with another seed."""
    prompt = graph.stages(random_image(1, 6, 8, 3), steps=1)
    plain = graph.run(prompt, "decode")
    other = {**prompt["sample"]["inputs"], "seed": 8}
    prompt["other"] = {"class_type": "LPNSRSample", "inputs": other}
    prompt["sharpen"] = {
        "class_type": "LatentOperationSharpen",
        "inputs": {"sharpen_radius": 1, "sigma": 1.0, "alpha": 0.5},
    }
    half = {"value": 0.5, "width": 8, "height": 8}
    prompt["mask"] = {"class_type": "SolidMask", "inputs": half}
    insert(prompt, "sample", "decode", "samples", *nodes)
    mixed = graph.run(prompt, "decode")
    assert mixed.shape == plain.shape
    assert mixed.isfinite().all()
    assert not torch.equal(mixed, plain)


RESIZED = (
    "a node after ResShift Encode has cropped, resized or regrouped the LATENT, do that with the "
    "image before ResShift Encode"
)
TURNED = "This LATENT is flipped or rotated, but its LR image is not. Flip or rotate the image"
BICUBIC = {"upscale_method": "bicubic"}


@pytest.mark.parametrize(
    ("class_type", "inputs", "message"),
    [
        ("LatentUpscaleBy", {"samples": LINK, "scale_by": 2.0, **BICUBIC}, RESIZED),
        (
            "LatentUpscale",
            {"samples": LINK, "width": 64, "height": 128, "crop": "disabled", **BICUBIC},
            RESIZED,
        ),
        ("LatentCrop", {"samples": LINK, "width": 64, "height": 64, "x": 0, "y": 0}, RESIZED),
        ("LatentCut", {"samples": LINK, "dim": "x", "index": 0, "amount": 4}, RESIZED),
        ("LatentConcat", {"samples1": LINK, "samples2": LINK, "dim": "x"}, RESIZED),
        ("LatentFlip", {"samples": LINK, "flip_method": "x-axis: vertically"}, TURNED),
        ("LatentFlip", {"samples": LINK, "flip_method": "y-axis: horizontally"}, TURNED),
        ("LatentRotate", {"samples": LINK, "rotation": "90 degrees"}, TURNED),
        ("LatentRotate", {"samples": LINK, "rotation": "180 degrees"}, TURNED),
    ],
)
def test_what_latents_cannot_go_through_is_explained(
    graph: Graph,
    batch: Tensor,
    class_type: str,
    inputs: dict[str, Any],
    message: str,
) -> None:
    prompt = graph.stages(batch, steps=1)
    insert(prompt, "encode", "sample", "samples", (class_type, inputs))
    with pytest.raises(PromptError, match="LPNSRSample") as error:
        graph.run(prompt, "decode")
    assert message in str(error.value)


def test_decode_explains_it_too(graph: Graph, batch: Tensor) -> None:
    prompt = graph.stages(batch, steps=1)
    flip = {"samples": LINK, "flip_method": "x-axis: vertically"}
    insert(prompt, "sample", "decode", "samples", ("LatentFlip", flip))
    with pytest.raises(PromptError, match=f"LPNSRDecode: {TURNED}"):
        graph.run(prompt, "decode")


def test_a_noise_mask_is_refused_and_decode_takes_it_instead(
    graph: Graph, batch: Tensor, alone: Tensor
) -> None:
    prompt = graph.stages(batch, steps=1)
    size = {"width": 32, "height": 24}
    prompt["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.25, **size}}
    masked = {"samples": LINK, "mask": ["mask", 0]}
    insert(prompt, "encode", "sample", "samples", ("SetLatentNoiseMask", masked))
    with pytest.raises(PromptError, match=r"noise mask.* connect the mask to LPNSR Decode"):
        graph.run(prompt, "decode")

    prompt["sample"]["inputs"]["samples"] = ["encode", 0]
    prompt["decode"]["inputs"].update(mask=["mask", 0], start_image=["start", 0])
    expected = 0.25 * alone + 0.75 * graph.run(prompt, "start").clamp(0, 1)
    torch.testing.assert_close(graph.run(prompt, "decode"), expected)


# Latents without an LR image


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[0])
def test_a_saved_latent_goes_on_with_the_lr_image(
    server: Server, graph: Graph, batch: Tensor, alone: Tensor, place: tuple[str, str]
) -> None:
    source, target = place
    prompt = graph.stages(batch, steps=1)
    prefix = {"samples": [source, 0], "filename_prefix": f"latents/{source}"}
    prompt["save"] = {"class_type": "SaveLatent", "inputs": prefix}
    (saved,) = server.run(prompt)["save"]["latents"]
    name = f"{saved['subfolder']}/{saved['filename']} [output]"
    prompt = graph.stages(batch, steps=1)
    prompt["load"] = {"class_type": "LoadLatent", "inputs": {"latent": name}}
    prompt[target]["inputs"]["samples"] = ["load", 0]
    with pytest.raises(PromptError, match=r"carries no LR image.* Connect the LR image to"):
        graph.run(prompt, "decode")
    prompt[target]["inputs"]["lr_image"] = ["image", 0]
    assert torch.equal(graph.run(prompt, "decode"), alone)


def test_a_latent_that_an_older_version_padded_is_explained(graph: Graph, batch: Tensor) -> None:
    prompt = graph.stages(batch[:1], steps=1)
    padded = {"latent_tensor": torch.zeros(1, 3, 32, 32)}
    version = {"latent_format_version_0": torch.tensor([])}
    save_file(padded | version, graph.server.base / "input" / "padded.latent")
    prompt["load"] = {"class_type": "LoadLatent", "inputs": {"latent": "padded.latent"}}
    prompt["sample"]["inputs"] |= {"samples": ["load", 0], "lr_image": ["image", 0]}
    expected = r"has the shape \(1, 3, 32, 32\), but lr_image needs \(1, 3, 6, 8\).*padded latents"
    with pytest.raises(PromptError, match=f"{expected}, run ResShift Encode again"):
        graph.run(prompt, "decode")


def test_an_lr_image_that_does_not_fit_is_explained(graph: Graph, batch: Tensor) -> None:
    prompt = graph.stages(batch, steps=1)
    prompt["one"] = graph.picture(batch[:1], "one.safetensors")
    prompt["sample"]["inputs"]["lr_image"] = ["one", 0]
    with pytest.raises(PromptError, match=r"has the shape \(2, 3, .* but lr_image needs \(1, 3, "):
        graph.run(prompt, "decode")


# Images in core nodes

PAD = {"left": 8, "top": 0, "right": 0, "bottom": 16, "feathering": 2}
LARGER = {"upscale_method": "lanczos", "width": 13, "height": 7, "crop": "center"}


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (("ImageScale", {"image": LINK, **LARGER}), (2, 7, 13, 3)),
        (
            ("ImageScaleBy", {"image": LINK, "upscale_method": "area", "scale_by": 0.1}),
            (2, 1, 1, 3),
        ),
        (("ImageBatch", {"image1": LINK, "image2": ["odd", 0]}), (3, 6, 8, 3)),
        (("ImageBatch", {"image1": ["odd", 0], "image2": LINK}), (3, 9, 5, 3)),
        (("ImageBatch", {"image1": LINK, "image2": ["rgba", 0]}), (3, 6, 8, 4)),
        (("ImagePadForOutpaint", {"image": LINK, **PAD}), (2, 22, 16, 3)),
        (("ImageCrop", {"image": LINK, "width": 3, "height": 5, "x": 2, "y": 1}), (2, 5, 3, 3)),
        (("JoinImageWithAlpha", {"image": ["odd", 0], "alpha": ["mask", 0]}), (1, 9, 5, 4)),
        (("MaskToImage", {"mask": ["mask", 0]}), (1, 4, 7, 3)),
        (("EmptyImage", {"width": 5, "height": 4, "batch_size": 2, "color": 255}), (2, 4, 5, 3)),
        (("ImageRotate", {"image": LINK, "rotation": "90 degrees"}), (2, 8, 6, 3)),
        (("RepeatImageBatch", {"image": LINK, "amount": 2}), (4, 6, 8, 3)),
        (("ImageQuantize", {"image": LINK, "colors": 4, "dither": "none"}), (2, 6, 8, 3)),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else None,
)
def test_images_of_core_nodes_come_out_four_times_larger(
    graph: Graph, batch: Tensor, node: tuple[str, Any], shape: tuple[int, ...]
) -> None:
    prompt = graph.upscale(batch, steps=1)
    prompt["odd"] = graph.picture(random_image(1, 9, 5, 3), "odd.safetensors")
    prompt["rgba"] = graph.picture(random_image(1, 6, 8, 4), "rgba.safetensors")
    size = {"value": 0.5, "width": 7, "height": 4}
    prompt["mask"] = {"class_type": "SolidMask", "inputs": size}
    insert(prompt, "image", "upscale", "image", node)
    b, h, w, c = shape
    result = graph.run(prompt, "upscale")
    assert result.shape == (b, 4 * h, 4 * w, c)
    given = graph.run(prompt, "image_upscale_0")
    assert given.shape == shape
    small = torch.nn.functional.avg_pool2d(result.movedim(-1, 1), 4).movedim(1, -1)
    assert (small - given).abs().mean() < 0.15, "the result shows another picture"


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (("SplitImageWithAlpha", {"image": LINK}), (1, 24, 32, 3)),
        (("ImageScale", {"image": LINK, **LARGER}), (1, 7, 13, 4)),
        (("ImageCrop", {"image": LINK, "width": 3, "height": 5, "x": 2, "y": 1}), (1, 5, 3, 4)),
        (("ImageBatch", {"image1": LINK, "image2": ["image", 0]}), (2, 24, 32, 4)),
        (("ImagePadForOutpaint", {"image": LINK, **PAD}), (1, 40, 40, 4)),
        (("ImageInvert", {"image": LINK}), (1, 24, 32, 4)),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else None,
)
def test_our_images_go_on_into_core_nodes(
    graph: Graph, node: tuple[str, Any], shape: tuple[int, ...]
) -> None:
    prompt = graph.upscale(random_image(1, 6, 8, 4), steps=1)
    prompt["end"] = {"class_type": "ImageInvert", "inputs": {}}
    insert(prompt, "upscale", "end", "image", node)
    assert graph.run(prompt, "upscale_end_0").shape == shape


def test_our_alpha_becomes_a_mask_and_comes_back(graph: Graph) -> None:
    """Splitting off alpha as a mask, which is 1 where the picture is transparent, and joining it
    again gives the same picture."""
    prompt = graph.upscale(random_image(1, 6, 8, 4), steps=1)
    prompt["split"] = {"class_type": "SplitImageWithAlpha", "inputs": {"image": ["upscale", 0]}}
    prompt["joined"] = {
        "class_type": "JoinImageWithAlpha",
        "inputs": {"image": ["split", 0], "alpha": ["split", 1]},
    }
    torch.testing.assert_close(graph.run(prompt, "joined"), graph.run(prompt, "upscale"))


def test_rebatched_images_are_upscaled_one_by_one(
    graph: Graph, batch: Tensor, alone: Tensor
) -> None:
    prompt = graph.upscale(batch, steps=1)
    one = {"images": LINK, "batch_size": 1}
    insert(prompt, "image", "upscale", "image", ("RebatchImages", one))
    two = {"images": ["upscale", 0], "batch_size": 2}
    prompt["together"] = {"class_type": "RebatchImages", "inputs": two}
    assert_same(graph.run(prompt, "together"), alone)
