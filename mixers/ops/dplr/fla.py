"""The diagonal-plus-rank-one rule by the kernels of flash-linear-attention, where they and a CUDA device are."""

import math

from torch import Tensor

from mixers.ops.fla_kernels import no_kernel, not_trusted

OLDEST = (0, 6)  # from which the package takes a bound of the decay
STRONGEST = -2.5  # bound of the logarithm for which its powers, over half a chunk of 64, stay within float32


def unsupported_reason(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int = 1,
    lower_bound: float = -math.inf,
) -> str | None:
    if reason := no_kernel(q, q.dtype, oldest=OLDEST):
        return reason
    if not q.dtype == k.dtype == v.dtype:
        return "it is for inputs of one dtype"
    if lower_bound < STRONGEST:
        return f"it is for log_decay of at least {STRONGEST}, of which it takes quotients"
    return not_trusted(q)


def fla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int,
    lower_bound: float,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it."""
    from fla.ops.rwkv7 import chunk_rwkv7  # slow to import

    inputs = q, log_decay, k, v, a.to(q.dtype), b.to(q.dtype)
    output, state = chunk_rwkv7(
        *inputs, scale=1.0, initial_state=state, output_final_state=True, lower_bound=lower_bound
    )
    return output, state
