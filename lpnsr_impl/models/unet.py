"""ResShift's Swin-U-Net, used as denoiser f_theta and noise predictor g_w (paper, Section 3.3).

Module names match the released checkpoints.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..config import UNetConfig
from .layers import Operations, Upsample, make_norm, timestep_embedding
from .swin import SwinStage

LOGVAR_RANGE = (-30.0, 20.0)


class ResBlock(nn.Module):
    """Residual block whose second norm is scaled and shifted by the timestep embedding."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embed_width: int,
        norm_size: int | None,
        operations: Operations,
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            make_norm(in_channels, norm_size, operations),
            nn.SiLU(),
            operations.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(embed_width, 2 * out_channels))
        self.out_layers = nn.Sequential(
            make_norm(out_channels, norm_size, operations),
            nn.SiLU(),
            nn.Identity(),  # the released networks have a dropout with rate 0 here
            operations.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else operations.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [B,in,h,w], emb: [B,embed_width] -> [B,out,h,w]"""
        h = self.in_layers(x)  # [B,out,h,w]
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)  # [B,out,1,1] each
        norm, silu, dropout, conv = self.out_layers
        h = torch.addcmul(shift, norm(h), 1 + scale)  # [B,out,h,w]
        return self.skip_connection(x) + conv(dropout(silu(h)))


class Downsample(nn.Module):
    """3x3 convolution of stride 2."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.op = operations.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h/2,w/2]"""
        return self.op(x)


class Block(nn.ModuleList):
    """A sequence of layers. Residual blocks in it also receive the timestep embedding."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """Base class of `Denoiser` and `NoisePredictor`, which define the meaning of the channels.

    Args:
        config: sizes of the network.
        operations: namespace of layer classes.

    Attributes:
        config: sizes of the network.
        compute_dtype: dtype of activations. Inputs are cast to it; outputs are float32.
        compiled: whether the network is compiled for each input shape.
    """

    def __init__(self, config: UNetConfig, operations: Operations = nn) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.compiled = False

        width = config.model_channels
        self._embed_width = 4 * width
        self.time_embed = nn.Sequential(
            operations.Linear(width, self._embed_width),
            nn.SiLU(),
            operations.Linear(self._embed_width, self._embed_width),
        )
        skips = [width]
        self.input_blocks = nn.ModuleList(
            [Block(operations.Conv2d(config.in_channels, width, 3, padding=1))]
        )
        self.input_blocks.extend(self._down_path(skips, operations))
        deepest = len(config.level_channels) - 1
        bottom = config.level_channels[-1]
        self.middle_block = Block(
            self._res(bottom, bottom, deepest, operations),
            self._swin(deepest, operations),
            self._res(bottom, bottom, deepest, operations),
        )
        self.output_blocks = nn.ModuleList(self._up_path(skips, operations))
        self.out = nn.Sequential(
            make_norm(config.level_channels[0], config.norm_size, operations),
            nn.SiLU(),
            operations.Conv2d(config.level_channels[0], config.out_channels, 3, padding=1),
        )

    def _down_path(self, skips: list[int], operations: Operations) -> Iterator[Block]:
        """Yield the blocks from the top level down. Append the number of output channels of each to
        `skips`."""
        channels = skips[-1]
        for level, level_channels in enumerate(self.config.level_channels):
            for i in range(self.config.num_res_blocks):
                res = self._res(channels, level_channels, level, operations)
                yield Block(res, self._swin(level, operations)) if i == 0 else Block(res)
                channels = level_channels
                skips.append(channels)
            if level < len(self.config.level_channels) - 1:
                yield Block(Downsample(channels, operations))
                skips.append(channels)

    def _up_path(self, skips: list[int], operations: Operations) -> Iterator[Block]:
        """Yield the blocks from the bottom level up. For each, pop the last entry of `skips`."""
        channels = self.config.level_channels[-1]
        for level in reversed(range(len(self.config.level_channels))):
            for i in range(self.config.num_res_blocks + 1):
                level_channels = self.config.level_channels[level]
                layers: list[nn.Module] = [
                    self._res(channels + skips.pop(), level_channels, level, operations)
                ]
                channels = level_channels
                if i == 0:
                    layers.append(self._swin(level, operations))
                if level > 0 and i == self.config.num_res_blocks:
                    layers.append(Upsample(channels, operations))
                yield Block(*layers)

    def _res(
        self, in_channels: int, out_channels: int, level: int, operations: Operations
    ) -> ResBlock:
        size = self.config.norm_size_at(level)
        return ResBlock(in_channels, out_channels, self._embed_width, size, operations)

    def _swin(self, level: int, operations: Operations) -> SwinStage:
        config = self.config
        return SwinStage(
            config.level_channels[level],
            config.swin_width,
            config.swin_depth,
            config.swin_width // config.head_width,
            config.mlp_width,
            config.window_at(level),
            config.shift_at(level),
            config.norm_size_at(level),
            operations,
        )

    def run(self, x: Tensor, t_index: int | Tensor) -> Tensor:
        """Apply the network.

        Args:
            x: [B,in_channels,h,w]; h and w multiples of `config.size_multiple`.
            t_index: the paper's t - 1, an int for all images or a tensor [B].

        Returns:
            float32 [B,out_channels,h,w].

        Raises:
            ValueError: x has the wrong number of channels, or h or w is not a multiple of
                `config.size_multiple`.
        """
        self._check_input(x)
        if isinstance(t_index, int):  # created on the device, since copying would wait for the GPU
            t_index = torch.full((len(x),), t_index, device=x.device)
        t_index = t_index.to(x.device).expand(len(x))
        emb = self.time_embed(
            timestep_embedding(t_index, self.config.model_channels).to(self.compute_dtype)
        )
        return self.apply_blocks(x.to(self.compute_dtype), emb).float()

    def apply_blocks(self, h: Tensor, emb: Tensor) -> Tensor:
        """h: [B,in_channels,h,w], emb: [B,embed_width] -> [B,out_channels,h,w]"""
        skips: list[Tensor] = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)

    def _check_input(self, x: Tensor) -> None:
        multiple = self.config.size_multiple
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"The concatenated inputs of {type(self).__name__} are {tuple(x.shape)}, expected "
                f"[B,{self.config.in_channels},h,w]."
            )
        if x.shape[2] == 0 or x.shape[3] == 0 or x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"{type(self).__name__} got height {x.shape[2]} and width {x.shape[3]}, expected "
                f"multiples of {multiple}. Pad the latent and the LR image first."
            )


class Denoiser(UNet):
    """f_theta (paper, Eq. 5): predicts the clean latent from the scaled state and the LR image."""

    def forward(self, x_scaled: Tensor, t_index: int | Tensor, lr: Tensor) -> Tensor:
        """Predict x0.

        Args:
            x_scaled: x_t / sqrt(eta_t kappa^2 + 1), [B,C,h,w].
            t_index: the paper's t - 1, an int for all images or a tensor [B].
            lr: [B,3,h,w] in [-1,1]; for a student, the condition c of `sampler.sample_once`.

        Returns:
            x0_pred, float32 [B,C,h,w].

        Raises:
            ValueError: see `run`.
        """
        return self.run(torch.cat([x_scaled, lr], dim=1), t_index)


class NoisePredictor(UNet):
    """g_w (paper, Eq. 11): predicts mean and log-variance of the noise of the step t -> t-1."""

    def forward(
        self, x_t: Tensor, x0_pred: Tensor, lr: Tensor, t_index: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise.

        Args:
            x_t: state (not scaled), [B,C,h,w].
            x0_pred: the denoiser's clean prediction at t, [B,C,h,w].
            lr: [B,3,h,w] in [-1,1].
            t_index: the paper's t - 1, an int for all images or a tensor [B].

        Returns:
            Mean and log-variance (clamped to [-30, 20]), float32 [B,C,h,w] each.

        Raises:
            ValueError: see `run`.
        """
        mean, logvar = self.run(torch.cat([x_t, x0_pred, lr], dim=1), t_index).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)
