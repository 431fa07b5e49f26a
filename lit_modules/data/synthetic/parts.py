"""The parts of a task's split, each of examples of one form, and the batches they are trained in."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from lit_modules.data.base import Batch
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

Setting = dict[str, int]  # what the examples of a part have in common, such as their length


class Examples(NamedTuple):
    """Ids that are read, and at the same positions the ids to answer with; -100 where nothing is asked for."""

    inputs: np.ndarray  # (examples, time)
    targets: np.ndarray  # (examples, time)


class Part(Dataset[Batch]):
    """Examples of one form, kept in memory in 32 bits an id."""

    def __init__(self, setting: Setting, examples: Examples) -> None:
        self.setting = setting
        self.inputs, self.targets = (ids.astype(np.int32) for ids in examples)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Batch:
        """Example `index`: ids and targets, (time,) each."""
        return Batch(*(torch.from_numpy(ids[index].astype(np.int64)) for ids in (self.inputs, self.targets)))

    @property
    def block_size(self) -> int:
        """Ids in an example."""
        return self.inputs.shape[1]

    @property
    def digest(self) -> str:
        """Equal digests mean equal examples."""
        return hashlib.sha256(self.inputs.tobytes() + self.targets.tobytes()).hexdigest()


def combine(options: Mapping[str, int | Sequence[int]]) -> list[Setting]:
    """One setting for each place of the lists, in which a single number counts for all.

    Raises:
        UsageError: The lists are of different lengths.
    """
    lists = {name: value for name, value in options.items() if not isinstance(value, int)}
    sizes = {len(value) for value in lists.values()}
    if len(sizes) > 1 or 0 in sizes:
        said = " and ".join(f"{name}={list(value)}" for name, value in lists.items())
        raise UsageError(f"{said} need equally many numbers, one for each kind of example: or write a single number.")
    count = next(iter(sizes), 1)
    columns = {name: lists[name] if name in lists else [value] * count for name, value in options.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def part_names(settings: Sequence[Mapping[str, int]]) -> list[str]:
    """What each part of a split is called: what it does not have in common with all others, as `length=64`."""
    varying = [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]
    return [",".join(f"{key}={setting[key]}" for key in varying) for setting in settings]


def part_batches(
    sizes: Sequence[int], *, seed: int, start: int, batch_size: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """Batches without end from sample `start` on, each of a single part, of which each process has equal shares.

    An epoch has the full batches of each part, whose examples and whose batches are in an order of the epoch's own.
    Examples are numbered through all parts.
    """
    each = batch_size // world_size
    epoch, first = divmod(start // batch_size, sum(size // batch_size for size in sizes))
    while True:
        for batch in _epoch(sizes, batch_size, [seed, epoch])[first:]:
            yield batch[rank * each : (rank + 1) * each].tolist()
        epoch, first = epoch + 1, 0


def _epoch(sizes: Sequence[int], batch_size: int, seed: list[int]) -> np.ndarray:
    """The batches of an epoch: (batches, batch_size)."""
    draw, first, batches = np.random.default_rng(seed), 0, []
    for size in sizes:
        full = size // batch_size * batch_size
        batches.append(first + draw.permutation(size)[:full].reshape(-1, batch_size))
        first += size
    return draw.permutation(np.concatenate(batches))


def stack(examples: Iterable[tuple[np.ndarray, np.ndarray]]) -> Examples:
    """Single examples, inputs and targets (time,) each, as one array of each kind."""
    inputs, targets = zip(*examples, strict=True)
    return Examples(np.stack(inputs), np.stack(targets))


def no_targets(inputs: np.ndarray) -> np.ndarray:
    """Targets for these inputs, with none yet."""
    return np.full(inputs.shape, IGNORED, np.int64)
