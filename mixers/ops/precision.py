"""In which precision to compute and to remember; autocast does not look inside an op with a custom backward."""

from contextlib import AbstractContextManager, nullcontext
from functools import reduce

import torch
from torch import Tensor


def state_dtype(weight: Tensor) -> torch.dtype:
    """The precision to keep a recurrent state in: float32 for half-precision weights, else theirs."""
    return torch.promote_types(weight.dtype, torch.float32)


def product_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which to multiply tensors: autocast's within it, else the one they promote to."""
    device = tensors[0].device.type
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if dtype == torch.float64 or not (_has_autocast(device) and torch.is_autocast_enabled(device)):
        return dtype
    return torch.get_autocast_dtype(device)


def in_product_dtype(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the dtype in which they are to be multiplied."""
    dtype = product_dtype(*tensors)
    return [tensor.to(dtype) for tensor in tensors]


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it autocast changes nothing."""
    return torch.autocast(device.type, enabled=False) if _has_autocast(device.type) else nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch 2.11's compiler cannot look into it
def _has_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)
