"""Multi-query associative recall (MQAR), arXiv:2312.04927: a list of keys and values, then some of the keys again."""

from typing import Any

import numpy as np
import torch

from lit_modules.data.synthetic.parts import Examples, Setting, no_targets
from lit_modules.data.synthetic.task import Task
from mixers.checks import UsageError, above, at_least


class MQAR(Task):
    """Recall of many values by their keys, with more of other ids between (Zoology, arXiv:2312.04927).

    `k₁v₁…k_Dv_D` is followed by each key once more, at a random place; the answer, at the key's own position, is its
    value. Keys are of the lower half of the ids, without 0, and values of the upper half, none twice in an example.

    Args:
        vocab_size: Ids; with fewer than 1000 mixers differ less.
        length: Ids in an example, N: even, and at least 4 for each pair. A list makes a part of each, with as many
            numbers in `num_kv_pairs`.
        num_kv_pairs: Keys with their values in an example, D.
        test_length: The same for validation and test; by default `length`.
        test_num_kv_pairs: The same for validation and test; by default `num_kv_pairs`.
        power: The gaps before the queries have probabilities proportional to gap^(power - 1): with 1 all are alike,
            and near 0 most are short.
        random_non_queries: Whether the positions that hold neither pairs nor queries have ids drawn from all; otherwise
            they have id 0, as in the paper's figure 2.
        common: Options of all tasks.

    Raises:
        UsageError: If an option is out of range.
    """

    fixed_options = Task.fixed_options | {"vocab_size"}
    varying = ("length", "num_kv_pairs")

    def __init__(
        self,
        *,
        vocab_size: int = 8192,
        length: int | list[int] = 64,
        num_kv_pairs: int | list[int] = 4,
        test_length: int | list[int] | None = None,
        test_num_kv_pairs: int | list[int] | None = None,
        power: float = 0.01,
        random_non_queries: bool = True,
        **common: Any,
    ) -> None:
        above(0, power=power)
        super().__init__(**common)

    def check(self, setting: Setting) -> None:
        """Raises UsageError where there are no examples of that form."""
        length, pairs = setting["length"], setting["num_kv_pairs"]
        at_least(1, num_kv_pairs=pairs)
        if length % 2 or length < 4 * pairs:
            raise UsageError(
                f"length={length} has no room for num_kv_pairs={pairs}: write an even number of {4 * pairs} or more."
            )
        if self.vocab_size // 2 <= pairs:
            raise UsageError(
                f"vocab_size={self.vocab_size} is too small for num_kv_pairs={pairs}: write {2 * pairs + 2} or more."
            )

    def make(self, setting: Setting, seed: np.random.SeedSequence, *, training: bool) -> Examples:
        """The examples of a part."""
        own: dict[str, Any] = {name: self.hparams[name] for name in ("vocab_size", "power", "random_non_queries")}
        return mqar(**{**setting, **own}, seed=int(seed.generate_state(1)[0]))


def mqar(
    *,
    examples: int,
    length: int,
    num_kv_pairs: int,
    vocab_size: int = 8192,
    power: float = 0.01,
    random_non_queries: bool = True,
    seed: int,
) -> Examples:
    """The examples that Zoology's `multiquery_ar` makes with the same seed, if it is torch's seed too.

    The options are those of `MQAR`.
    """
    draw, first_value = np.random.RandomState(seed), vocab_size // 2

    def choices(values: np.ndarray, p: np.ndarray | None = None) -> np.ndarray:
        return np.stack([draw.choice(values, num_kv_pairs, replace=False, p=p) for _ in range(examples)])

    keys, values = choices(np.arange(1, first_value)), choices(np.arange(first_value, vocab_size))
    gaps = np.arange((length - 2 * num_kv_pairs) // 2)
    weights = power * (gaps + 1) ** (power - 1)
    queries = 2 * num_kv_pairs + 2 * choices(gaps, weights / weights.sum())  # (examples, num_kv_pairs), positions
    inputs = np.zeros((examples, length), np.int64)
    inputs[:, 0 : 2 * num_kv_pairs : 2], inputs[:, 1 : 2 * num_kv_pairs : 2] = keys, values
    np.put_along_axis(inputs, queries, keys, axis=1)
    targets = no_targets(inputs)
    np.put_along_axis(targets, queries, values, axis=1)
    if random_non_queries:
        others = torch.randint(vocab_size, inputs.shape, generator=torch.Generator().manual_seed(seed)).numpy()
        inputs = np.where(inputs == 0, others, inputs)
    return Examples(inputs, targets)
