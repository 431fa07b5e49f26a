"""HGRN2: a gated recurrence whose state is expanded by outer products, with tied key and decay (arXiv:2404.07904)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import UsageError, above, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.decay import decayed_linear_attention
from mixers.parts.decay_step import precise
from mixers.parts.linear import Linear
from mixers.parts.output_norm import OutputNorm
from mixers.registry import register

# Axes: b batch, t time, h head, k key width, v value width.


class HGRN2State(NamedTuple):
    kv: Tensor  # (b, h, k, v): the decayed sum of outer products


@register("hgrn2")
class HGRN2(RecurrentMixer[HGRN2State]):
    """HGRN2, y = W_o RMSNorm(o), with the norm over all heads together (arXiv:2404.07904, section 3.2).

    A head has S_n = Diag(f_n) S_{n-1} + (1 - f_n) v_nᵀ and o_n = S_nᵀ q_n / √k, where v = W_i x and q = swish(W_q x):
    what a channel forgets makes room for what it learns. Its forget gate is f = γ + (1 - γ) σ(W_f x), with a learned
    lower bound γ that is l/L at the start, for layer l of L, so that upper layers remember for longer. The model tells
    l and L by `init_weights`; built alone, γ is ½.

    Weights of fla's `HGRN2Attention` load by name. Where this differs from its model: each layer learns the logits of
    its own γ, (d,), where theirs is a cumulative sum over the layers of one weight of the model; it starts at the
    same values but for the first layer, where theirs is fixed at zero and this one begins at 1e-6.

    Args:
        dim: Width of the input and of the output.
        head_dim: Width of a head's keys and values, by which the state is expanded, so that there are dim / head_dim
            heads: 8 at width 1024. Up to a width of head_dim there is one head.
        norm_eps: Added to the mean square in the norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: head_dim does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(self, dim: int, *, head_dim: int = 128, norm_eps: float = 1e-5, chunk_size: int = 64):
        super().__init__(dim)
        at_least(1, head_dim=head_dim, chunk_size=chunk_size)
        above(0, norm_eps=norm_eps)
        head_dim = min(head_dim, dim)
        if dim % head_dim:
            near = min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: abs(n - head_dim))
            raise UsageError(f"head_dim={head_dim} does not divide dim={dim}; try head_dim={near}.")
        self.head_dim, self.chunk_size = head_dim, chunk_size
        self.q_proj = Linear(dim, dim, bias=False)
        self.f_proj = Linear(dim, dim, bias=False)
        self.i_proj = Linear(dim, dim, bias=False)
        self.lower_bound = nn.Parameter(torch.zeros(dim))
        self.g_norm = OutputNorm(dim, eps=norm_eps)
        self.o_proj = Linear(dim, dim, bias=False)

    @torch.no_grad()
    def init_weights(self, layer: int, depth: int) -> None:
        self.lower_bound.copy_(torch.full_like(self.lower_bound, layer / depth).logit(1e-6))

    def initial_state(self, batch: int) -> HGRN2State:
        weight, width = self.q_proj.weight, self.head_dim
        return HGRN2State(weight.new_zeros(batch, self.dim // width, width, width, dtype=state_dtype(weight)))

    def _mix(self, x: Tensor, state: HGRN2State | None) -> tuple[Tensor, HGRN2State]:
        q, v, f = (proj(x) for proj in (self.q_proj, self.i_proj, self.f_proj))
        log_decay, bound = F.logsigmoid(precise(f)), precise(self.lower_bound)
        log_decay = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_decay)
        k = -torch.expm1(log_decay).to(v.dtype)
        q = F.silu(q) * self.head_dim**-0.5
        heads = [y.unflatten(-1, (-1, self.head_dim)) for y in (q, k, v, log_decay)]
        past = None if state is None else state.kv
        o, past = decayed_linear_attention(*heads, past, self.chunk_size)
        y = self.g_norm(o.flatten(2)[:, :, None])  # as if of a single head
        return self.o_proj(y.squeeze(2)), HGRN2State(past)
