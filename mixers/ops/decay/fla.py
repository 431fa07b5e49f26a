"""Linear attention with decay by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from typing import Any

from torch import Tensor

from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState, for_heads
from mixers.ops.fla_kernels import no_kernel, not_trusted
from mixers.ops.precision import in_product_dtype, product_dtype


def unsupported_reason(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *_: Any) -> str | None:
    if reason := no_kernel(q, product_dtype(q, k, v)):
        return reason
    if log_decay.ndim == 1:
        return "it has no gradient of a decay of each head" if log_decay.requires_grad else None
    return not_trusted(q)


def fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, kv: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The output and the state, without weights, which the kernels do not know."""
    from fla.ops.gla import chunk_gla  # slow to import
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = in_product_dtype(q, k, v)
    q, k = (for_heads(x, v.shape[2], 2) for x in (q, k))
    kernel = chunk_gla if log_decay.ndim == 4 else chunk_simple_gla
    decay = {"g_gamma" if log_decay.ndim == 1 else "g": log_decay}
    output, kv = kernel(q, k, v, **decay, scale=1.0, initial_state=kv, output_final_state=True)
    return output, kv


def fla_with_weights(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int
) -> tuple[Tensor, Tensor, DecayState]:
    """The weights are those of `chunkwise` for a single column of ones."""
    output, kv = fla(q, k, v, log_decay, None if state is None else state.kv, chunk_size)
    sums = None if state is None else DecayState(state.k[..., None], state.k)
    _, weight, sums = chunkwise(q, k, v.new_ones(*v.shape[:3], 1), log_decay, sums, chunk_size)
    return output, weight, DecayState(kv, sums.k)
