"""DeltaNet: a linear attention that corrects what it holds before it writes (arXiv:2406.06484)."""

from mixers.checks import UsageError, at_least
from mixers.gated_deltanet import GatedDeltaNet
from mixers.parts.output_norm import GateKind
from mixers.registry import register


@register("deltanet")
class DeltaNet(GatedDeltaNet):
    """DeltaNet, S_t = (I - β k kᵀ) S_{t-1} + β k vᵀ and o_t = S_tᵀ q (arXiv:2406.06484, section 2.2).

    It is `GatedDeltaNet` without decay, and with the sizes of its own paper, 4 dim² parameters. Parameters have the
    names of flash-linear-attention's layer, whose weights load by name.

    Args:
        dim: Width of the input and of the output.
        num_heads: Number of heads; keys are dim / num_heads wide.
        expand_v: Width of a head's values, in units of its keys'.
        gate: `silu` or `sigmoid` of W_g x times the normalised output; `none`, as in the paper, leaves the gate out.
        allow_neg_eigval: Whether β goes up to 2, so that a state may be reflected.
        conv_size: Taps of the convolutions before q, k and v; 0 leaves them out.
        norm_eps: Added to the mean square in the output's norm.
        chunk_size: Tokens mixed in parallel before the state is carried on. Changes speed and memory, not the result.

    Raises:
        ValueError: num_heads does not divide dim, or an option is out of range.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        expand_v: float = 1.0,
        gate: GateKind = "none",
        allow_neg_eigval: bool = False,
        conv_size: int = 4,
        norm_eps: float = 1e-5,
        chunk_size: int = 64,
    ):
        at_least(1, num_heads=num_heads)
        if dim % num_heads:
            raise UsageError(f"num_heads={num_heads} does not divide dim={dim}: write a number that does.")
        super().__init__(
            dim,
            num_heads=num_heads,
            head_dim=dim // num_heads,
            expand_v=expand_v,
            gate=gate,
            decay=False,
            allow_neg_eigval=allow_neg_eigval,
            conv_size=conv_size,
            norm_eps=norm_eps,
            chunk_size=chunk_size,
        )
