"""Mamba-2: linear attention whose heads fade by a learned, input-dependent step and share keys (arXiv:2405.21060)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import UsageError, above, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.decay import decayed_linear_attention
from mixers.ops.norm_after_gate import norm_after_gate
from mixers.parts.decay_step import initial_a_log, initial_dt_bias, precise
from mixers.parts.linear import Linear
from mixers.parts.short_conv import ShortConv
from mixers.registry import register

# Axes: b batch, t time, h head, p head width, g group of heads, n state width.


class Mamba2State(NamedTuple):
    conv: Tensor  # (b, conv_size - 1, h p + 2 g n): the last inputs of the convolution
    ssm: Tensor  # (b, h, n, p): the decayed sum of outer products


@register("mamba2")
class Mamba2(RecurrentMixer[Mamba2State]):
    """Mamba-2's block, a state space with one decay a head, by the duality of arXiv:2405.21060, section 7.

    From [z x B C dt] = W_in u, a short convolution with swish over [x B C] and Δ = softplus(dt + dt_bias), a head has
    the state h_t = exp(-exp(A_log) Δ_t) h_{t-1} + B_t (Δ_t x_t)ᵀ and the output y_t = h_tᵀ C_t + D x_t; the block's is
    W_out RMSNorm(y ⊙ swish(z)), normalised in as many groups of channels as there are of heads. So B are keys and C
    queries of linear attention, which all heads of a group share, and Δ x its values.

    Weights of transformers' `Mamba2Mixer` load by name and give its output. Where this differs from its code and the
    authors': steps of one token are clamped to `time_step_limit`, too, as longer ones are.

    Args:
        dim: Width of the input and of the output.
        state_size: Width of the keys and queries, N. None is 128, or dim where that is less.
        head_dim: Width of a head's values, P, so that there are expand · dim / head_dim heads: 32 at width 1024, 4 at
            width 128. Where that is less than one, one head.
        expand: Width of all values together, in units of dim.
        n_groups: Groups of heads, each with keys and queries of its own.
        conv_size: Taps of the short convolution; 1 is none but its weight and bias.
        time_step_min: Smallest softplus(dt_bias) at the start, where they are log-uniform.
        time_step_max: Largest.
        time_step_limit: Least and largest step Δ, to which it is clamped; None for any.
        norm_eps: Added to the mean square in the norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: head_dim does not divide expand · dim, or n_groups not the heads, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        state_size: int | None = None,
        head_dim: int = 64,
        expand: float = 2.0,
        n_groups: int = 1,
        conv_size: int = 4,
        time_step_min: float = 0.001,
        time_step_max: float = 0.1,
        time_step_limit: tuple[float, float] | None = None,
        norm_eps: float = 1e-5,
        chunk_size: int = 64,
    ):
        super().__init__(dim)
        state_size = min(128, dim) if state_size is None else state_size
        at_least(1, state_size=state_size, head_dim=head_dim, n_groups=n_groups)
        at_least(1, conv_size=conv_size, chunk_size=chunk_size)
        above(0, expand=expand, time_step_min=time_step_min, norm_eps=norm_eps)
        at_least(time_step_min, time_step_max=time_step_max)
        if time_step_limit is not None:
            least, most = time_step_limit
            if not 0 <= least <= most:
                raise UsageError(f"time_step_limit={time_step_limit} is no range: write [0.001, 0.1], for example.")
        width = round(dim * expand)
        head_dim = min(head_dim, width)
        if width < 1 or width % head_dim:
            raise UsageError(f"head_dim={head_dim} does not divide the width of all values, expand · dim = {width}.")
        heads = width // head_dim
        if heads % n_groups:
            raise UsageError(f"n_groups={n_groups} does not divide the {heads} heads, expand · dim / head_dim.")
        self.width, self.heads, self.groups, self.state_size = width, heads, n_groups, state_size
        self.limit, self.chunk_size = time_step_limit, chunk_size
        channels = width + 2 * n_groups * state_size
        self.in_proj = Linear(dim, width + channels + heads, bias=False)
        self.conv1d = ShortConv(channels, width=conv_size)
        self.dt_bias = nn.Parameter(initial_dt_bias(heads, time_step_min, time_step_max))
        self.A_log = nn.Parameter(initial_a_log(heads))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedGroupNorm(width, n_groups, norm_eps)
        self.out_proj = Linear(width, dim, bias=False)

    def initial_state(self, batch: int) -> Mamba2State:
        weight, shape = self.A_log, (batch, self.heads, self.state_size, self.width // self.heads)
        return Mamba2State(self.conv1d.initial_state(batch), weight.new_zeros(shape, dtype=state_dtype(weight)))

    def _mix(self, x: Tensor, state: Mamba2State | None) -> tuple[Tensor, Mamba2State]:
        before = self.conv1d.initial_state(len(x)) if state is None else state.conv
        widths = self.width, self.conv1d.weight.shape[0], self.heads
        z, inputs, dt = self.in_proj(x).split(widths, -1)
        inputs, before = self.conv1d.extend(inputs, before)
        v, keys, queries = F.silu(inputs).split([self.width, *[self.groups * self.state_size] * 2], -1)
        step = F.softplus(precise(dt) + precise(self.dt_bias))
        if self.limit is not None:
            step = step.clamp(*self.limit)
        v = v.unflatten(-1, (self.heads, -1))
        keys, queries = (y.unflatten(-1, (self.groups, -1)) for y in (keys, queries))
        log_decay = -precise(self.A_log).exp() * step
        values = v * step[..., None].to(v.dtype)
        past = None if state is None else state.ssm
        y, past = decayed_linear_attention(queries, keys, values, log_decay, past, self.chunk_size)
        y = torch.addcmul(y, v, self.D[:, None].to(v.dtype))
        return self.out_proj(self.norm(y.flatten(2), z)), Mamba2State(before, past)


class GatedGroupNorm(nn.Module):
    """w ⊙ n / √(mean(n²) + eps) of n = y ⊙ swish(z), the mean over a group of channels: gate first, norm second."""

    def __init__(self, width: int, groups: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups, self.eps = groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Of (b, t, width)."""
        groups = (self.groups, -1)
        return norm_after_gate(
            y.unflatten(-1, groups), z.unflatten(-1, groups), self.weight.view(groups), self.eps
        ).flatten(-2)
