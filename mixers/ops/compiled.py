"""A plain implementation as torch.compile makes it; only for those who ask, since compiling takes its time."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from mixers.ops.op import Implementation

R = TypeVar("R")

COMPILERS = ("g++", "clang++", "cl")  # any of which torch.compile can use for a CPU, beside that of $CXX


def no_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work for a device, in words that end a sentence; None if it can."""
    found = [name for name in (os.environ.get("CXX"), *COMPILERS) if name and shutil.which(name)]
    return None if found or device.type != "cpu" else f"there is no C++ compiler here: install {' or '.join(COMPILERS)}"


def compiled(plain: Callable[..., R]) -> Implementation[R]:
    """The implementation `compiled` of a function, which calls run only within `using("compiled")`."""
    ready = cache(torch.compile)  # not before it is called: it loads half of torch
    return Implementation("compiled", lambda *args: ready(plain)(*args), _unsupported_reason, automatic=False)


def _unsupported_reason(*args: Any) -> str | None:
    if torch.compiler.is_compiling():
        return "it is compiled already"
    return no_compiler(next(leaf.device for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)))
