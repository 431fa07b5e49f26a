"""Decayed attention by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from importlib.util import find_spec

import torch
from torch import Tensor

from mixers.ops.decay import Memory, chunkwise, decayed_attention
from mixers.ops.op import TAKEN

HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has


def _objection(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int) -> str:
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[2] == 1:
        return "it is for sequences on a CUDA device"
    if log_decay.requires_grad or not q.dtype == k.dtype == v.dtype or q.dtype not in HALF:
        return "it is for half precision and a fixed decay"
    return TAKEN if find_spec("fla") else "flash-linear-attention is not installed: pip install lit-mixers[kernels]"


@decayed_attention.implementation("fla", _objection)
def by_kernel(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, memory: Memory | None, chunk_size: int
) -> tuple[Tensor, Tensor, Memory]:
    """The kernels know no weights of what was read; these are `chunkwise` of a single column of ones."""
    from fla.ops.simple_gla import chunk_simple_gla

    output, kv = chunk_simple_gla(
        *(x.transpose(1, 2) for x in (q, k, v)),
        g_gamma=log_decay,
        scale=1.0,
        initial_state=None if memory is None else memory.kv,
        output_final_state=True,
    )
    sums = None if memory is None else Memory(memory.k[..., None], memory.k)
    ones = v.new_ones(*v.shape[:3], 1)
    _, weight, sums = chunkwise(q, k, ones, log_decay, sums, chunk_size)
    return output.transpose(1, 2), weight, Memory(kv, sums.k)
