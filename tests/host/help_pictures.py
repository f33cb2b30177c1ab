"""Make pictures for the help pages by running the nodes with the lite models. `screenshots.py`
makes the pictures of LPNSR Compare and of the editor."""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from playwright.sync_api import Page
from safetensors.torch import load_file

from tests.eventually import eventually

from .browser import open_editor
from .pictures import PICTURE, sheet
from .screenshots import DOCS, node_box, take
from .server import Server, load_api_workflow, node_of_type, running

DETAIL = (320, 130, 560, 370)
"""Crop of the result for the help pages, with the pink flower: left, top, right, bottom."""

SEEDS = 4


def main() -> int:
    """Run the nodes, and write all pictures."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "ComfyUI") as server:
        prompt, saved = graph()
        outputs = server.run({**prompt, **saved})
        pictures = {
            name: [
                Image.open(io.BytesIO(png)).convert("RGB")
                for png in server.images({name: outputs[name]})
            ]
            for name in saved
            if saved[name]["class_type"] == "SaveImage"
        }
        psnr = [float(outputs[f"{name}_psnr"]["text"][0]) for name in ("wavelet", "consistent")]
        pictures["latent"] = [latent_picture(server)]
        reports(server)
    draw(pictures, psnr)
    return 0


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Make a node of a prompt in API format."""
    return {"class_type": class_type, "inputs": inputs}


def graph() -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the nodes whose outputs the pictures show, in API format.

    Returns:
        Two dicts {id: node}: nodes that compute, and nodes that save or show their outputs.
    """
    quick_start = load_api_workflow("LPNSR quick start")
    models = {"models": ["models", 0]}
    sampling = {"seed": 12345, "kappa": 2.0, "predictor_mode": "sample"}
    on, off = ({f"predictor_t{t}": value for t in (4, 3, 2)} for value in (True, False))
    upscale = {**models, **sampling, "image": ["lr", 0], "color_fix": "wavelet", "steps": 4}
    start = {"upscale_model": ["upscale_model", 0]}
    prompt = {
        "models": node_of_type(quick_start, "LoadLPNSRModels"),
        "upscale_model": node_of_type(quick_start, "UpscaleModelLoader"),
        "lr": node("LoadImage", image=PICTURE.name),
        "bicubic": node("LPNSRPreUpsample", image=["lr", 0]),
        "start": node("LPNSRPreUpsample", image=["lr", 0], **start),
        "encode": node("ResShiftEncode", image=["start", 0], lr_image=["lr", 0], **models),
        "vae_encode": node("VAEEncode", pixels=["start", 0], vae=["models", 1]),
        "vae_decode": node("VAEDecode", samples=["vae_encode", 0], vae=["models", 1]),
        "preset_a": node("LPNSRUpscale", **upscale, use_predictor=True),
        "preset_b": node("LPNSRUpscale", **upscale, **start, use_predictor=True),
        "resshift": node("LPNSRUpscale", **upscale, use_predictor=False),
        "inspect": node("LPNSRInspect", **models, **sampling, samples=["encode", 0], steps=4),
        "invention": node("LPNSRInventionMap", **upscale, **start, use_predictor=True, seeds=SEEDS),
        "deviation": node("MaskToImage", mask=["invention", 1]),
    }
    for name, steps, switches in (("1", 1, on), ("2", 2, on), ("4", 4, on), ("random", 4, off)):
        prompt[f"sample_{name}"] = node(
            "LPNSRSample", **models, **sampling, **switches, samples=["encode", 0], steps=steps
        )
    sources = {"encoded": "encode", **{f"steps_{n}": f"sample_{n}" for n in "124"}}
    sources["random"] = "sample_random"
    for name, source in sources.items():
        prompt[name] = node("LPNSRDecode", **models, samples=[source, 0], color_fix="none")
    for name, fix in (("none", "none"), ("adain", "adain"), ("wavelet", "wavelet")):
        prompt[name] = node("LPNSRDecode", **models, samples=["sample_4", 0], color_fix=fix)
    prompt["consistent"] = node(
        "LPNSRDecode",
        **models,
        samples=["sample_4", 0],
        color_fix="wavelet",
        lr_consistency=True,
    )
    shown = [
        name for name in prompt if prompt[name]["class_type"] in ("LPNSRDecode", "LPNSRUpscale")
    ]
    links = {f"{name}_saved": [name, 0] for name in (*shown, "bicubic", "start", "vae_decode")}
    links |= {"maps": ["inspect", 0], "plot": ["inspect", 1], "heat": ["invention", 0]}
    links |= {"mean": ["invention", 2], "mask": ["deviation", 0]}
    saved = {
        name: node("SaveImage", images=link, filename_prefix=name) for name, link in links.items()
    }
    saved["latent"] = node("SaveLatent", samples=["encode", 0], filename_prefix="latent")
    for name in ("wavelet", "consistent"):
        saved[f"{name}_psnr"] = node("PreviewAny", source=[name, 1])
    return prompt, saved


def latent_picture(server: Server) -> Image.Image:
    """Draw the three channels of the encoded latent as red, green and blue. Each value becomes a
    square of 4x4 pixels."""
    (path,) = (server.base / "output").glob("latent_*.latent")
    latent = load_file(path)["latent_tensor"][0]
    low, high = latent.amin((1, 2), keepdim=True), latent.amax((1, 2), keepdim=True)
    rgb = ((latent - low) / (high - low) * 255).to(torch.uint8).movedim(0, -1)
    picture = Image.fromarray(rgb.numpy())
    return picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.NEAREST)


def reports(server: Server) -> None:
    """Take screenshots of LPNSR Download Models before a run, and of LPNSR Doctor after one."""
    with open_editor(server) as page:
        show(page, "LPNSRDownloadModels", "help-download.jpg", run=False, accept_licences=True)
        show(page, "LPNSRDoctor", "help-doctor.jpg", run=True)


def show(page: Page, class_type: str, file: str, *, run: bool, **values: Any) -> None:
    """Take a screenshot of a node, enlarged to show all of its text. `values` sets its widgets. If
    `run`, the node runs first."""
    identifier = page.evaluate(
        """([type, values]) => {
            app.graph.clear();
            const node = LiteGraph.createNode(type);
            app.graph.add(node);
            for (const widget of node.widgets) widget.value = values[widget.name] ?? widget.value;
            return node.id;
        }""",
        [class_type, values],
    )
    text = page.locator("textarea[readonly]")
    if run:
        page.get_by_test_id("queue-button").click()
        eventually(lambda: bool(text.input_value()), True)
    page.evaluate(
        """([id, lines]) => {
            const node = app.graph.getNodeById(id);
            node.setSize([760, 110 + 13 * lines]);
            app.canvas.ds.scale = 1.2;
            app.canvas.centerOnNode(node);
            app.canvas.setDirty(true, true);
        }""",
        [identifier, max(text.input_value().count("\n") + 2, 8)],
    )
    page.wait_for_timeout(500)
    take(page, file, node_box(page, identifier), 800)


def draw(pictures: dict[str, list[Image.Image]], psnr: list[float]) -> None:
    """Compose the pictures of the help pages from the outputs of the nodes, and write them."""
    lr = Image.open(PICTURE).convert("RGB")
    whole = {name: found[0] for name, found in pictures.items()}
    size = whole["preset_b_saved"].size
    whole["lr_saved"] = lr.resize(size, Image.Resampling.NEAREST)
    part = {name: picture.crop(DETAIL) for name, picture in whole.items()}

    def row(file: str, **titles: str) -> None:
        write(file, sheet({titles[name]: part[f"{name}_saved"] for name in titles}, 17))

    row("help-load-models.jpg", start="image", vae_decode="VAE Encode, VAE Decode")
    row("help-pre-upsample.jpg", lr="LR", bicubic="bicubic (PreSet-A)", start="upscale model")
    row(
        "help-sample.jpg",
        steps_1="steps 1",
        steps_2="steps 2",
        steps_4="steps 4",
        random="steps 4, predictor off",
    )
    wavelet, consistent = psnr
    row(
        "help-decode.jpg",
        none="none",
        adain="adain",
        wavelet=f"wavelet, LR-PSNR {wavelet:.1f} dB",
        consistent=f"lr_consistency, {consistent:.1f} dB",
    )
    row("help-upscale.jpg", lr="LR", preset_a="PreSet-A", preset_b="PreSet-B", resshift="ResShift")
    half = (size[0] // 2, size[1] // 2)
    encode = {"image": whole["start_saved"], "latent, 3 channels": whole["latent"]}
    write("help-encode.jpg", sheet({name: p.resize(half) for name, p in encode.items()}, 17))
    invention = {"mean image": whole["mean"], "heat map": whole["heat"]}
    write("help-invention-map.jpg", sheet({n: p.resize(half) for n, p in invention.items()}, 17))
    write("help-inspect.jpg", inspected(whole["plot"], pictures["maps"][::2]))


def inspected(plot: Image.Image, predictions: list[Image.Image]) -> Image.Image:
    """Show the plot of LPNSR Inspect above the clean predictions at t = 4 to 1."""
    width = (plot.width - 8 * (len(predictions) - 1)) // len(predictions)
    height = width * predictions[0].height // predictions[0].width
    below = sheet(
        {
            f"clean prediction at t = {len(predictions) - i}": picture.resize((width, height))
            for i, picture in enumerate(predictions)
        },
        17,
    )
    picture = Image.new("RGB", (plot.width, plot.height + below.height), "white")
    picture.paste(plot, (0, 0))
    picture.paste(below, (0, plot.height))
    picture.thumbnail((1000, 1000), Image.Resampling.LANCZOS)
    return picture


def write(name: str, picture: Image.Image) -> None:
    """Write a JPEG, and print its size."""
    path = DOCS / name
    picture.save(path, quality=85, optimize=True)
    print(f"{path}: {picture.width}x{picture.height}, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    sys.exit(main())
