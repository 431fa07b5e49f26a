"""A corpus with its tokenizer and its token files, ready to be cut into blocks; all without Lightning."""

import hashlib
from functools import cached_property
from pathlib import Path

from lit_modules.data.cache import built_once, default_cache, replace_text
from lit_modules.data.corpora import Corpus, load_corpus
from lit_modules.data.token_file import TokenFile, token_file
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, read_tokenizer, train_bpe

LAYOUT = "2"  # part of every name in the cache: to be raised when cleaning, splitting or the files change


class PreparedText:
    """A corpus in tokens. Each part is made when first asked for, and kept in a cache.

    Args:
        corpus: A name or path, as `load_corpus` takes it.
        text_field: The field of a row that holds its text.
        tokenizer: `bpe`, `bytes`, what `read_tokenizer` takes, or a tokenizer itself.
        vocab_size: How many ids the `bpe` tokenizer is to have.
        cache_dir: The folder that keeps tokenizers, tokens and prepared data sets; else the default one.
    """

    def __init__(
        self,
        corpus: str,
        *,
        text_field: str = "text",
        tokenizer: str | Tokenizer = "bpe",
        vocab_size: int = 8192,
        cache_dir: str | None = None,
    ) -> None:
        self._name = corpus
        self._text_field = text_field
        self._tokenizer = tokenizer
        self._bpe_size = vocab_size
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache()

    @cached_property
    def corpus(self) -> Corpus:
        """The documents."""
        return load_corpus(self._name, text_field=self._text_field, cache_dir=self.cache_dir)

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

    @cached_property
    def train(self) -> TokenFile:
        """The tokens of the training split."""
        return self._tokens("train")

    @cached_property
    def validation(self) -> TokenFile:
        """The tokens of the validation split."""
        return self._tokens("validation")

    @cached_property
    def test(self) -> TokenFile:
        """The tokens of the test split."""
        return self._tokens("test")

    @cached_property
    def unseen(self) -> TokenFile:
        """The tokens of all that a model trained on other text is tested on."""
        return self._tokens("unseen")

    def _tokens(self, split: str) -> TokenFile:
        path = self._cached("tokens", self.corpus.key, split, self.tokenizer.to_json(), suffix=".bin")
        return token_file(path, lambda: self.corpus.documents(split), self.tokenizer)

    def _train_tokenizer(self, path: Path) -> Tokenizer:
        tokenizer = train_bpe(self.corpus.documents("train"), self._bpe_size)
        replace_text(path, tokenizer.to_json())
        return tokenizer

    def _cached(self, folder: str, *facts: str, suffix: str) -> Path:
        """The place of what the facts determine."""
        digest = hashlib.sha256("\0".join((LAYOUT, *facts)).encode()).hexdigest()
        return self.cache_dir / folder / (digest + suffix)


def _saved_tokenizer(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged
        return None
