"""Hyena's filters: long, but made by a small network from the position of each tap (arXiv:2302.10866, section 3.3)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import UsageError
from mixers.ops.precision import state_dtype


class ImplicitFilter(nn.Module):
    """h_i = exp(-|δ| i/L) · MLP(features of i), with four layers and a sine for activation.

    The features of tap i are i/L and the sines and cosines of a few frequencies; like the authors' they are trained.
    The whole filter is exempt from weight decay.

    Args:
        channels: Number of filters; the other arguments are options of `Hyena`, L is `max_length`.
    """

    def __init__(self, channels: int, max_length: int, width: int, features: int, frequency: float, lr: float | None):
        super().__init__()
        if features < 3 or features % 2 == 0:
            raise UsageError(f"filter_features={features} must be odd and at least 3: a position, cosines and sines.")
        self.features = nn.Parameter(_positional_features(max_length, features))
        self.layers = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.out = nn.Linear(width, channels, bias=False)
        self.frequency = nn.Parameter(torch.full((width,), float(frequency)))
        self.optimizer_options = {"weight_decay": 0.0} | ({} if lr is None else {"lr": lr})

    def forward(self, length: int) -> Tensor:
        """The first `length` taps, (length, channels), in float32 or better."""
        dtype = state_dtype(self.features)
        h = self.features[:length].to(dtype)
        for layer in self.layers:
            h = torch.sin(self.frequency.to(dtype) * F.linear(h, *(weight.to(dtype) for weight in layer.parameters())))
        return F.linear(h, self.out.weight.to(dtype)) * self._window(h)

    def _window(self, like: Tensor) -> Tensor:
        """Falls to 1 % at 1.5 L in the first channel and 0.3 L in the last, the authors' slow_ and fast_decay_pct."""
        rates = -math.log(0.01) / 1.5, -math.log(0.01) / 0.3
        rate = torch.linspace(*rates, self.out.out_features, device=like.device, dtype=like.dtype)
        tap = torch.arange(len(like), device=like.device, dtype=like.dtype)
        return torch.exp(-rate * tap[:, None] / max(1, len(self.features) - 1))


def _positional_features(length: int, features: int) -> Tensor:
    bands = (features - 1) // 2
    position = torch.arange(length)[:, None]
    angle = 2 * math.pi * position / length * torch.linspace(1e-4, bands - 1, bands)
    return torch.cat([torch.linspace(0, 1, length)[:, None], angle.cos(), -angle.sin()], 1)
