"""A causal depthwise convolution over the last few tokens, with the few inputs it must remember."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ShortConv(nn.Module):
    """y_n = bias + Σ_{i<width} weight_i x_{n-i}, each channel for itself.

    Args:
        channels: Number of channels.
        width: Number of taps.
    """

    def __init__(self, channels: int, *, width: int = 3):
        super().__init__()
        self.channels, self.width = channels, width
        bound = width**-0.5  # torch's own for a convolution with one input channel
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def initial_state(self, batch: int) -> Tensor:
        """The inputs before the first token, zeros, (batch, width - 1, channels)."""
        return self.weight.new_zeros(batch, self.width - 1, self.channels)

    def extend(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs (batch, time, channels) for the next inputs, and the inputs to remember."""
        x = torch.cat([past.to(x.dtype), x], 1)
        y = F.conv1d(x.mT, self.weight, self.bias, groups=self.channels).mT
        return y, x[:, x.shape[1] - self.width + 1 :]
