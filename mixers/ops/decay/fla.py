"""Linear attention with decay by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState, for_heads
from mixers.ops.precision import in_product_dtype, product_dtype

HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has
HOPPER = (9, 0)
WIDEST = 256  # of the keys of a head


def unsupported_reason(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *_: Any) -> str | None:
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[1] == 1:
        return "it is for sequences on a CUDA device"
    if log_decay.ndim == 1 and log_decay.requires_grad:
        return "it has no gradient of a decay of each head"
    if product_dtype(q, k, v) not in HALF:
        return "it is for half precision"
    if find_spec("fla") is None:
        return "flash-linear-attention is not installed: pip install lit-mixers[kernels]"
    if log_decay.ndim > 1 and torch.cuda.get_device_capability(q.device) == HOPPER and _triton() < (3, 7, 1):
        return "its gradients of decays that vary are wrong on Hopper with Triton before 3.7.1"
    if log_decay.ndim > 1 and q.shape[-1] > WIDEST:
        return f"it is for keys of up to {WIDEST} channels"
    return None


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


def _triton() -> tuple[int, ...]:
    """Its version; 0 where there is none."""
    found = version("triton").split(".") if find_spec("triton") else []
    return tuple(int(part) for part in found[:3] if part.isdigit())
