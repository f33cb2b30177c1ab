"""The training tasks, by their names in configs."""

from .autoencoder import AutoencoderTask
from .compact import CompactTask
from .decoder import DecoderTask
from .denoiser import DenoiserTask
from .noise_predictor import NoisePredictorTask
from .task import Losses, Task

__all__ = ["TASKS", "Losses", "Task"]

TASKS: dict[str, type[Task]] = {
    "autoencoder": AutoencoderTask,
    "decoder": DecoderTask,
    "denoiser": DenoiserTask,
    "noise_predictor": NoisePredictorTask,
    "compact": CompactTask,
}
