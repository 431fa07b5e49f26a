"""What torch.compile needs."""

import os
import shutil

import torch

COMPILERS = ("g++", "clang++", "cl")  # any of which torch.compile can use for a CPU, beside that of $CXX


def no_compiler(device: torch.device) -> str | None:
    """Why torch.compile cannot work for a device, in words that end a sentence; None if it can."""
    found = any(shutil.which(name) for name in (os.environ.get("CXX"), *COMPILERS) if name)
    return None if found or device.type != "cpu" else f"there is no C++ compiler here: install {' or '.join(COMPILERS)}"
