"""A corpus with its tokenizer and its token files, ready to be cut into blocks; all without Lightning."""

import hashlib
import os
from functools import cached_property
from pathlib import Path

import tokenizers

from lit_modules.data.cache import built_once, default_cache, replace_text
from lit_modules.data.corpora import Corpus, corpus_name, load_corpus
from lit_modules.data.token_file import TokenFile, token_file
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, read_tokenizer, train_bpe

LAYOUT = "2"  # part of every name in the cache: to be raised when cleaning, splitting or the files change


class PreparedText:
    """A corpus in tokens. Each part is made when first asked for, and kept in a cache.

    Args:
        corpus: A name or path, as `load_corpus` takes it, or the documents themselves.
        text_field: The field of a row that holds its text.
        tokenizer: `bpe`, `bytes`, what `read_tokenizer` takes, or a tokenizer itself.
        vocab_size: How many ids the `bpe` tokenizer is to have.
        cache_dir: The folder that keeps tokenizers, tokens and prepared data sets; else the default one.
    """

    def __init__(
        self,
        corpus: str | list[str],
        *,
        text_field: str = "text",
        tokenizer: str | Tokenizer | tokenizers.Tokenizer = "bpe",
        vocab_size: int = 8192,
        cache_dir: str | None = None,
    ) -> None:
        if isinstance(tokenizer, tokenizers.Tokenizer):
            tokenizer = Tokenizer.from_json(tokenizer.to_str())  # a copy, since ours changes settings
        self._source = os.fspath(corpus) if isinstance(corpus, str | os.PathLike) else list(corpus)
        self._text_field = text_field
        self._tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else os.fspath(tokenizer)
        self._bpe_size = vocab_size
        self._files: dict[str, TokenFile] = {}
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()

    @property
    def name(self) -> str:
        """What messages, tables and checkpoints call the corpus."""
        return corpus_name(self._source)

    @property
    def tokenizer_name(self) -> str:
        """What messages and checkpoints call the tokenizer."""
        return "given" if isinstance(self._tokenizer, Tokenizer) else self._tokenizer

    @cached_property
    def corpus(self) -> Corpus:
        """The documents."""
        return load_corpus(self._source, text_field=self._text_field, cache_dir=self.cache_dir)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; a BPE is trained on the training split alone."""
        match self._tokenizer:
            case Tokenizer() as given:
                return given
            case "bytes":
                return bytes_tokenizer()
            case "bpe":
                path = self._cached("tokenizers", self.corpus.key, str(self._bpe_size), suffix=".json")
                return built_once(path, find=_saved_tokenizer, build=self._train_tokenizer)
            case name:
                return read_tokenizer(name, cache_dir=self.cache_dir)

    def tokens(self, split: str) -> TokenFile:
        """The tokens of a split: "train", "validation", "test" or "unseen", as a `Corpus` has them."""
        if split not in self._files:
            path = self._cached("tokens", self.corpus.key, split, self.tokenizer.to_json(), suffix=".bin")
            self._files[split] = token_file(path, lambda: self.corpus.documents(split), self.tokenizer)
        return self._files[split]

    def _train_tokenizer(self, path: Path) -> Tokenizer:
        tokenizer = train_bpe(self.corpus.documents("train"), self._bpe_size)
        replace_text(path, tokenizer.to_json())
        return tokenizer

    def _cached(self, folder: str, *facts: str, suffix: str) -> Path:
        """The path of a file that depends on these facts alone."""
        digest = hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest()
        return self.cache_dir / folder / (digest + suffix)


def _saved_tokenizer(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged
        return None
