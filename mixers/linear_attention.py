"""Linear attention: a kernel in place of the softmax, so that the past is a sum (arXiv:2006.16236)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.checks import UsageError, at_least, one_of
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.decay import DecayState, decayed_linear_attention_with_weights
from mixers.parts.linear import Linear
from mixers.parts.qkv_conv import ConvState, NoInputs, convolve, initial_inputs, short_convs
from mixers.parts.short_conv import ShortConv
from mixers.registry import register

# Axes: b batch, h head, t time, k key width, v value width.

EPSILON = 1e-6  # added to the denominator, as in the authors' code

FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: F.elu(x).add_(1),
    "relu": F.relu,
    "softmax": lambda x: x.softmax(-1),
}


class LinearAttentionState(NamedTuple):
    kv: Tensor  # (b, h, k, v): Σ φ(k_m)ᵀ v_m
    k: Tensor  # (b, h, k): Σ φ(k_m)
    conv: ConvState = NoInputs()  # the last inputs of the short convolutions, if there are any


@register("linear_attention")
class LinearAttention(RecurrentMixer[LinearAttentionState]):
    """Linear attention, o_n = φ(q_n)·Σ φ(k_m)ᵀ v_m / (φ(q_n)·Σ φ(k_m) + 1e-6), over m ≤ n (arXiv:2006.16236, Eq. 12).

    As in the paper there is no decay and nothing tells positions apart but the order in which they are summed.
    Its projections have no biases here, as those of the other mixers.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads; each is dim / num_heads wide.
        feature_map: φ, applied to queries and keys: `elu` is the paper's elu(x) + 1; `relu`; `softmax` is taken over
            the channels of a head.
        conv_size: Taps of the causal convolution, with SiLU after it, that queries, keys and values each pass once
            projected and before φ. Most mixers of today have 4; 0, the paper's, means none.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        feature_map: Literal["elu", "relu", "softmax"] = "elu",
        conv_size: int = 0,
        chunk_size: int = 128,
    ):
        super().__init__(dim)
        at_least(1, num_heads=num_heads, chunk_size=chunk_size)
        one_of(FEATURE_MAPS, feature_map=feature_map)
        if dim % num_heads:
            raise UsageError(f"num_heads={num_heads} does not divide dim={dim}.")
        self.num_heads, self.feature_map, self.chunk_size = num_heads, feature_map, chunk_size
        self.q_proj = Linear(dim, dim, bias=False)
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.out_proj = Linear(dim, dim, bias=False)
        self.q_conv1d, self.k_conv1d, self.v_conv1d = short_convs(conv_size, dim, dim, dim)

    def initial_state(self, batch: int) -> LinearAttentionState:
        weight, width = self.q_proj.weight, self.dim // self.num_heads
        kv = weight.new_zeros(batch, self.num_heads, width, width, dtype=state_dtype(weight))
        return LinearAttentionState(kv, kv[..., 0].clone(), initial_inputs(self._convs, batch))

    @property
    def _convs(self) -> list[ShortConv | None]:
        return [self.q_conv1d, self.k_conv1d, self.v_conv1d]

    def _mix(self, x: Tensor, state: LinearAttentionState | None) -> tuple[Tensor, LinearAttentionState]:
        projected = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        streams, conv = convolve(self._convs, projected, None if state is None else state.conv)
        q, k, v = (stream.unflatten(-1, (self.num_heads, -1)) for stream in streams)
        phi = FEATURE_MAPS[self.feature_map]
        no_decay = x.new_zeros(self.num_heads, dtype=state_dtype(self.q_proj.weight))
        q, k = phi(q), phi(k)
        epsilon: float | Tensor = EPSILON
        if q.dtype == torch.float16:  # sums over some thousand tokens would overflow, and the size of q divides out
            size = q.detach().sum(-1, dtype=no_decay.dtype).clamp(min=1e-3)
            q, epsilon = q * size.reciprocal()[..., None].to(q.dtype), EPSILON / size
        past = None if state is None else DecayState(state.kv, state.k)
        o, weight, past = decayed_linear_attention_with_weights(q, k, v, no_decay, past, self.chunk_size)
        y = o * (weight + epsilon).reciprocal()[..., None].to(o.dtype)
        return self.out_proj(y.flatten(2)), LinearAttentionState(*past, conv)
