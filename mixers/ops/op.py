"""An op: one function, said several times over, of which a call runs the best that takes its arguments."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")

TAKEN = ""  # what an implementation answers that has nothing against the arguments

BLOCK = 2**18  # numbers that are worked on at once on a CPU


@dataclass(frozen=True)
class Implementation(Generic[R]):
    name: str
    run: Callable[..., R]
    objection: Callable[..., str]  # why it does not take these arguments; TAKEN if it does
    automatic: bool = True  # whether calls may run it without being told to


class Op(Generic[R]):
    """A plain reference that takes any arguments, and faster implementations that give the same for those they take.

    Args:
        reference: The function as a reader reads it.
        examples: Makes arguments for tests and benchmarks: examples(length, dim, dtype, device).
    """

    def __init__(self, reference: Callable[..., R], examples: Callable[[int, int, torch.dtype, torch.device], Any]):
        self.examples = examples
        self.implementations = [Implementation("reference", reference, lambda *args: TAKEN)]
        self._chosen: str | None = None

    def implementation(
        self, name: str, objection: Callable[..., str], *, automatic: bool = True
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Adds an implementation, which is preferred to those added before it.

        Args:
            name: What benchmarks and messages call it.
            objection: Says why it does not take given arguments, in words that end a sentence; TAKEN if it does.
            automatic: Whether calls may run it without being told to with `using`.
        """

        def add(run: Callable[..., R]) -> Callable[..., R]:
            self.implementations.append(Implementation(name, run, objection, automatic))
            return run

        return add

    def __call__(self, *args: Any) -> R:
        return self.choose(*args).run(*args)

    def choose(self, *args: Any) -> Implementation[R]:
        """The implementation that a call with these arguments runs.

        Raises:
            ValueError: one was asked for with `using`, and does not take them.
        """
        if self._chosen is not None:
            chosen = self[self._chosen]
            if objection := chosen.objection(*args):
                raise ValueError(f"The implementation {chosen.name!r} does not take these arguments: {objection}.")
            return chosen
        return next(i for i in reversed(self.implementations) if i.automatic and i.objection(*args) == TAKEN)

    def __getitem__(self, name: str) -> Implementation[R]:
        for implementation in self.implementations:
            if implementation.name == name:
                return implementation
        there = ", ".join(implementation.name for implementation in self.implementations)
        raise KeyError(f"No implementation is named {name!r}. There are: {there}.")

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Within it every call runs the implementation of that name."""
        before, self._chosen = self._chosen, self[name].name
        try:
            yield
        finally:
            self._chosen = before


def blocks(length: int, numbers: int) -> list[slice]:
    """Where to cut a length of tokens, which have so many numbers each, so that a cache holds several such pieces."""
    step = max(1, BLOCK // numbers)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def eager_on_cpu(*tensors: Tensor) -> str:
    """The objection of an implementation with gradients written by hand, for the memory of a CPU."""
    if torch.compiler.is_compiling():
        return "the compiler writes its own"
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return "it is for a CPU"
    return TAKEN
