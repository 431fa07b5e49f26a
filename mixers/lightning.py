"""Lightning attention: linear attention with a fixed decay for each head, of MiniMax-01 (arXiv:2501.08313)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.checks import UsageError, above, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.decay import decayed_linear_attention
from mixers.parts.linear import Linear
from mixers.parts.output_norm import OutputNorm
from mixers.registry import register

# Axes: b batch, t time, h head, k key width, v value width.


class LightningState(NamedTuple):
    kv: Tensor  # (b, h, k, v): the decayed sum of outer products


@register("lightning")
class Lightning(RecurrentMixer[LightningState]):
    """Lightning attention, y = W_out (σ(W_gate x) ⊙ RMSNorm(o)), as in MiniMax-Text-01 (arXiv:2501.08313).

    A head has S_n = e^{-s} S_{n-1} + k_n v_nᵀ and o_n = S_nᵀ q_n, where q, k and v are swish(W_qkv x), with neither
    scale nor positions; the norm is over all heads together. Head h of H in layer l of L, both from 0, has the rate
    s = 2^{-8 (h+1)/H} (1 - l/(L - 1 + ε) + ε), ε = 1e-5, so that the last layer hardly forgets. The model tells l and L
    by `init_weights`; built alone, it is a first layer.

    Weights of transformers' `MiniMaxLightningAttention` load by name and give its output, once `init_weights` has told
    l and L.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads, each dim / num_heads wide. None is one for each 128 channels, as theirs, and at
            least 4, since heads differ in their decays: 8 at width 1024, 4 at 512 and below.
        norm_eps: Added to the mean square in the norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(self, dim: int, *, num_heads: int | None = None, norm_eps: float = 1e-6, chunk_size: int = 128):
        super().__init__(dim)
        self.num_heads = max(4, dim // 128) if num_heads is None else num_heads
        at_least(1, num_heads=self.num_heads, chunk_size=chunk_size)
        above(0, norm_eps=norm_eps)
        if dim % self.num_heads:
            near = min((n for n in range(1, dim + 1) if dim % n == 0), key=lambda n: abs(n - self.num_heads))
            raise UsageError(f"num_heads={self.num_heads} does not divide dim={dim}; try num_heads={near}.")
        self.chunk_size = chunk_size
        self.layer, self.depth = 0, 1
        self.qkv_proj = Linear(dim, 3 * dim, bias=False)
        self.output_gate = Linear(dim, dim, bias=False)
        self.norm = OutputNorm(dim, gate="sigmoid", eps=norm_eps)
        self.out_proj = Linear(dim, dim, bias=False)

    def init_weights(self, layer: int, depth: int) -> None:
        """Sets the decays of this layer; the weights stay as they are."""
        self.layer, self.depth = layer, depth

    def initial_state(self, batch: int) -> LightningState:
        weight, width = self.out_proj.weight, self.dim // self.num_heads
        return LightningState(weight.new_zeros(batch, self.num_heads, width, width, dtype=state_dtype(weight)))

    def _mix(self, x: Tensor, state: LightningState | None) -> tuple[Tensor, LightningState]:
        q, k, v = F.silu(self.qkv_proj(x)).unflatten(-1, (self.num_heads, -1)).chunk(3, -1)
        log_decay = self.log_decay(state_dtype(self.out_proj.weight), x.device)
        past = None if state is None else state.kv
        o, past = decayed_linear_attention(q, k, v, log_decay, past, self.chunk_size)
        y = self.norm(o.flatten(2)[:, :, None], self.output_gate(x)[:, :, None])  # as if of a single head
        return self.out_proj(y.squeeze(2)), LightningState(past)

    def log_decay(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """-s of each head, (h,). Made anew each time, since a buffer would follow the weights into bfloat16."""
        h = torch.arange(1, self.num_heads + 1, dtype=dtype, device=device)
        return -torch.exp2(-8 * h / self.num_heads) * (1 - self.layer / (self.depth - 1 + 1e-5) + 1e-5)
