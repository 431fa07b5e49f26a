"""Concatenation along time that does not copy the past for each new token.

A result lies in a buffer with room beside it. The first to continue a tensor writes into that room, which the tensor
does not show; whoever continues it a second time, or a copy of it, gets a copy of the past. So no write can be seen.
Under autograd or the compiler it is plain concatenation.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

BLOCK = 64  # tokens of room that a short past gets
GROWTH = 4  # a long one gets this part of itself


class Room(NamedTuple):
    buffer: Tensor
    start: int  # where the tensor begins in it


_room = WeakTensorKeyDictionary()  # the room beside a tensor, until somebody continues it


def append(past: Tensor, new: Tensor) -> Tensor:
    """`torch.cat([past, new], 2)` of (b, h, s, k) and (b, h, t, k), in new's dtype."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([past.to(new.dtype), new], 2)
    held, total = past.shape[2], past.shape[2] + new.shape[2]
    room = _take_room(past)
    if room is None or total > room.buffer.shape[2]:
        room = Room(new.new_empty(*new.shape[:2], total + _ahead(total), new.shape[3]), 0)
        room.buffer[:, :, :held] = past
    room.buffer[:, :, held:total] = new
    after = room.buffer[:, :, :total]
    _room[after] = room
    return after


def prepend(new: Tensor, past: Tensor, keep: int) -> Tensor:
    """`torch.cat([new, past], 1)[:, :keep]` of (b, t, ...) and (b, s, ...)."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat([new, past], 1)[:, :keep]
    held, added = past.shape[1], new.shape[1]
    room = _take_room(past)
    if room is None or room.start < added:
        start = added + _ahead(held)
        room = Room(new.new_empty(len(new), start + held, *new.shape[2:]), start)
        room.buffer[:, start:] = past
    start = room.start - added
    room.buffer[:, start : start + added] = new
    after = room.buffer[:, start : start + min(keep, added + held)]
    _room[after] = Room(room.buffer, start)
    return after


def _ahead(tokens: int) -> int:
    return max(BLOCK, tokens // GROWTH)


def _take_room(past: Tensor) -> Room | None:
    room: Room | None = _room.pop(past, None)
    usable = room is not None and room.buffer.is_inference() == torch.is_inference_mode_enabled()
    return room if usable else None
