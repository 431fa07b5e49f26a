"""Based's linear attention: a Taylor series in place of the softmax's exponential (arXiv:2402.18668)."""

from typing import NamedTuple

from torch import Tensor

from mixers.checks import UsageError, at_least
from mixers.mixer import RecurrentMixer, state_dtype
from mixers.ops.taylor import feature_count, taylor_attention
from mixers.parts.linear import Linear
from mixers.registry import register

# Axes: b batch, h head, v value width, f features of a key.

HEAD_DIM = 64  # of values, where the number of heads is not given


class BasedState(NamedTuple):
    kv: Tensor  # (b, h, f, v + 1): Σ φ(k_m) (v_m, 1)ᵀ


@register("based")
class Based(RecurrentMixer[BasedState]):
    """Linear attention whose weights 1 + s + s²/2, s = q·k/√feature_dim, begin the series of e^s (arXiv:2402.18668).

    Queries and keys are narrow, since their features are about feature_dim²/2; there are no positions. In its paper a
    few blocks of this go with a few of attention within a small window, `attention` with `window=64`, and many of
    gated short convolutions, `gated_conv`: a pattern of blocks, which is the model's.

    Where this differs from the authors' code: products x_i x_j and x_j x_i are remembered once, which is the same
    function with 153 instead of 273 features; the divisor, which is at least 1/2, has nothing added to it.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads; values are dim / num_heads wide. None takes dim / 64, the paper's 16 at width 1024,
            or the next lower number that divides dim.
        feature_dim: Width of queries and keys of a head. The paper has 16.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide dim, or an option is out of range.
    """

    changeable_options = frozenset({"chunk_size"})

    def __init__(self, dim: int, *, num_heads: int | None = None, feature_dim: int = 16, chunk_size: int = 128):
        super().__init__(dim)
        if num_heads is None:
            num_heads = next(n for n in range(max(1, dim // HEAD_DIM), 0, -1) if dim % n == 0)
        at_least(1, num_heads=num_heads, feature_dim=feature_dim, chunk_size=chunk_size)
        if dim % num_heads:
            raise UsageError(f"num_heads={num_heads} does not divide dim={dim}.")
        self.num_heads, self.feature_dim, self.chunk_size = num_heads, feature_dim, chunk_size
        self.q_proj = Linear(dim, num_heads * feature_dim, bias=False)
        self.k_proj = Linear(dim, num_heads * feature_dim, bias=False)
        self.v_proj = Linear(dim, dim, bias=False)
        self.o_proj = Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> BasedState:
        weight, h = self.o_proj.weight, self.num_heads
        shape = batch, h, feature_count(self.feature_dim), self.dim // h + 1
        return BasedState(weight.new_zeros(shape, dtype=state_dtype(weight)))

    def _mix(self, x: Tensor, state: BasedState | None) -> tuple[Tensor, BasedState]:
        q, k, v = (proj(x).unflatten(-1, (self.num_heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        y, kv = taylor_attention(q, k, v, None if state is None else state.kv, self.chunk_size)
        return self.o_proj(y.flatten(2)), BasedState(kv)
