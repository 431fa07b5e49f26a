"""A decay with a time step: g = -exp(A_log) · softplus(u + dt_bias), of Mamba-2, Gated DeltaNet and others.

g is the logarithm of the decay, never positive, in float32 or better whatever the autocast: near 1 a decay in bfloat16
is 1. As in Mamba (arXiv:2312.00752, section 3.6) exp(A_log) is the rate and softplus(...) the step, dt.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.precision import state_dtype

# Axes: b batch, t time, h head.


def step_decay(u: Tensor, a_log: Tensor, dt_bias: Tensor) -> Tensor:
    """g of inputs u, which a_log and dt_bias must broadcast with: (b, t, h) and (h,), for example."""
    return -precise(a_log).exp() * F.softplus(precise(u) + precise(dt_bias))


def bounded_step_decay(u: Tensor, a_log: Tensor, dt_bias: Tensor, bound: float) -> Tensor:
    """g = bound · σ(exp(A_log) (u + dt_bias)), between `bound` < 0 and 0, as in some models with Kimi's delta rule."""
    return bound * torch.sigmoid(precise(a_log).exp() * (precise(u) + precise(dt_bias)))


def initial_a_log(heads: int, lowest: float = 1.0, highest: float = 16.0) -> Tensor:
    """The logarithms of rates that are uniform between two numbers, (h,)."""
    return torch.empty(heads).uniform_(lowest, highest).log()


def initial_dt_bias(channels: int, lowest: float = 1e-3, highest: float = 0.1, floor: float = 1e-4) -> Tensor:
    """Such that softplus(dt_bias) is log-uniform between two numbers, (channels,)."""
    dt = torch.empty(channels).uniform_(math.log(lowest), math.log(highest)).exp().clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def precise(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is."""
    return x.to(state_dtype(x))
