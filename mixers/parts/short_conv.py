"""A causal depthwise convolution over the last few tokens, with the few inputs it must remember."""

import torch
from torch import Tensor, nn

from mixers.ops.short_conv import short_conv


class ShortConv(nn.Module):
    """y_n = bias + Σ_{i<width} weight_i x_{n-i}, each channel for itself."""

    def __init__(self, channels: int, *, width: int, bias: bool = True):
        super().__init__()
        bound = width**-0.5  # torch's own for a convolution with one input channel
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def initial_state(self, batch: int) -> Tensor:
        """The inputs before the first token, zeros, (batch, width - 1, channels)."""
        return self.weight.new_zeros(batch, self.weight.shape[2] - 1, len(self.weight))

    def extend(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs (batch, time, channels) for the next inputs, and the inputs to remember."""
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        y = short_conv(x, self.weight, bias, past)
        recent = x[:, max(0, x.shape[1] - past.shape[1]) :]
        return y, torch.cat([past[:, recent.shape[1] :].to(x.dtype), recent], 1)
