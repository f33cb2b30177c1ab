"""GroupNorm for training on a CPU, where PyTorch's backward pass is slow for channels-last tensors.

Benchmark: `python -m tests.bench.group_norm`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..models.layers import BorderedGroupNorm


class RowwiseGroupNorm(nn.GroupNorm):
    """GroupNorm with a faster backward pass for channels-last tensors."""

    def forward(self, input: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]. If gradients are disabled, PyTorch's own kernel is used."""
        if not torch.is_grad_enabled():
            return super().forward(input)
        return _Normalize.apply(input, self.weight, self.bias, self.num_groups, self.eps)


class RowwiseBorderedGroupNorm(BorderedGroupNorm):
    """BorderedGroupNorm with a faster backward pass for channels-last tensors."""

    def standardize(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]. If gradients are disabled, PyTorch's own kernel is used."""
        if not torch.is_grad_enabled():
            return super().standardize(x)
        one, zero = torch.ones_like(self.weight), torch.zeros_like(self.bias)
        return _Normalize.apply(x, one, zero, self.num_groups, self.eps)


class _Normalize(torch.autograd.Function):
    """GroupNorm: y = w x^ + b with x^ = (x - m) r, where m is the mean and 1/r the standard
    deviation of each group."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        batch, channels, height, width = x.shape
        y, mean, reciprocal = torch.native_group_norm(
            x, weight, bias, batch, channels, height * width, groups, eps
        )
        ctx.save_for_backward(x, weight, mean, reciprocal)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """dx = r (w dy - a - x^ b), where a and b are the group means of w dy and w dy x^."""
        x, weight, mean, reciprocal = ctx.saved_tensors
        batch, channels, height, width = x.shape
        size = channels // mean.shape[1]
        m, r = (s.to(weight).repeat_interleave(size, dim=1) for s in (mean, reciprocal))  # [B,C]
        x, dy = (s.movedim(1, 3).reshape(batch, height * width, channels) for s in (x, dy))
        bias_grad = dy.sum(dim=1, dtype=weight.dtype)  # [B,C], separate for each sample
        weight_grad = r * ((dy * x).sum(dim=1, dtype=weight.dtype) - m * bias_grad)

        def group_mean(sums: Tensor) -> Tensor:
            means = (weight * sums).unflatten(1, (-1, size)).mean(dim=2) / (height * width)
            return means.repeat_interleave(size, dim=1)  # [B,C]

        a, b = group_mean(bias_grad), group_mean(weight_grad)
        constant, of_x, of_dy = (
            factor.to(dy)[:, None] for factor in (r * (m * r * b - a), -r * r * b, r * weight)
        )
        dx = torch.addcmul(torch.addcmul(constant, x, of_x), dy, of_dy)
        dx = dx.unflatten(1, (height, width)).movedim(3, 1)
        return dx, weight_grad.sum(dim=0), bias_grad.sum(dim=0), None, None
