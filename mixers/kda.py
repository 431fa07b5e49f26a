"""Kimi Delta Attention: a delta rule in which each key channel fades at its own pace (arXiv:2510.26692)."""

import torch
from torch import Tensor, nn

from mixers.checks import UsageError
from mixers.parts.decay_step import bounded_step_decay, initial_a_log, initial_dt_bias, step_decay
from mixers.parts.delta_mixer import DeltaMixer
from mixers.parts.linear import Linear
from mixers.registry import register


@register("kda")
class KDA(DeltaMixer):
    """Kimi Delta Attention, S_t = (I - β k kᵀ) Diag(e^g) S_{t-1} + β k vᵀ and o_t = S_tᵀ q (arXiv:2510.26692, Eq. 1).

    The decay g = -exp(A_log) softplus(W_f x + dt_bias) is of each token, head and key channel, A_log of each head;
    the strength β = σ(W_b x) is of each token and head. The output is normalised within each head and gated by
    σ(W_g x). W_f and W_g have the rank of a head's width.

    Parameters have the names of flash-linear-attention's layer, whose weights load by name.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads. None takes as many as make keys dim wide together.
        head_dim: Width of a head's keys. None takes dim / 4, at most 128, as in the paper.
        expand_v: Width of a head's values, in units of head_dim.
        decay_bound: None, or a number below 0 that g never falls below: then g = bound · σ(exp(A_log) (W_f x +
            dt_bias)), usually with -5, which some later models have, and A_log starts at 0.
        gate_bias: Whether W_g has a bias, as in flash-linear-attention; the weights of Kimi Linear have none.
        allow_neg_eigval: Whether β goes up to 2, so that a state may be reflected.
        conv_size: Taps of the convolutions before q, k and v; 0 leaves them out.
        norm_eps: Added to the mean square in the output's norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        expand_v: float = 1.0,
        decay_bound: float | None = None,
        gate_bias: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        norm_eps: float = 1e-5,
        chunk_size: int = 64,
    ):
        head_dim = min(128, max(1, dim // 4)) if head_dim is None else head_dim
        num_heads = max(1, round(dim / max(1, head_dim))) if num_heads is None else num_heads
        super().__init__(
            dim,
            num_heads=num_heads,
            num_v_heads=num_heads,
            head_dim=head_dim,
            expand_v=expand_v,
            gate="sigmoid",
            conv_size=conv_size,
            allow_neg_eigval=allow_neg_eigval,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
        )
        if decay_bound is not None and not decay_bound < 0:
            raise UsageError(f"decay_bound={decay_bound} is too large: write a number below 0, or null.")
        self.decay_bound, keys, values = decay_bound, self.q_proj.out_features, self.o_proj.in_features
        self.b_proj = Linear(dim, num_heads, bias=False)
        self.f_proj = nn.Sequential(Linear(dim, self.head_v_dim, bias=False), Linear(self.head_v_dim, keys, bias=False))
        self.g_proj = nn.Sequential(
            Linear(dim, self.head_v_dim, bias=False), Linear(self.head_v_dim, values, bias=gate_bias)
        )
        self.A_log = nn.Parameter(initial_a_log(num_heads) if decay_bound is None else torch.zeros(num_heads))
        self.dt_bias = nn.Parameter(initial_dt_bias(keys))

    def log_decay(self, x: Tensor) -> Tensor:
        u, a_log = self.f_proj(x).unflatten(-1, (-1, self.head_dim)), self.A_log[:, None]
        dt_bias = self.dt_bias.view(-1, self.head_dim)
        if self.decay_bound is None:
            return step_decay(u, a_log, dt_bias)
        return bounded_step_decay(u, a_log, dt_bias, self.decay_bound)

    def strengths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.strength(self.b_proj(x))
        return beta, beta

    def gate(self, x: Tensor) -> Tensor:
        gate: Tensor = self.g_proj(x)
        return gate
