"""MAD's fuzzy recall (arXiv:2403.17844): keys and values are of several ids."""

from itertools import permutations
from typing import Any

import numpy as np

from lit_modules.data.synthetic.mad_recall import InContextRecall
from lit_modules.data.synthetic.parts import Examples, Setting, stack
from mixers.checks import UsageError, at_least
from mixers.model.loss import IGNORED

Motif = tuple[int, ...]  # the ids of a key or a value


class FuzzyRecall(InContextRecall):
    """`in_context_recall` whose keys and values are of one to three ids each (MAD, arXiv:2403.17844).

    Keys and values have no id twice. In training keys are of any length, otherwise always of the longest. The highest
    id fills an example up at its beginning.

    Args:
        motif: Most ids of a key, and of a value.
        common: Options of `in_context_recall`.

    Raises:
        UsageError: If an option is out of range.
    """

    def __init__(self, *, motif: int = 3, **common: Any) -> None:
        at_least(1, motif=motif)
        super().__init__(**common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        super().check(setting)
        motif = self.hparams["motif"]
        if (self.vocab_size - 1) // 2 < motif:
            least = 2 * motif + 1
            raise UsageError(f"vocab_size={self.vocab_size} is too small for motif={motif}: write {least} or more.")
        if setting["length"] <= 6 * motif:
            raise UsageError(
                f"length={setting['length']} is too short for motif={motif}: write {6 * motif + 2} or more."
            )

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        draw, motif = np.random.default_rng(seed), self.hparams["motif"]
        ids = np.arange(self.vocab_size - 1)
        half = len(ids) // 2
        sizes = range(1, motif + 1)
        keys = {size: list(permutations(ids[:half].tolist(), size)) for size in (sizes if training else [motif])}
        values = {size: list(permutations(ids[half:].tolist(), size)) for size in sizes}
        length = setting["length"]
        return stack(fuzzy_recall(draw, keys, values, length, training=training) for _ in range(setting["examples"]))


def fuzzy_recall(
    draw: np.random.Generator,
    keys: dict[int, list[Motif]],
    values: dict[int, list[Motif]],
    length: int,
    *,
    training: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """What MAD's generator makes with several queries: inputs and targets, (length,) each.

    Args:
        draw: The random numbers.
        keys: All keys, by how many ids they have.
        values: All values likewise.
        length: Ids that are read.
        training: Whether every next id is a target, and keys have any length.
    """
    pad = max(value[0] for value in values[1]) + 1
    # In an order of each example's own.
    orders = [{size: draw.permutation(len(motifs)) for size, motifs in known.items()} for known in (keys, values)]
    sizes = [list(keys), list(values)]

    def size_of(kind: int) -> int:
        return sizes[kind][draw.integers(len(sizes[kind]))] if training or kind else max(keys)

    def motif_of(kind: int, size: int) -> Motif:
        order = orders[kind][size]
        return (keys, values)[kind][size][order[draw.integers(len(order))]]

    key_size, value_size = size_of(0), size_of(1)
    last, its_value = motif_of(0, key_size), motif_of(1, value_size)  # the pair that ends the example
    pair = key_size + value_size
    at = draw.integers(length - 2 * pair)  # where it also is, or after
    value_of: dict[Motif, Motif] = {}
    seen, placed = set[Motif](), False
    read, asked = list[int](), list[int]()

    def add(key: Motif, value: Motif, ask: bool) -> None:
        read.extend(key + value)
        asked.extend((IGNORED,) * len(key) + (value if ask else (IGNORED,) * len(value)))
        seen.add(key)

    while len(read) < length - pair - max(sizes[1]) - max(keys):
        key_size, value_size = size_of(0), size_of(1)
        if len(read) >= at and not placed:
            add(last, its_value, ask=False)
            placed, value_of[last] = True, its_value
            continue
        key = motif_of(0, key_size)
        if key == last:
            value_of[key], placed = its_value, True
        elif key not in value_of:
            value_of[key] = motif_of(1, value_size)
        add(key, value_of[key], ask=key in seen)
    add(last, its_value, ask=True)
    before = length + 1 - len(read)
    read, asked = [pad] * before + read, [IGNORED] * before + asked
    return np.array(read[:-1]), np.array(read[1:] if training else asked[1:])
