"""Gated DeltaNet: a fading memory that corrects what it holds before it writes (arXiv:2412.06464)."""

from torch import Tensor, nn

from mixers.mixer import state_dtype
from mixers.parts.decay_step import initial_a_log, initial_dt_bias, step_decay
from mixers.parts.delta_mixer import DeltaMixer
from mixers.parts.linear import Linear
from mixers.parts.output_norm import GateKind
from mixers.registry import register


@register("gated_deltanet")
class GatedDeltaNet(DeltaMixer):
    """Gated DeltaNet, S_t = e^g (I - β k kᵀ) S_{t-1} + β k vᵀ and o_t = S_tᵀ q (arXiv:2412.06464, Eq. 10).

    The decay g = -exp(A_log) softplus(W_a x + dt_bias) and the strength β = σ(W_b x) are of each token and value head,
    q and k have length one, and the output passes a norm of each head, then a gate (Figure 1).

    Parameters have the names of flash-linear-attention's layer, whose weights load by name, as OLMo Hybrid's do where
    its one convolution is split into three.

    Where this differs from the paper's code: A starts between 0.01 and 16 instead of 0, since ln 0 is not finite; there
    are no biases and no unused D; matrices start as torch initialises them, as in flash-linear-attention.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads of queries and keys. None takes as many as make keys 3/4 dim wide together, which
            with the other defaults gives 6 dim² parameters.
        head_dim: Width of a head's keys. None takes dim / 4, at most 128.
        expand_v: Width of a head's values, in units of head_dim.
        num_v_heads: Number of heads of values, a multiple of num_heads, whose heads then serve several each. None
            takes num_heads.
        gate: `silu` or `sigmoid` of W_g x times the normalised output; `none` leaves the gate out.
        decay: Without it g = 0, which is DeltaNet.
        allow_neg_eigval: Whether β goes up to 2, so that a state may be reflected, which counting modulo 2 takes
            (arXiv:2411.12537).
        conv_size: Taps of the convolutions before q, k and v; 0 leaves them out.
        steps: Delta rules with own keys, values and β that each token takes one after the other, of which the first
            decays; above 1 this is Gated DeltaProduct (arXiv:2502.10297).
        norm_eps: Added to the mean square in the output's norm. Qwen3-Next has 1e-6.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: an option is out of range, or num_v_heads no multiple of num_heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        head_dim: int | None = None,
        expand_v: float = 2.0,
        num_v_heads: int | None = None,
        gate: GateKind = "silu",
        decay: bool = True,
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        steps: int = 1,
        norm_eps: float = 1e-5,
        chunk_size: int = 64,
    ):
        head_dim = min(128, max(1, dim // 4)) if head_dim is None else head_dim
        num_heads = max(1, round(0.75 * dim / max(1, head_dim))) if num_heads is None else num_heads
        super().__init__(
            dim,
            num_heads=num_heads,
            num_v_heads=num_heads if num_v_heads is None else num_v_heads,
            head_dim=head_dim,
            expand_v=expand_v,
            gate=gate,
            conv_size=conv_size,
            allow_neg_eigval=allow_neg_eigval,
            steps=steps,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
        )
        self.decay = decay
        self.b_proj = Linear(dim, steps * self.num_v_heads, bias=False)
        if decay:
            self.a_proj = Linear(dim, self.num_v_heads, bias=False)
            self.A_log = nn.Parameter(initial_a_log(self.num_v_heads, 0.01))
            self.dt_bias = nn.Parameter(initial_dt_bias(self.num_v_heads))
        self.g_proj = None if gate == "none" else Linear(dim, self.o_proj.in_features, bias=False)

    def log_decay(self, x: Tensor) -> Tensor:
        if not self.decay:
            return x.new_zeros(*x.shape[:2], self.num_v_heads, dtype=state_dtype(x))
        return step_decay(self.a_proj(x), self.A_log, self.dt_bias)

    def strengths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        beta = self.strength(self.b_proj(x))
        return beta, beta

    def gate(self, x: Tensor) -> Tensor | None:
        return None if self.g_proj is None else self.g_proj(x)
