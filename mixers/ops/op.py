"""An op: one function with several implementations, of which a call runs the first that takes its arguments."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


class Implementation(NamedTuple, Generic[R]):
    """One way to compute an op."""

    name: str  # what benchmarks and messages call it
    run: Callable[..., R]
    unsupported_reason: Callable[..., str | None]  # why not the arguments of `run`, to end a sentence; None if they are


class Draw(NamedTuple):
    """Draws example arguments: `draw(b, t, d)` is a random tensor of that shape whose gradient is wanted."""

    dtype: torch.dtype
    device: torch.device

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self.dtype, device=self.device).requires_grad_()

    @property
    def precise(self) -> "Draw":
        """For what is float32 or better."""
        return self._replace(dtype=torch.promote_types(self.dtype, torch.float32))


class Op(Generic[R]):
    """A plain reference that takes any arguments, and faster implementations that give the same.

    Args:
        reference: The function as one reads it.
        faster: Other implementations; a call runs the first that takes its arguments, else the reference.
        examples: Makes arguments for tests and benchmarks: examples(draw, batch, length, dim).
    """

    def __init__(
        self,
        reference: Callable[..., R],
        faster: Sequence[Implementation[R]],
        examples: Callable[[Draw, int, int, int], Any],
    ):
        self.faster, self._examples = tuple(faster), examples
        self.implementations = (*self.faster, Implementation("reference", reference, lambda *args: None))

    def __call__(self, *args: Any) -> R:
        return self.choose(*args).run(*args)

    def choose(self, *args: Any) -> Implementation[R]:
        """The implementation that a call with these arguments runs."""
        return next(i for i in self.implementations if i.unsupported_reason(*args) is None)

    def __getitem__(self, name: str) -> Implementation[R]:
        found = {implementation.name: implementation for implementation in self.implementations}
        if name not in found:
            raise KeyError(f"No implementation is named {name!r}. There are: {', '.join(found)}.")
        return found[name]

    def examples(self, length: int, dim: int, dtype: torch.dtype, device: torch.device) -> Any:
        """Arguments for tests, and at a width above 64 for benchmarks."""
        return self._examples(Draw(dtype, device), 1 if dim > 64 else 2, length, dim)


def single_token(x: Tensor, *_: Any) -> str | None:
    """The `unsupported_reason` of implementations by chunks, for a first argument (b, t, ...)."""
    return "one token is its own chunk" if x.shape[1] == 1 else None


def unless_eager_on_cpu(x: Tensor, *_: Any) -> str | None:
    """The `unsupported_reason` of implementations with a custom backward that are written for a CPU's memory."""
    if torch.compiler.is_compiling():
        return "the compiler writes its own"
    return None if x.device.type == "cpu" else "it is for a CPU"


def unless_sequence_on_cpu(x: Tensor, *_: Any) -> str | None:
    """Both."""
    return single_token(x) or unless_eager_on_cpu(x)
