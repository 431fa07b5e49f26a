"""LFM2's gated short convolution: each token sees the last few, gated before and after."""

from typing import NamedTuple

from torch import Tensor

from mixers.checks import at_least
from mixers.mixer import RecurrentMixer
from mixers.parts.linear import Linear
from mixers.parts.short_conv import ShortConv
from mixers.registry import register

# Axes: b batch, t time, d channels, w taps.


class GatedConvState(NamedTuple):
    past: Tensor  # (b, w - 1, d): the inputs B ⊙ x̃ of the convolution's earlier taps


@register("gated_conv")
class GatedConv(RecurrentMixer[GatedConvState]):
    """y = W_out (C ⊙ conv(B ⊙ x̃)), where (B, C, x̃) = W_in x and the convolution is causal and depthwise.

    It mixes no further than width - 1 tokens back, so a model needs other blocks beside it: LFM2 (arXiv:2511.23404) has
    10 of these to 6 of attention. Both gates are linear, without activation.

    Weights of transformers' `Lfm2ShortConv` load by name.

    Args:
        dim: Width of the input and of the output.
        width: Tokens that the convolution sees, the present one included. LFM2 has 3.
        bias: Whether the projections and the convolution have biases. LFM2 has none.

    Raises:
        ValueError: width is below 1.
    """

    def __init__(self, dim: int, *, width: int = 3, bias: bool = False):
        super().__init__(dim)
        at_least(1, width=width)
        self.in_proj = Linear(dim, 3 * dim, bias=bias)
        self.conv = ShortConv(dim, width=width, bias=bias)
        self.out_proj = Linear(dim, dim, bias=bias)

    def initial_state(self, batch: int) -> GatedConvState:
        return GatedConvState(self.conv.initial_state(batch))

    def _mix(self, x: Tensor, state: GatedConvState | None) -> tuple[Tensor, GatedConvState]:
        before, after, inner = self.in_proj(x).chunk(3, -1)
        past = self.conv.initial_state(len(x)) if state is None else state.past
        y, past = self.conv.extend(before * inner, past)
        return self.out_proj(after * y), GatedConvState(past)
