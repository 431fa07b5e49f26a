"""Gated linear attention: each key channel fades as the input says (arXiv:2312.06635)."""

from typing import NamedTuple

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


class GLAState(NamedTuple):
    kv: Tensor  # (b, h, k, v): the decayed sum of outer products


@register("gla")
class GLA(RecurrentMixer[GLAState]):
    """Gated linear attention, y = W_o (swish(W_g x) ⊙ RMSNorm_h(o)) (arXiv:2312.06635, section 4.4).

    A head has S_n = Diag(α_n) S_{n-1} + k_n v_nᵀ and o_n = S_nᵀ q_n / √k; the decays of its key channels are
    α = σ(W_2 W_1 x + b)^{1/τ} through a low rank. Its output is normalised alone. There is neither a convolution nor an
    activation of q, k and v.

    Weights of fla's `GatedLinearAttention` load by name.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads, at any width; keys are expand_k · dim / num_heads wide: 128 at width 1024, 16 at
            128.
        expand_k: Width of all keys together, in units of dim.
        expand_v: Width of all values together, in units of dim.
        gate_rank: Rank of the projection that gives the decays.
        gate_normalizer: τ, so that decays are near one at the start.
        norm_eps: Added to the mean square in the norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide keys and values into heads, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        gate_rank: int = 16,
        gate_normalizer: float = 16.0,
        norm_eps: float = 1e-5,
        chunk_size: int = 64,
    ):
        super().__init__(dim)
        at_least(1, num_heads=num_heads, gate_rank=gate_rank, chunk_size=chunk_size)
        above(0, expand_k=expand_k, expand_v=expand_v, gate_normalizer=gate_normalizer, norm_eps=norm_eps)
        keys, values = round(dim * expand_k), round(dim * expand_v)
        for name, factor, width in (("expand_k", expand_k, keys), ("expand_v", expand_v, values)):
            if width < 1 or width % num_heads:
                what = "keys" if name == "expand_k" else "values"
                raise UsageError(f"{name}={factor} makes {what} {width} wide, no multiple of num_heads={num_heads}.")
        self.num_heads, self.gate_normalizer, self.chunk_size = num_heads, gate_normalizer, chunk_size
        self.q_proj = Linear(dim, keys, bias=False)
        self.k_proj = Linear(dim, keys, bias=False)
        self.v_proj = Linear(dim, values, bias=False)
        self.g_proj = Linear(dim, values, bias=False)
        self.gk_proj = nn.Sequential(Linear(dim, gate_rank, bias=False), Linear(gate_rank, keys))
        self.g_norm_swish_gate = OutputNorm(values // num_heads, eps=norm_eps)
        self.o_proj = Linear(values, dim, bias=False)

    def initial_state(self, batch: int) -> GLAState:
        weight, h = self.q_proj.weight, self.num_heads
        widths = len(weight) // h, len(self.v_proj.weight) // h
        return GLAState(weight.new_zeros(batch, h, *widths, dtype=state_dtype(weight)))

    def _mix(self, x: Tensor, state: GLAState | None) -> tuple[Tensor, GLAState]:
        projections = self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.gk_proj
        q, k, v, gate, decay = (proj(x).unflatten(-1, (self.num_heads, -1)) for proj in projections)
        log_decay = F.logsigmoid(precise(decay)) / self.gate_normalizer
        past = None if state is None else state.kv
        o, past = decayed_linear_attention(q * q.shape[-1] ** -0.5, k, v, log_decay, past, self.chunk_size)
        return self.o_proj(self.g_norm_swish_gate(o, gate).flatten(2)), GLAState(past)
