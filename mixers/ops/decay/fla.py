"""Linear attention with decay by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState

HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has


def unsupported_reason(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *_: Any) -> str | None:
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[1] == 1:
        return "it is for sequences on a CUDA device"
    if log_decay.ndim > 1 or log_decay.requires_grad:
        return "it is for a decay of each head that is not learned"  # others: wrong gradients on Hopper, Triton < 3.7.1
    if not q.dtype == k.dtype == v.dtype or q.dtype not in HALF:
        return "it is for half precision"
    return None if find_spec("fla") else "flash-linear-attention is not installed: pip install lit-mixers[kernels]"


def fla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, kv: Tensor | None, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """The output and the state, without weights, which the kernels do not know."""
    from fla.ops.simple_gla import chunk_simple_gla  # slow to import

    output, kv = chunk_simple_gla(q, k, v, g_gamma=log_decay, scale=1.0, initial_state=kv, output_final_state=True)
    return output, kv


def fla_with_weights(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: DecayState | None, chunk_size: int
) -> tuple[Tensor, Tensor, DecayState]:
    """The weights are those of `chunkwise` for a single column of ones."""
    output, kv = fla(q, k, v, log_decay, None if state is None else state.kv, chunk_size)
    sums = None if state is None else DecayState(state.k[..., None], state.k)
    _, weight, sums = chunkwise(q, k, v.new_ones(*v.shape[:3], 1), log_decay, sums, chunk_size)
    return output, weight, DecayState(kv, sums.k)
