"""What `test` measures: the loss on corpora in blocks, and at the ends of windows after contexts of any length."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_modules.data.batches import Blocks, SizedLoader
from lit_modules.data.datamodule import HeldOut, Text
from lit_modules.data.token_file import TokenFile, count_bytes
from mixers.checks import UsageError, at_least

# Sums over a whole validation set lose digits in float32; Apple's GPUs have nothing wider.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64
Number = TypeVar("Number", float, Tensor)
LAST = 128  # tokens that contexts are compared on: RetNet's appendix B (arXiv:2307.08621)


def bits_per_byte(nats: Number, size: float) -> Number:
    """Nats of a text and its UTF-8 bytes, or both per token, as bits per byte: lower is better, for any tokenizer."""
    return nats / math.log(2) / size


@dataclass(frozen=True)
class EvalCorpus:
    """A corpus that the model was not trained on."""

    corpus: str  # as `--data.corpus` takes it
    text_field: str = "text"  # the field that holds the text in the rows of files and data sets


class Evaluation(pl.LightningDataModule):
    """The parts of a test: each corpus in blocks of the training's size, the model's own first, then each context.

    Of a mixture each corpus is a part. Contexts are of the same split of the model's own corpus (of a mixture, of the
    first), cut into windows of the longest of them: a shorter one is the end of each window, so that all contexts have
    the same last tokens. The options are those of `Trainer.test`.

    Raises:
        ValueError: If a number is out of range, or a corpus is named twice.
    """

    def __init__(
        self, text: Text, split: HeldOut, others: list[str | EvalCorpus], contexts: list[int], max_tokens: int | None
    ) -> None:
        super().__init__()
        at_least(1, max_tokens=1 if max_tokens is None else max_tokens)
        if contexts and min(contexts) < LAST:
            raise UsageError(
                f"contexts={contexts} has one that is shorter than the {LAST} tokens that contexts are compared "
                f"on: write {LAST} or more."
            )
        self.text, self.split = text, split
        self.max_tokens = text.hparams["val_tokens"] if max_tokens is None else max_tokens
        self.others = [EvalCorpus(other) if isinstance(other, str) else other for other in others]
        self.contexts = sorted(set(contexts))
        # What the command line cannot read as {corpus: ..., text_field: ...} it takes for a name.
        if unread := [other.corpus for other in self.others if other.corpus.startswith(("[", "{"))]:
            raise UsageError(f"corpora={unread[0]} is no corpus: write names, or {{corpus: NAME, text_field: FIELD}}.")
        own, names = list(text.mixture.weights), [other.corpus for other in self.others]
        if twice := [name for name in names if (own + names).count(name) > 1]:
            raise UsageError(
                f"corpora={names} has {twice[0]!r} again, which is "
                f"{'the corpus of the run' if twice[0] in own else 'there already'}: leave it out."
            )

    def prepare_data(self) -> None:
        """Writes the tokens, unless that is done already."""
        text, own = self.text, self.text.token_files(self.split)
        files = {**own}
        files |= {other.corpus: text.other_corpus(other.corpus, other.text_field) for other in self.others}
        blocks = partial(Blocks, bos_token=text.bos_token, max_tokens=self.max_tokens, spread=True)
        size, whose = text.block_size, "corpus={!r}".format
        self.corpora = {name: blocks(file, whose(name), block_size=size) for name, file in files.items()}
        first = next(iter(own))
        window = partial(blocks, own[first], whose(first))
        self.windows = [window(block_size=self.contexts[-1], context=context) for context in self.contexts]

    def setup(self, stage: str) -> None:
        """Finds the tokens."""
        self.prepare_data()

    def test_dataloader(self) -> list[SizedLoader]:
        """Batches of each part, of about as many tokens as in training."""
        assert self.trainer is not None
        text, rank, world_size = self.text, self.trainer.global_rank, self.trainer.world_size
        loader = partial(SizedLoader, rank=rank, world_size=world_size, num_workers=text.hparams["num_workers"])
        self.loaders = []
        for blocks in (*self.corpora.values(), *self.windows):
            each = max(1, text.batch_size * text.block_size // blocks.length // world_size)
            self.loaders.append(loader(blocks, batch_size=each * world_size))
        return self.loaders

    def training_files(self) -> list[TokenFile] | None:
        """The training text of the run's corpus; None if that has none, or is streamed."""
        try:
            return list(self.text.token_files("train").values())
        except UsageError:
            return None

    def scored_bytes(self, corpus: str) -> int:
        """The UTF-8 bytes of the text of the tokens that are scored."""
        blocks = self.corpora[corpus]
        return count_bytes(blocks.file, map(blocks.span, range(len(blocks))), self.text.tokenizer)


class Scores(pl.Callback):
    """Keeps the loss of every token of each part of an evaluation, of all processes together."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.nats: list[Tensor] = []  # of each part (blocks, tokens of a block)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parts = [loader.blocks for loader in self.evaluation.loaders]
        self.nats = [torch.zeros(len(blocks), blocks.length, device=pl_module.device) for blocks in parts]

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        nats = outputs["losses"].float()
        self.nats[dataloader_idx][self.evaluation.loaders[dataloader_idx].indices[batch_idx]] = nats

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A process has zeros for the blocks of the others.
        self.nats = [trainer.strategy.reduce(part, reduce_op="sum").cpu() for part in self.nats]
