"""Replaces an autoencoder's GroupNorms by fixed scales and shifts, using average statistics."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Autoencoder


@torch.no_grad()
def fix_norms(normed: Autoencoder, fixed: Autoencoder, pictures: Iterable[Tensor]) -> None:
    """Set the scales and shifts of `fixed` to the average effect of the norms of `normed`.

    Args:
        normed: autoencoder with GroupNorms.
        fixed: autoencoder of the same size with `norm_groups = 0`, whose norms are depthwise 1x1
            convolutions. Only these convolutions change.
        pictures: images to average the statistics over, [B,3,H,W] each, in [-1,1].
    """
    norms = {name: m for name, m in normed.named_modules() if isinstance(m, nn.GroupNorm)}
    recorded: dict[str, list[Tensor]] = {name: [] for name in norms}

    def record(name: str, norm: nn.GroupNorm, inputs: tuple[Any, ...]) -> None:
        groups = inputs[0].float().unflatten(1, (norm.num_groups, -1)).flatten(2)  # [B,G,n]
        variance, mean = torch.var_mean(groups, dim=2, correction=0)
        recorded[name].append(torch.stack([(variance + norm.eps).rsqrt(), mean], dim=1))

    hooks = [norm.register_forward_pre_hook(partial(record, name)) for name, norm in norms.items()]
    for picture in pictures:
        normed.decode(normed.encode(picture))
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        statistics = torch.cat(recorded[name])  # [N,2,G]
        size = norm.num_channels // norm.num_groups
        r = statistics[:, 0].median(dim=0).values.repeat_interleave(size)
        m = statistics[:, 1].mean(dim=0).repeat_interleave(size)
        convolution = fixed.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        convolution.weight.copy_((norm.weight * r).view_as(convolution.weight))
        convolution.bias.copy_(norm.bias - norm.weight * m * r)
