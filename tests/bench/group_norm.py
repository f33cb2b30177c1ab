"""`python -m tests.bench.group_norm`: time of the forward and backward pass of the pack's
GroupNorm for training, in bf16 and channels-last, compared with PyTorch's GroupNorm."""

import copy

import torch
from torch import nn
from torch.utils.benchmark import Timer

from lpnsr_impl.accelerate import train_on_cpu

SIZES = ((32, 256), (64, 128), (128, 64))


def main() -> None:
    """Print the times for the feature map of each level of the lite autoencoder."""
    print("channels  size  PyTorch, ms  ours, ms  ratio")
    for channels, size in SIZES:
        plain = nn.GroupNorm(32, channels)
        ours = copy.deepcopy(plain)
        train_on_cpu(ours)
        x = torch.randn(3, channels, size, size, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        dy = torch.randn_like(x)
        seconds = [
            Timer(
                "norm(x).backward(dy)",
                globals={"norm": norm, "x": x, "dy": dy},
                num_threads=torch.get_num_threads(),
            )
            .timeit(10)
            .median
            for norm in (plain, ours)
        ]
        milliseconds = [1000 * s for s in seconds]
        ratio = milliseconds[0] / milliseconds[1]
        print(
            f"{channels:8}  {size:4}  {milliseconds[0]:11.1f}  {milliseconds[1]:8.1f}  {ratio:5.1f}"
        )


if __name__ == "__main__":
    main()
