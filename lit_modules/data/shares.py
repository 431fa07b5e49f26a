"""Which of several sources each training sample is from."""

from collections.abc import Sequence
from fractions import Fraction


class Shares:
    """Which source each sample of the order is from: of the first n samples, source k has n times its share.

    That is right to within the number of sources, for every n, and sample n is found without those before it.

    Args:
        weights: One for each source, of any sum.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        left = [sum(exact[source:], Fraction()) for source in range(len(exact))]
        # Of the samples that the sources before it have left, a source takes so many of so many.
        self._taken = [(weight / rest).as_integer_ratio() for weight, rest in zip(exact, left, strict=True)]

    def source_of(self, sample: int) -> tuple[int, int]:
        """The source of a sample, and which of that source's own samples it is."""
        for source, (share, of) in enumerate(self._taken):
            before = sample * share // of
            if (sample + 1) * share // of > before:
                return source, before
            sample -= before
        raise AssertionError("the last source takes all that is left")
