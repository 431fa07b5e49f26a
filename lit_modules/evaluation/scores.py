"""What `test` measures: the loss on corpora in blocks, and at the ends of windows after contexts of any length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback, LightningDataModule
from torch import Tensor

from lit_modules.data.batches import Blocks, SizedLoader, Windows, sequential_batches
from lit_modules.data.datamodule import HeldOut, Text
from lit_modules.data.token_file import TokenFile, count_bytes
from mixers.checks import UsageError, at_least

# Sums over a whole validation set lose digits in float32; Apple's GPUs have nothing wider.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64
Number = TypeVar("Number", float, Tensor)
LAST = 128  # tokens that contexts are compared on: RetNet's appendix B (arXiv:2307.08621)


def bits_per_byte(nats: Number, size: float) -> Number:
    """Negative log-likelihood in nats as bits per byte of text, which compares across tokenizers; lower is better.

    Args:
        nats: Of a text, or the mean per token.
        size: UTF-8 bytes of the text, or per token.
    """
    return nats / math.log(2) / size


@dataclass(frozen=True)
class EvalCorpus:
    """A corpus that the model was not trained on.

    Args:
        corpus: Its name, as `--data.corpus` takes it.
        text_field: The field that holds the text in the rows of files and data sets.
    """

    corpus: str
    text_field: str = "text"


class EvalSet(NamedTuple):
    """Blocks of one text that are scored together."""

    corpus: str
    file: TokenFile
    blocks: Blocks


class LossSums(NamedTuple):
    """The losses of a part in nats, summed for each block and for each position."""

    blocks: np.ndarray  # (blocks,)
    positions: np.ndarray  # (tokens of a block,)


class Evaluation(LightningDataModule):
    """The parts of a test: each corpus in blocks of the training's size, the model's own first, then each context.

    Contexts are of the same split of the model's own corpus, cut into windows of the longest of them: a shorter one is
    the end of each window, so that all contexts have the same last tokens.

    Args:
        text: The data that the model was trained on.
        split: The split of them that is scored.
        others: Other corpora.
        contexts: Numbers of tokens that the model reads, those that contexts are compared on included.
        max_tokens: Most tokens of each corpus to score, from its beginning.

    Raises:
        ValueError: If a number is out of range, or a corpus is named twice.
    """

    def __init__(
        self,
        text: Text,
        split: HeldOut,
        others: Sequence[str | EvalCorpus],
        contexts: Sequence[int],
        max_tokens: int | None,
    ) -> None:
        super().__init__()
        at_least(1, max_tokens=1 if max_tokens is None else max_tokens)
        if contexts and min(contexts) < LAST:
            raise UsageError(
                f"contexts={list(contexts)} has one below the {LAST} tokens that contexts are compared on: "
                f"write {LAST} or more."
            )
        self.text = text
        self.split = split
        self.others = [EvalCorpus(other) if isinstance(other, str) else other for other in others]
        self.contexts = sorted(set(contexts))
        self.max_tokens = max_tokens
        # What the command line cannot read as {corpus: ..., text_field: ...} it takes for a name.
        if unread := [other.corpus for other in self.others if other.corpus.startswith(("[", "{"))]:
            raise UsageError(f"corpora={unread[0]} is no corpus: write names, or {{corpus: NAME, text_field: FIELD}}.")
        names = [text.corpus, *(other.corpus for other in self.others)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(
                f"corpora={names[1:]} has {twice[0]!r} again, which is "
                f"{'the corpus of the run' if twice[0] == text.corpus else 'there already'}: leave it out."
            )

    def prepare_data(self) -> None:
        """Writes the tokens, unless that is done already."""
        self._parts()

    def setup(self, stage: str) -> None:
        """Finds the tokens."""
        self.corpora, self.windows = self._parts()

    def test_dataloader(self) -> list[SizedLoader]:
        """Batches of each part, of about as many tokens as in training."""
        self.loaders = [self._loader(part.blocks) for part in (*self.corpora, *self.windows)]
        return self.loaders

    def scored_bytes(self, part: EvalSet) -> int:
        """The UTF-8 bytes of the text of the tokens that are scored."""
        start = int(not self.text.bos)  # the first token is predicted from an end-of-text token or not at all
        stop = start + len(part.blocks) * part.blocks.block_size
        return count_bytes(part.file, start, stop, self.text.tokenizer)

    def _parts(self) -> tuple[list[EvalSet], list[EvalSet]]:
        own, size = self.text.token_file(self.split), self.text.block_size
        bos_token = self.text.end if self.text.bos else None
        files = [(self.text.corpus, own)]
        files += [(other.corpus, self.text.other_corpus(other.corpus, other.text_field)) for other in self.others]
        corpora, windows = [], []
        for name, file in files:
            blocks = Blocks(self._limited(file), block_size=size, bos_token=bos_token)
            corpora.append(EvalSet(name, file, blocks))
        for context in self.contexts:
            ends = Windows(self._limited(own), self.contexts[-1], context=context, bos_token=bos_token)
            windows.append(EvalSet(self.text.corpus, own, ends))
        for part in corpora:
            self._check(part, "data.block_size", size)
        for part in windows:
            self._check(part, "contexts", self.contexts[-1])
        return corpora, windows

    def _limited(self, file: TokenFile) -> TokenFile:
        if self.max_tokens is None:
            return file
        return replace(file, tokens=min(file.tokens, self.max_tokens + (not self.text.bos)))

    def _check(self, part: EvalSet, option: str, size: int) -> None:
        if not len(part.blocks):
            raise UsageError(
                f"corpus={part.corpus!r} has {part.blocks.file.tokens} tokens to test on, too few for {option}={size}: "
                f"write a smaller number there{', a larger max_tokens' if self.max_tokens else ''} or give more text."
            )

    def _loader(self, blocks: Blocks) -> SizedLoader:
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        tokens = self.text.batch_size * self.text.block_size
        each = max(1, tokens // blocks.length // world_size)
        batches = sequential_batches(len(blocks), batch_size=each * world_size, rank=rank, world_size=world_size)
        return SizedLoader(blocks, batches, num_workers=self.text.num_workers)


class Scores(Callback):
    """Sums the losses of each part over a test, on all processes together.

    Args:
        evaluation: The parts.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.sums: list[LossSums] = []
        self._added: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def zeros(size: int) -> Tensor:
            return torch.zeros(size, dtype=SUM_DTYPE, device=pl_module.device)

        blocks = [loader.blocks for loader in self.evaluation.loaders]
        self._added = [(zeros(len(part)), zeros(part.length)) for part in blocks]

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        nats = outputs.to(SUM_DTYPE)
        of_blocks, of_positions = self._added[dataloader_idx]
        of_blocks[self.evaluation.loaders[dataloader_idx].indices[batch_idx]] = nats.sum(1)
        of_positions += nats.sum(0)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def total(added: Tensor) -> np.ndarray:
            reduced = trainer.strategy.reduce(added, reduce_op="sum")
            assert isinstance(reduced, Tensor)
            return reduced.cpu().numpy()

        self.sums = [LossSums(total(blocks), total(positions)) for blocks, positions in self._added]
