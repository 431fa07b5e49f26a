"""What an op with gradients of its own must know of autocast, which does not look inside one."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def product_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype in which tensors are to be multiplied: autocast's within it, else the one they promote to."""
    device = tensors[0].device.type
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if dtype == torch.float64 or not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return dtype
    return torch.get_autocast_dtype(device)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it autocast does not touch anything."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
