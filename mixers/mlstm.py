"""mLSTM: the LSTM whose memory is a matrix, with exponential input gates (arXiv:2405.04517, 2503.13427)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.checks import UsageError, above, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.mlstm import MLSTMState, mlstm
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, t time, h head, k key width, v value width.

GATE_CAP = 15.0  # of the gates' logarithms, as published


@register("mlstm")
class MLSTM(RecurrentMixer[MLSTMState]):
    """y = W_out (σ(W_o x) ⊙ LN_h(h)), where queries read h from a gated sum of outer products (see `mixers.ops.mlstm`).

    With cap(u) = 15 tanh(u / 15), of each head the input gate is exp(cap(W_i x + b_i)), the forget gate
    σ(cap(W_f x + b_f)), and its output is normalised alone. This is the mixer of xLSTM-7B (arXiv:2503.13427);
    the first paper's, between an up- and a down-projection, is not here.

    Gates do not depend on the input at the start: b_i = -10, and b_f from 3 to 6 over the heads. Other weights are
    normal with standard deviation √(2/(5 dim)), the output's with 2/(depth √dim).

    Weights of transformers' `xLSTMLayer` load by name, where its config says weight_mode="single".

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads. xLSTM-7B has 8 at width 4096, with keys of 256 and values of 512.
        expand_k: Width of all keys together, in units of dim.
        expand_v: Width of all values together, in units of dim.
        norm_eps: Added to the variance in that norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide the width of keys or values, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        norm_eps: float = 1e-6,
        chunk_size: int = 128,
    ):
        super().__init__(dim)
        at_least(1, num_heads=num_heads, chunk_size=chunk_size)
        above(0, norm_eps=norm_eps, expand_k=expand_k, expand_v=expand_v)
        key_dim, value_dim = round(dim * expand_k), round(dim * expand_v)
        for name, expand, width in (("expand_k", expand_k, key_dim), ("expand_v", expand_v, value_dim)):
            if width < 1 or width % num_heads:
                raise UsageError(f"{name}={expand} makes a width of {width}, no multiple of num_heads={num_heads}.")
        self.num_heads, self.chunk_size = num_heads, chunk_size
        self.q = Linear(dim, key_dim, bias=False)
        self.k = Linear(dim, key_dim, bias=False)
        self.v = Linear(dim, value_dim, bias=False)
        self.ogate_preact = Linear(dim, value_dim, bias=False)
        self.igate_preact = Linear(dim, num_heads)
        self.fgate_preact = Linear(dim, num_heads)
        self.multihead_norm = _HeadNorm(value_dim, norm_eps)
        self.out_proj = Linear(value_dim, dim, bias=False)
        for projection in (self.q, self.k, self.v, self.ogate_preact, self.out_proj):
            nn.init.normal_(projection.weight, std=(2 / (5 * dim)) ** 0.5)
        for gate, bias in (
            (self.igate_preact, torch.full((num_heads,), -10.0)),
            (self.fgate_preact, _spread(num_heads)),
        ):
            nn.init.zeros_(gate.weight)
            gate.bias = nn.Parameter(bias)

    def init_weights(self, layer: int, depth: int) -> None:
        nn.init.normal_(self.out_proj.weight, std=2 / (depth * self.dim**0.5))

    def initial_state(self, batch: int) -> MLSTMState:
        h, weight = self.num_heads, self.q.weight
        k, v = (weight.new_zeros(batch, 0, h, len(each.weight) // h) for each in (self.k, self.v))
        return MLSTMState.zero(k, v, state_dtype(weight))

    def _mix(self, x: Tensor, state: MLSTMState | None) -> tuple[Tensor, MLSTMState]:
        q, k, v = (projection(x).unflatten(-1, (self.num_heads, -1)) for projection in (self.q, self.k, self.v))
        dtype = state_dtype(self.q.weight)
        log_input, forget = (_capped(gate(x).to(dtype)) for gate in (self.igate_preact, self.fgate_preact))
        h, state = mlstm(q, k, v, log_input, F.logsigmoid(forget), state, self.chunk_size)
        return self.out_proj(self.ogate_preact(x).sigmoid() * self.multihead_norm(h)), state


class _HeadNorm(nn.Module):
    """Each head's values (b, t, h, v) less their mean, over their standard deviation, times a weight: (b, t, h v)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=self.eps).flatten(2) * self.weight


def _capped(x: Tensor) -> Tensor:
    return GATE_CAP * (x / GATE_CAP).tanh()


def _spread(num_heads: int) -> Tensor:
    return torch.linspace(3, 6, num_heads)
