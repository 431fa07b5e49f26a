"""A causal convolution with long filters: `y = long_conv(u, h, past)`."""

from torch import Tensor

from mixers.ops.long_conv import blocked, fourier
from mixers.ops.long_conv.blocked import added_after
from mixers.ops.long_conv.reference import examples, reference
from mixers.ops.op import Implementation, Op

__all__ = ["added_after", "long_conv"]

long_conv: Op[Tensor] = Op(
    reference,
    [
        Implementation("blocked", blocked.blocked, blocked.unsupported_reason),
        Implementation("fourier", fourier.fourier, fourier.unsupported_reason),
    ],
    examples,
)
