"""RWKV's time mixing: a fading mean of values, each channel for itself, weighted by e^key (arXiv:2305.13048)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mixers.mixer import Mixer, state_dtype
from mixers.ops.wkv import LOG_ZERO, WKVState, wkv
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, t time, d channels.


class RWKVState(NamedTuple):
    previous: Tensor  # (b, d): the last input
    mean: Tensor  # (b, d): of the values so far, faded
    log_weight: Tensor  # (b, d): the logarithm of their weights' sum


@register("rwkv")
class RWKV(Mixer[RWKVState]):
    """Time mixing of RWKV, version 4: y_n = W_o (σ(r_n) ⊙ wkv_n) (arXiv:2305.13048, Eqs. 11 to 17).

    k, v and r are projections of a mix of each token with the one before, μ x_n + (1 - μ) x_{n-1}, with a μ for each
    of them and channel. wkv_n is the mean of the values so far, weighted by e^k and fading by e^{-w} a step, where
    w = exp(time_decay), and with a bonus u = time_first for the newest; it is computed in float32 whatever the
    autocast. Weights of Hugging Face's `RwkvSelfAttention` load by name.

    Where this differs from the authors' code: their state keeps numerator, denominator and a running maximum of the
    exponents; here it is the quotient and the logarithm of the denominator, all that outputs depend on.

    Initialisation depends on depth, and is theirs once `init_weights` was called, as the model does: output, key and
    receptance are then zero. Built alone, a mixer has the decays and mixes of a first layer, and matrices as torch
    initialises them, since with theirs it would give nothing but zeros.

    Args:
        dim: Width of the input and of the output.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.time_decay = nn.Parameter(torch.empty(dim))
        self.time_first = nn.Parameter(torch.empty(dim))
        self.time_mix_key = nn.Parameter(torch.empty(1, 1, dim))
        self.time_mix_value = nn.Parameter(torch.empty(1, 1, dim))
        self.time_mix_receptance = nn.Parameter(torch.empty(1, 1, dim))
        self.key = Linear(dim, dim, bias=False)
        self.value = Linear(dim, dim, bias=False)
        self.receptance = Linear(dim, dim, bias=False)
        self.output = Linear(dim, dim, bias=False)
        self._init_vectors(layer=0, depth=1)

    def init_weights(self, layer: int, depth: int) -> None:
        self._init_vectors(layer, depth)
        for zero in (self.key, self.receptance, self.output):
            nn.init.zeros_(zero.weight)
        nn.init.orthogonal_(self.value.weight)

    @torch.no_grad()
    def _init_vectors(self, layer: int, depth: int) -> None:
        """Decays, bonuses and mixes as the authors' code has them: from fast to slow over the channels."""
        down, up = 1 - layer / depth, layer / max(depth - 1, 1)  # over the layers, from 1 and to 1
        i = torch.arange(self.dim, dtype=torch.float32, device=self.time_decay.device)
        self.time_decay.copy_(-5 + 8 * (i / max(self.dim - 1, 1)) ** (0.7 + 1.3 * up))
        self.time_first.copy_(math.log(0.3) + 0.5 * ((i + 1) % 3 - 1))
        self.time_mix_key.copy_((i / self.dim) ** down)
        self.time_mix_value.copy_((i / self.dim) ** down + 0.3 * up)
        self.time_mix_receptance.copy_((i / self.dim) ** (0.5 * down))

    def initial_state(self, batch: int) -> RWKVState:
        weight = self.key.weight
        zero = weight.new_zeros(batch, self.dim, dtype=state_dtype(weight))
        return RWKVState(zero, zero.clone(), torch.full_like(zero, LOG_ZERO))

    def extend(self, x: Tensor, state: RWKVState) -> tuple[Tensor, RWKVState]:
        before = torch.cat([state.previous[:, None].to(x.dtype), x[:, :-1]], 1)
        mixes = (self.time_mix_key, self.time_mix_value, self.time_mix_receptance)
        mixed = (torch.lerp(before, x, mix.to(x.dtype)) for mix in mixes)
        k, v, r = (proj(y) for proj, y in zip((self.key, self.value, self.receptance), mixed, strict=True))
        dtype = state.mean.dtype
        past = WKVState(state.mean, state.log_weight)
        mean, past = wkv(k, v, self.time_decay.to(dtype), self.time_first.to(dtype), past)
        return self.output(r.sigmoid() * mean.to(r.dtype)), RWKVState(x[:, -1].to(dtype), *past)
