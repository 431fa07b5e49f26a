"""Gated DeltaNet-2: a delta rule that erases and writes each channel by its own strength."""

from torch import Tensor

from mixers.kda import KDA
from mixers.parts.linear import Linear
from mixers.registry import register


@register("gdn2")
class GDN2(KDA):
    """Gated DeltaNet-2, S ← Diag(e^g) S, S ← S + k (w ∘ v - Sᵀ(b ∘ k))ᵀ and o = Sᵀ q (arXiv:2605.22791).

    It is Kimi Delta Attention with strengths of erasing, b = σ(W_b x), of each key channel, and of writing,
    w = σ(W_w x), of each value channel, instead of one β. It has
    6.5 dim² parameters at width 1024, those named as in flash-linear-attention's layer, whose weights load by name and
    whose gate, a sigmoid, it has; the authors' own code gates by silu.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads. None takes as many as make keys dim wide together.
        head_dim: Width of a head's keys. None takes dim / 4, at most 128.
        expand_v: Width of a head's values, in units of head_dim.
        decay_bound: None, or a number below 0 that g never falls below, as in `KDA`.
        gate_bias: Whether W_g has a bias, as in flash-linear-attention.
        allow_neg_eigval: Whether b goes up to 2, so that a state may be reflected.
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
        super().__init__(
            dim,
            num_heads=num_heads,
            head_dim=head_dim,
            expand_v=expand_v,
            decay_bound=decay_bound,
            gate_bias=gate_bias,
            allow_neg_eigval=allow_neg_eigval,
            conv_size=conv_size,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
        )
        self.b_proj = Linear(dim, self.q_proj.out_features, bias=False)
        self.w_proj = Linear(dim, self.v_proj.out_features, bias=False)

    def strengths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        erase, write = self.strength(self.b_proj(x)), self.strength(self.w_proj(x), erases=False)
        return erase.unflatten(-1, (-1, self.head_dim)), write.unflatten(-1, (-1, self.head_v_dim))
