"""A causal convolution with long filters: `y = long_conv(u, h, past)`."""

from torch import Tensor

from mixers.ops.long_conv import fourier
from mixers.ops.long_conv.fourier import added_after
from mixers.ops.long_conv.reference import examples, reference
from mixers.ops.op import Implementation, Op

__all__ = ["added_after", "long_conv"]

long_conv: Op[Tensor] = Op(
    reference,
    [
        Implementation("blocked", fourier.blocked, fourier.unless_rows_on_cpu),
        Implementation("fourier", fourier.fourier, fourier.unless_rows),
    ],
    examples,
)
