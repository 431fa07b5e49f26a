"""Several corpora trained on together, each with its share of the samples."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from lit_modules.data.bpe import TRAINING_TEXT, training_text
from lit_modules.data.cache import cached_path
from lit_modules.data.corpora import Corpus, list_name, load_corpus
from lit_modules.data.shares import Shares
from lit_modules.data.streaming import Stream, StreamedCorpus, check_streaming, stream_corpus
from lit_modules.data.token_file import TokenFile
from lit_modules.data.tokenise import token_files
from lit_modules.data.tokenizer import Tokenizer
from mixers.checks import UsageError


class Mixture:
    """The corpora of a run by name, in their order, with their weights; most runs have one.

    Args:
        corpus: The name of a corpus, documents, or a weight for each of several names.
        text_field: The field of a row that holds its text.
        cache_dir: The folder for tokens, and for what the `datasets` library prepares.
        streaming: Whether the only corpus is read while training.
        val_tokens: Tokens of the validation and test text of a corpus that is streamed.

    Raises:
        UsageError: If a weight is not a positive number, or there is no corpus, or it cannot be streamed.
    """

    def __init__(
        self,
        corpus: str | os.PathLike[str] | Iterable[str] | Mapping[str, float],
        text_field: str,
        cache_dir: Path,
        *,
        streaming: bool = False,
        val_tokens: int | None = None,
    ) -> None:
        self.text_field, self.cache_dir, self.val_tokens = text_field, cache_dir, val_tokens
        self.streaming = streaming
        if streaming:
            check_streaming(corpus, val_tokens)
        self._files: dict[str, dict[str, TokenFile]] = {}
        self._named: dict[str, str | list[str]]
        if isinstance(corpus, Mapping):
            self._named, weights = {name: name for name in corpus}, dict(corpus)
            check_weights(weights)
        else:
            given = os.fspath(corpus) if isinstance(corpus, str | os.PathLike) else list(corpus)
            name = given if isinstance(given, str) else list_name(given)
            self._named, weights = {name: given}, {name: 1.0}
        self.name = " + ".join(weights)  # what messages and tables call them together
        self.option = weights if isinstance(corpus, Mapping) else self.name  # as plain values
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}  # of sum 1
        self.shares = Shares(list(weights.values()))

    @cached_property
    def corpora(self) -> dict[str, Corpus]:
        """Each corpus."""
        return {name: self._load(named) for name, named in self._named.items()}

    @property
    def stream(self) -> Stream | None:
        """The training text, if it is read while training."""
        first = next(iter(self.corpora.values()))
        return first.stream if isinstance(first, StreamedCorpus) else None

    @property
    def key(self) -> tuple[str, ...]:
        """What changes when the documents or the weights do."""
        if len(self.corpora) == 1:
            return tuple(corpus.key for corpus in self.corpora.values())
        return tuple(f"{corpus.key} {self.weights[name]}" for name, corpus in self.corpora.items())

    def token_files(self, split: str, tokenizer: Tokenizer) -> dict[str, TokenFile]:
        """The tokens of a split of each corpus, by name, end tokens included; they are written when first asked for."""
        for name, corpus in self.corpora.items():
            if name not in self._files:
                self._files[name] = self.tokens_of(corpus, tokenizer)
            if split not in self._files[name]:
                raise corpus.no_text(split)
        return {name: self._files[name][split] for name in self.corpora}

    def tokens_of(self, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, TokenFile]:
        """The tokens of each split of any corpus."""
        path = cached_path(self.cache_dir / "tokens", ".json", corpus.key, tokenizer.to_json())
        return token_files(path, corpus.parts, tokenizer)

    def documents(self) -> Iterator[str]:
        """Training documents in the proportions of the weights: of several corpora as much text as they have together.

        So a corpus that is small for its weight is repeated, as in training.
        """
        if len(self.corpora) == 1:
            [corpus] = self.corpora.values()
            yield from self._beginning(corpus.documents("train")) if self.streaming else training_text(corpus)
            return
        names, corpora = list(self.corpora), list(self.corpora.values())
        total = min(TRAINING_TEXT, sum(map(_size, corpora)))
        streams = [corpus.documents("train") for corpus in corpora]
        taken = [0] * len(corpora)
        while sum(taken) < total:
            source = min(range(len(corpora)), key=lambda index: taken[index] / self.weights[names[index]])
            if (document := next(streams[source], None)) is None:
                streams[source] = corpora[source].documents("train")
                continue
            taken[source] += len(document)
            yield document

    def _load(self, named: str | list[str]) -> Corpus:
        if self.streaming:
            assert isinstance(named, str)
            assert self.val_tokens is not None
            return stream_corpus(named, text_field=self.text_field, val_tokens=self.val_tokens)
        return load_corpus(named, text_field=self.text_field, cache_dir=self.cache_dir)

    def _beginning(self, documents: Iterator[str]) -> Iterator[str]:
        """The documents of a stream, no more than so many characters."""
        taken = 0
        for document in documents:
            yield document
            taken += len(document)
            if taken >= TRAINING_TEXT:
                return


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises UsageError unless each weight is a positive number."""
    if not weights:
        raise UsageError("corpus={} names no corpus: write a weight for each, such as {sotu: 0.7, code: 0.3}.")
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not isinstance(name, str) or not number or not 0 < weight < math.inf:
            raise UsageError(f"corpus={{{name}: {weight}}} has no weight: write a positive number, such as 0.5.")


def _size(corpus: Corpus) -> int:
    """Bytes of a corpus, about; characters where it does not know them."""
    return sum(part.size for part in corpus.parts) or sum(map(len, corpus.documents("train")))
