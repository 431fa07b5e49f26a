"""Fixed blocks of a token file, the order they are trained in, and each process's share of it."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from typing import Any, TypedDict

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_modules.data.shares import Shares
from lit_modules.data.token_file import Ids, TokenFile
from mixers.checks import UsageError


@dataclass(eq=False)
class Blocks(Dataset[Tensor]):
    """Non-overlapping blocks of tokens, block[:-1] to read and block[1:] to predict; ValueError if none is full."""

    file: TokenFile
    whose: str  # what errors call the tokens
    block_size: int  # tokens of a block, of which none is in two
    bos_token: int | None = None  # the id to put before what is predicted; without it that is the token before
    context: int | None = None  # tokens to predict at the end of each block, B; None predicts all
    max_tokens: int | None = None  # use only so many tokens of the file
    spread: bool = False  # whether those are spread evenly over the file; otherwise they are its first

    def __post_init__(self) -> None:
        self.length = self.context or self.block_size
        self.before = int(self.bos_token is None)  # the first token of the file is only read
        there = self.file.tokens - self.before
        self.tokens = min(there, self.max_tokens or there)
        self._of_file = there // self.block_size  # blocks of the whole file
        if self.tokens < self.block_size:
            option = "data.block_size" if self.context is None else "contexts"
            larger = ", a larger data.val_tokens or max_tokens" if self.max_tokens else ""
            raise UsageError(
                f"{self.whose} has {self.tokens} tokens, too few for {option}={self.block_size}: "
                f"write a smaller number there{larger} or give more text."
            )

    def __len__(self) -> int:
        return self.tokens // self.block_size

    def __getitem__(self, index: int) -> Tensor:
        """Block `index`: (B + 1,), int64."""
        start, stop = self.span(index)
        tokens = self._ids[start - self.before : stop].astype(np.int64)
        return torch.from_numpy(tokens if self.bos_token is None else np.insert(tokens, 0, self.bos_token))

    def span(self, index: int) -> tuple[int, int]:
        """Where in the file the tokens to predict of block `index` start and stop.

        Spread blocks are the middle ones of equally many parts of the file: all of them if all are wanted.
        """
        block = (2 * index + 1) * self._of_file // (2 * len(self)) if self.spread else index
        stop = (block + 1) * self.block_size + self.before
        return stop - self.length, stop

    @cached_property
    def _ids(self) -> Ids:
        return self.file.open()

    def __getstate__(self) -> dict[str, object]:  # a pickled memory map is a copy of the file: workers open their own
        return {name: value for name, value in self.__dict__.items() if name != "_ids"}


class Loader(Iterable[Any]):
    """Batches of samples, such as blocks; `batches` gives the indices of each, anew for each iteration.

    It is not a DataLoader but makes one, since Lightning would replace the sampler of a DataLoader by its own.
    """

    def __init__(self, blocks: Any, batches: Callable[[], Iterable[list[int]]], *, num_workers: int = 0) -> None:
        self.blocks, self.batches, self.num_workers = blocks, batches, num_workers

    def __iter__(self) -> Iterator[Any]:
        sampler, pin = self.batches(), torch.cuda.is_available()
        return iter(DataLoader(self.blocks, batch_sampler=sampler, num_workers=self.num_workers, pin_memory=pin))


class SizedLoader(Loader):
    """A `Loader` of all blocks once, shared out by `sequential_batches`."""

    def __init__(self, blocks: Any, *, batch_size: int, rank: int, world_size: int, num_workers: int) -> None:
        self.indices = sequential_batches(len(blocks), batch_size=batch_size, rank=rank, world_size=world_size)
        super().__init__(blocks, lambda: self.indices, num_workers=num_workers)

    def __len__(self) -> int:
        return len(self.indices)


class Share(TypedDict):
    """What part of a batch a process has."""

    batch_size: int  # of all processes together
    rank: int
    world_size: int


def share_of_batch(batch_size: int, trainer: pl.Trainer | None) -> Share:
    """The share of this process; raises UsageError if batches cannot be shared equally."""
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    if batch_size % world_size:
        raise UsageError(
            f"batch_size={batch_size} cannot be shared equally by {world_size} processes: "
            f"write a multiple of {world_size}."
        )
    return {"batch_size": batch_size, "rank": rank, "world_size": world_size}


def blocks_digest(blocks: Sequence[Blocks], weights: Sequence[float]) -> str:
    """A digest of all the tokens that are in blocks, how they are cut, and the weight of each source."""
    facts = [(part.file.content, len(part), part.block_size, part.bos_token) for part in blocks]
    return hashlib.sha256(repr((facts, weights)).encode()).hexdigest()


def shuffled_batches(
    blocks: int, *, seed: int, start: int, batch_size: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """Batches without end from sample `start` on, of which each process has the rank-th of equal parts.

    Every epoch has all blocks, in an order of its own; a batch may have some of two epochs.
    """
    share: Share = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
    return mixed_batches([blocks], Shares([1]), seed=seed, start=start, **share)


def mixed_batches(
    blocks: Sequence[int], shares: Shares, *, seed: int, start: int, batch_size: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """`shuffled_batches` of several sources with so many blocks each, which are numbered through all of them.

    The order of a source's own blocks is that which it has alone.
    """
    samples, each = mixed_samples(blocks, shares, seed=seed, start=start), batch_size // world_size
    while True:
        yield list(islice(samples, batch_size))[rank * each : (rank + 1) * each]


def mixed_samples(blocks: Sequence[int], shares: Shares, *, seed: int, start: int) -> Iterator[int]:
    """The block of each sample from `start` on, without end."""
    first = [sum(blocks[:source]) for source in range(len(blocks))]
    orders: dict[int, tuple[int, np.ndarray]] = {}
    for sample in count(start):
        source, own = shares.source_of(sample)
        epoch, offset = divmod(own, blocks[source])
        if source not in orders or orders[source][0] != epoch:
            orders[source] = epoch, np.random.default_rng([seed, epoch]).permutation(blocks[source])
        yield first[source] + int(orders[source][1][offset])


def sequential_batches(blocks: int, *, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """All blocks once: each process has every world_size-th, in batches of its share of `batch_size`.

    The processes have equally many batches, as long as each has a block, since those that share a sharded model wait
    for each other. So a single block too many joins the batch before it.
    """
    mine, each = list(range(rank, blocks, world_size)), batch_size // world_size
    batches = [mine[start : start + each] for start in range(0, len(mine), each)]
    if len(batches) > max(1, math.ceil(blocks // world_size / each)):
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches
