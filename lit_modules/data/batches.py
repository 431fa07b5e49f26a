"""Fixed blocks of a token file, the order they are trained in, and each process's share of it."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_modules.data.token_file import TokenFile


class Blocks(Dataset[Tensor]):
    """Non-overlapping blocks of tokens: block[:-1] goes in, block[1:] is to be predicted.

    Args:
        file: The tokens.
        block_size: Tokens to predict in a block, B.
        bos_token: The id to put before each block; without it a block starts with the last token of the one before.
    """

    def __init__(self, file: TokenFile, *, block_size: int, bos_token: int | None = None) -> None:
        self.file = file
        self.block_size = block_size
        self.bos_token = bos_token

    @property
    def length(self) -> int:
        """How many tokens of a block are predicted."""
        return self.block_size

    def __len__(self) -> int:
        return (self.file.tokens - (self.bos_token is None)) // self.block_size

    def __getitem__(self, index: int) -> Tensor:
        """Block `index`: (B + 1,), int64."""
        start = index * self.block_size
        tokens = self._tokens[start : start + self.block_size + (self.bos_token is None)].astype(np.int64)
        return torch.from_numpy(tokens if self.bos_token is None else np.insert(tokens, 0, self.bos_token))

    @cached_property
    def _tokens(self) -> np.ndarray:
        return self.file.open()

    def __getstate__(self) -> dict[str, object]:  # a pickled memory map is a copy of the file: workers open their own
        return {name: value for name, value in self.__dict__.items() if name != "_tokens"}


class Windows(Blocks):
    """The ends of blocks: all contexts of the same windows end with the same tokens.

    Args:
        file: The tokens.
        window: Tokens of a window, of which none is in two.
        context: Tokens at its end that are read and predicted.
        bos_token: The id to put before each end; without it an end starts with the token before it.
    """

    def __init__(self, file: TokenFile, window: int, *, context: int, bos_token: int | None = None) -> None:
        super().__init__(file, block_size=window, bos_token=bos_token)
        self.context = context

    @property
    def length(self) -> int:
        return self.context

    def __getitem__(self, index: int) -> Tensor:
        """The end of window `index`: (context + 1,), int64."""
        window = super().__getitem__(index)
        before = window[-self.context - 1 : -self.context] if self.bos_token is None else window[:1]
        return torch.cat([before, window[-self.context :]])


class Loader(Iterable[Tensor]):
    """Batches of blocks, (batch, B + 1), int64.

    It is not a DataLoader but makes one, since Lightning would replace the sampler of a DataLoader by its own.

    Args:
        blocks: What to load.
        batches: Gives the block indices of each batch, anew for each iteration.
        num_workers: Processes that load; they do not change the order.
    """

    def __init__(self, blocks: Blocks, batches: Callable[[], Iterable[list[int]]], *, num_workers: int = 0) -> None:
        self.blocks = blocks
        self.batches = batches
        self.num_workers = num_workers

    def __iter__(self) -> Iterator[Tensor]:
        sampler, pin = self.batches(), torch.cuda.is_available()
        return iter(DataLoader(self.blocks, batch_sampler=sampler, num_workers=self.num_workers, pin_memory=pin))


class SizedLoader(Loader):
    """A `Loader` that comes to an end: of these batches, each the indices of its blocks."""

    def __init__(self, blocks: Blocks, batches: list[list[int]], *, num_workers: int = 0) -> None:
        super().__init__(blocks, lambda: batches, num_workers=num_workers)
        self.indices = batches

    def __len__(self) -> int:
        return len(self.indices)


def shuffled_indices(blocks: int, *, seed: int, start: int) -> Iterator[int]:
    """Block indices without end from sample `start` on: every epoch all blocks, in an order of its own."""
    epoch, offset = divmod(start, blocks)
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(blocks)[offset:]:
            yield int(index)
        epoch, offset = epoch + 1, 0


def rank_batches(samples: Iterator[int], *, batch_size: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """The part that one process has in each batch of all processes together: the rank-th of equal parts."""
    each = batch_size // world_size
    while batch := list(islice(samples, batch_size)):
        yield batch[rank * each : (rank + 1) * each]


def sequential_batches(blocks: int, *, batch_size: int, rank: int, world_size: int) -> list[list[int]]:
    """All blocks once: each process has every world_size-th, in batches of its share of `batch_size`.

    The processes have equally many batches, as long as each has a block, since those that share one sharded model wait
    for each other in every batch. So a single block too many joins the batch before it.
    """
    mine, each = list(range(rank, blocks, world_size)), batch_size // world_size
    batches = [mine[start : start + each] for start in range(0, len(mine), each)]
    if len(batches) > max(1, math.ceil(blocks // world_size / each)):
        batches[-2:] = [batches[-2] + batches[-1]]
    return batches
