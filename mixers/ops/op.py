"""An op: one function with several implementations, of which a call runs the first that takes its arguments."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")

CACHE_ELEMENTS = 2**18  # worked on at once on a CPU, so that its cache holds several tensors of that many


@dataclass(frozen=True)
class Implementation(Generic[R]):
    """One way to compute an op.

    Args:
        name: What benchmarks and messages call it.
        run: The function.
        unsupported_reason: Takes the arguments of `run`, and says why they are not supported, in words that end a
            sentence; None if they are.
        automatic: Whether calls may run it without being told to with `Op.using`.
    """

    name: str
    run: Callable[..., R]
    unsupported_reason: Callable[..., str | None]
    automatic: bool = True


class Op(Generic[R]):
    """A plain reference that takes any arguments, and faster implementations that give the same.

    Args:
        reference: The function as one reads it.
        faster: Other implementations; a call runs the first that takes its arguments, else the reference.
        examples: Makes arguments for tests and benchmarks: examples(length, dim, dtype, device).
    """

    def __init__(
        self,
        reference: Callable[..., R],
        faster: Sequence[Implementation[R]],
        examples: Callable[[int, int, torch.dtype, torch.device], Any],
    ):
        self.reference, self.faster, self.examples = reference, tuple(faster), examples
        self.implementations = (*self.faster, Implementation("reference", reference, lambda *args: None))
        self._chosen: str | None = None

    def __call__(self, *args: Any) -> R:
        return self.choose(*args).run(*args)

    def choose(self, *args: Any) -> Implementation[R]:
        """The implementation that a call with these arguments runs.

        Raises:
            ValueError: one was asked for with `using`, and does not take them.
        """
        if self._chosen is not None:
            chosen = self[self._chosen]
            if reason := chosen.unsupported_reason(*args):
                raise ValueError(f"The implementation {chosen.name!r} does not take these arguments: {reason}.")
            return chosen
        return next(i for i in self.implementations if i.automatic and i.unsupported_reason(*args) is None)

    def __getitem__(self, name: str) -> Implementation[R]:
        for implementation in self.implementations:
            if implementation.name == name:
                return implementation
        names = ", ".join(implementation.name for implementation in self.implementations)
        raise KeyError(f"No implementation is named {name!r}. There are: {names}.")

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Within it every call runs the implementation of that name."""
        before, self._chosen = self._chosen, self[name].name
        try:
            yield
        finally:
            self._chosen = before


def blocks(length: int, elements: int) -> list[slice]:
    """Where to cut a dimension of that length, with so many elements at each index, into parts that fit a cache."""
    step = max(1, CACHE_ELEMENTS // max(1, elements))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def unless_eager_on_cpu(*tensors: Tensor) -> str | None:
    """The `unsupported_reason` of implementations with a custom backward that are written for a CPU's memory."""
    if torch.compiler.is_compiling():
        return "the compiler writes its own"
    return None if all(tensor.device.type == "cpu" for tensor in tensors) else "it is for a CPU"
