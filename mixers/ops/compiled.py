"""The plain implementations as torch.compile makes them; only for those who ask, since compiling takes its time."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mixers.ops.decay import decayed_attention
from mixers.ops.gated_norm import gated_norm
from mixers.ops.op import TAKEN, Op
from mixers.ops.rotary import turned
from mixers.ops.short_conv import short_conv

COMPILERS = ("g++", "clang++", "cl")  # any of which torch.compile can use for a CPU, beside that of $CXX


def no_compiler(device: torch.device) -> str:
    """Why torch.compile cannot work for a device, in words that end a sentence; nothing if it can."""
    found = [name for name in (os.environ.get("CXX"), *COMPILERS) if name and shutil.which(name)]
    return "" if found or device.type != "cpu" else f"there is no C++ compiler here: install {' or '.join(COMPILERS)}"


def _objection(*args: Any) -> str:
    tensors = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    return "it is compiled already" if torch.compiler.is_compiling() else no_compiler(tensors[0].device) or TAKEN


def _compiled(plain: Callable[..., Any]) -> Callable[..., Any]:
    ready = cache(torch.compile)  # not before it is called: it loads half of torch
    return lambda *args: ready(plain)(*args)


def _offer(op: Op[Any], plain: str) -> None:
    op.implementation("compiled", _objection, automatic=False)(_compiled(op[plain].run))


_offer(decayed_attention, "chunkwise")
_offer(gated_norm, "reference")
_offer(short_conv, "reference")
_offer(turned, "reference")
