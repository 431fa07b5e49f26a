"""Concatenation along time that does not copy the past for each new token."""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

BLOCK = 64  # tokens of room that a short past gets
GROWTH = 4  # a long one gets this part of itself

_room = WeakTensorKeyDictionary()  # for a tensor that begins a larger buffer: that buffer, until somebody continues it


def append(past: Tensor, new: Tensor) -> Tensor:
    """`torch.cat([past, new], 2)` of (b, h, s, k) and (b, h, t, k), amortised.

    The result begins a buffer with room behind it. The first to continue a tensor writes into that room, which the
    tensor does not show; whoever continues it a second time, or a copy of it, gets a copy of the past. So no write
    can be seen. Under autograd or the compiler it is plain concatenation.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([past.to(new.dtype), new], 2)
    held, total = past.shape[2], past.shape[2] + new.shape[2]
    buffer = _room.pop(past, None)
    if buffer is None or total > buffer.shape[2] or buffer.is_inference() != torch.is_inference_mode_enabled():
        buffer = new.new_empty(*new.shape[:2], total + max(BLOCK, total // GROWTH), new.shape[3])
        buffer[:, :, :held] = past
    buffer[:, :, held:total] = new
    after = buffer[:, :, :total]
    _room[after] = buffer
    return after
