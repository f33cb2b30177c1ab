"""The tasks by the names that configs give them."""

from .decoder import DecoderTask
from .tasks import AutoencoderTask, CompactTask, DenoiserTask, NoisePredictorTask, Task

TASKS: dict[str, type[Task]] = {
    "autoencoder": AutoencoderTask,
    "decoder": DecoderTask,
    "denoiser": DenoiserTask,
    "noise_predictor": NoisePredictorTask,
    "compact": CompactTask,
}
