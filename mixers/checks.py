"""Options out of range, refused in one sentence: `at_least(1, depth=depth)`."""

import math
import os
from collections.abc import Collection
from numbers import Real
from pathlib import Path

import torch

SEEDS = 2**32 - 1  # the largest seed: numpy's generators take no larger one
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
GIB = 2**30
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "Storage size calculation overflowed",
)


class UsageError(ValueError):
    """A mistake of whoever called: one sentence that names the argument, its value and what to write instead."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file, folder or package that was named and is not there."""


def at_least(least: float, **options: float) -> None:
    """Raises UsageError for an option that is below `least`, not finite or not a number."""
    for name, value in options.items():
        _number(name, value, f"{least} or more")
        if not value >= least:
            raise UsageError(f"{name}={value} is too small: write {least} or more.")


def above(bound: float, **options: float) -> None:
    """Raises UsageError for an option that is `bound` or below, not finite or not a number."""
    for name, value in options.items():
        _number(name, value, f"a number above {bound}")
        if not value > bound:
            raise UsageError(f"{name}={value} is too small: write a number above {bound}.")


def between(least: float, most: float, **options: float) -> None:
    """Raises UsageError for an option that is below `least`, above `most` or not a number."""
    for name, value in options.items():
        _number(name, value, f"{least} to {most}")
        if not least <= value <= most:
            raise UsageError(f"{name}={value} is out of range: write {least} to {most}.")


def one_of(allowed: Collection[str], **options: str) -> None:
    """Raises UsageError for an option that is none of `allowed`."""
    for name, value in options.items():
        if value not in allowed:
            raise UsageError(f"{name}={value!r} is not one of: {', '.join(allowed)}.")


def fits_memory(size: int, what: str) -> None:
    """Raises UsageError where `size` bytes are more than this machine has at all; tensors on `meta` take none."""
    memory = memory_bytes()
    if memory is not None and size > memory and torch.get_default_device().type == "cpu":
        needed, there = size // GIB, memory // GIB
        raise UsageError(f"{what} needs {needed:,} GiB of memory or more, and this machine has {there:,}: write less.")


def memory_bytes() -> int | None:
    """The memory of this machine, or what its container may use, in bytes; None where the system does not tell."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP_LIMIT.read_text(encoding="ascii").strip() if CGROUP_LIMIT.is_file() else "max"
    return physical if limit == "max" else min(physical, int(limit))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, or that a tensor is too large for any memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _number(name: str, value: object, wanted: str) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or value in (math.inf, -math.inf) or value != value:
        raise UsageError(f"{name}={value!r} is not a finite number: write {wanted}.")
