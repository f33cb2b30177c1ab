"""The nodes with 15-step denoisers, such as the first models of ResShift."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lpnsr_impl import Schedule, load_autoencoder, load_denoiser, load_noise_predictor, sample
from lpnsr_impl.accelerate import accelerate
from lpnsr_impl.config import RESSHIFT_15
from lpnsr_impl.method.noise import seeded_noise
from lpnsr_impl.pictures.images import to_pm1
from tests.host.server import PromptError, Server
from tests.margin import with_margin
from tests.small import autoencoder_weights, denoiser_weights, predictor_weights

from .conftest import Graph, random_image

FAMILY = {"lpnsr.family": "fifteen"}
SCHEDULE = {"lpnsr.schedule": json.dumps(vars(RESSHIFT_15))}


@pytest.fixture(scope="module")
def files(server: Server) -> dict[str, str]:
    """Save small networks to the server's model folder: an autoencoder, a denoiser for 15 steps,
    and noise predictors for 4 and 15 steps. Returns the names of the first two."""
    folder = server.base / "models" / "lpnsr"
    save_file(autoencoder_weights(), folder / "a.safetensors", FAMILY)
    save_file(denoiser_weights(), folder / "d_s15_v1.safetensors", FAMILY)
    save_file(predictor_weights(), folder / "p4.safetensors", FAMILY)
    save_file(predictor_weights(), folder / "p15.safetensors", FAMILY | SCHEDULE)
    return {"autoencoder": "a.safetensors", "denoiser": "d_s15_v1.safetensors"}


def fifteen(graph: Graph, files: dict[str, str], predictor: str, **sample: Any) -> dict[str, Any]:
    prompt = graph.stages(random_image(1, 64, 64, 3), steps=15, **sample)
    prompt["models"] = graph.models(**files, noise_predictor=predictor)
    return prompt


@pytest.mark.parametrize("predictor", ["none", "p15.safetensors"])
@torch.inference_mode()
def test_all_steps_run_by_the_schedule_of_the_file_and_switches_act_as_one(
    server: Server, graph: Graph, files: dict[str, str], predictor: str
) -> None:
    """If any predictor switch is on, a 15-step noise predictor runs in every step. If no noise
    predictor is loaded, switches may stay on, since 15-step models may have none."""
    prompt = fifteen(graph, files, predictor, predictor_t2=False)
    y0 = graph.run(prompt, "encode", "latent")
    folder = server.base / "models" / "lpnsr"
    on = predictor != "none"
    denoiser = load_denoiser(folder / files["denoiser"])
    noise_predictor = load_noise_predictor(folder / predictor) if on else None
    for network in (denoiser, noise_predictor):
        # Accelerate like the nodes, since differences in rounding grow over 15 steps.
        if network is not None:
            accelerate(network, torch.device("cpu"))
    expected = sample(
        with_margin(denoiser),
        with_margin(noise_predictor) if noise_predictor else None,
        Schedule(15, min_noise_level=0.04),
        y0,
        to_pm1(random_image(1, 64, 64, 3).movedim(-1, 1)),
        steps=15,
        predictor_on=dict.fromkeys(range(2, 16), on),
        noise=seeded_noise(7, 15),
    )
    ours = graph.run(prompt, "sample", "latent")
    assert (ours - expected).abs().max() < 1e-3 * expected.abs().max()
    assert load_autoencoder(folder / files["autoencoder"]).decode(ours).isfinite().all()


def test_the_one_box_runs_fifteen_steps_as_it_is(graph: Graph, files: dict[str, str]) -> None:
    prompt = graph.upscale(random_image(1, 8, 8, 3), steps=15)
    prompt["models"] = graph.models(**files, noise_predictor="none")
    assert graph.run(prompt, "upscale").shape == (1, 32, 32, 3)


def test_a_predictor_of_four_steps_is_refused_by_the_loader(
    graph: Graph, files: dict[str, str]
) -> None:
    with pytest.raises(
        PromptError, match=r"LoadLPNSRModels: The denoiser .*Choose 'none' as the noise predictor"
    ):
        graph.run(fifteen(graph, files, "p4.safetensors"), "decode")


def test_more_steps_than_the_denoiser_has_are_refused(graph: Graph) -> None:
    prompt = graph.stages(random_image(1, 8, 8, 3), steps=15)
    with pytest.raises(PromptError, match=r"steps is 15, but this denoiser has 4 steps\. Set"):
        graph.run(prompt, "decode")
    with pytest.raises(PromptError, match="steps is 5, but this denoiser has 4 steps"):
        graph.run(graph.upscale(random_image(1, 8, 8, 3), steps=5), "upscale")
