"""A sequence of any length as whole chunks and a rest."""

from torch import Tensor


def in_chunks(size: int, *inputs: Tensor) -> list[list[Tensor]]:
    """Inputs (b, t, ...) as chunks (b, n, size, ...), and then what is left, if anything, as one shorter chunk."""
    length = inputs[0].shape[1]
    whole = length - length % size
    parts = ((0, whole, size), (whole, length, length - whole))
    return [[x[:, start:end].unflatten(1, (-1, c)) for x in inputs] for start, end, c in parts if end > start]
