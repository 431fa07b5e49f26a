"""Linear attention with any decay on a CPU: `chunkwise` for a few chunks at a time, that a cache holds.

Axes: as in reference.py.
"""

from torch import Tensor

from mixers.ops.chunks import CACHE_ELEMENTS
from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState
from mixers.ops.precision import in_product_dtype
from mixers.ops.segments import Tensors, by_segments


def segmented(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int
) -> tuple[Tensor, Tensor, DecayState]:
    """The output, the weight of what was read, and the state after it; the last chunk may be shorter."""

    def run(inputs: Tensors, weights: Tensors, state: Tensors) -> tuple[Tensors, Tensors]:
        q, k, v, g = *inputs, *weights
        output, weight, after = chunkwise(q, k, v, g, DecayState(*state), chunk_size)
        return (output, weight), after

    inputs, weights = in_product_dtype(q, k, v), [log_decay]
    if log_decay.ndim > 1:
        inputs, weights = [*inputs, log_decay], []
    state = DecayState.zero(k, v, log_decay.dtype) if state is None else state
    (output, weight), after = by_segments(run, segment_tokens(k, v, chunk_size), inputs, weights, state)
    return output, weight, DecayState(*after)


def segment_tokens(k: Tensor, v: Tensor, chunk_size: int) -> int:
    """How many tokens to work on at once."""
    b, _, h, width = v.shape
    chunk = b * h * max(width, chunk_size, k.shape[-1]) * chunk_size
    return max(1, CACHE_ELEMENTS // max(1, chunk)) * chunk_size
