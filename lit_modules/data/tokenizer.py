"""Text to token ids and back, and where tokenizers come from."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from jsonargparse.typing import register_type
from tokenizers import Regex
from tokenizers.decoders import Replace
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, FixedLength, Sequence, WhitespaceSplit
from tokenizers.trainers import BpeTrainer

from lit_modules.console import did_you_mean
from lit_modules.data.errors import missing_file, usage_error
from lit_modules.data.fast_bpe import BYTES, ByteTable, FastBPE, byte_symbols, fast_bpe
from lit_modules.data.registry import saved_state

END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>")  # what tokenizers may call it, tried in this order
# Bytes of a word that a BPE is trained on: text without spaces is one word, and each merge reads all words it is in.
LONGEST_WORD = 256
PIECE = 2**18  # characters: the library takes some eighty bytes of memory for each that it is given at once


class Tokenizer:
    """Turns text into token ids and back.

    Text never becomes a special token, even if it spells one: only `end` itself ends a document.

    Args:
        inner: A tokenizer of the `tokenizers` library; it is taken over and set to encode plain text, nothing added.

    Raises:
        ValueError: If the tokenizer has no end-of-text token.
    """

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        vocabulary = inner.get_vocab(with_added_tokens=True)
        ends = [vocabulary[name] for name in ENDS if name in vocabulary]
        if not ends:
            raise usage_error(f"the tokenizer has no end-of-text token: add one of {', '.join(ENDS)}.")
        self.vocab_size = max(vocabulary.values()) + 1  # ids are below it
        self.end, self._inner = ends[0], inner  # `end` is the id that ends a document

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without `end`."""
        return self._encode([text])[0].ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of several texts, as lists."""
        return [ids.tolist() for ids in self.encode_arrays(texts)]

    def encode_arrays(self, texts: list[str]) -> list[np.ndarray]:
        """The same ids of several texts, each (tokens,); much faster for byte-level BPE, see `fast_bpe`."""
        found = [None] * len(texts) if self._fast is None else self._fast.encode(texts)
        left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        others = iter(self._encode(left))
        return [np.array(next(others).ids, np.uint32) if ids is None else ids for ids in found]

    def _encode(self, texts: list[str]) -> list[tokenizers.Encoding]:
        try:
            return self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises nothing more precise
            if not isinstance(self._inner.model, WordLevel):
                raise
            raise usage_error(
                f"{texts[0]!r} is not of this model's ids, which are no text: write numbers from 0 to "
                f"{self.vocab_size - 2} with spaces between them, such as '1 2 0'."
            ) from error

    @cached_property
    def _fast(self) -> FastBPE | ByteTable | None:
        return fast_bpe(self._inner)

    def decode(self, ids: list[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 become replacement characters."""
        return self._inner.decode(ids, skip_special_tokens=False)

    def decode_stream(self) -> Callable[[int], str | None]:
        """A function that decodes ids one after another: the text an id completes, None while a character lacks bytes.

        Each step decodes again only the ids since the last text but one, so its cost does not grow with the text.
        """
        return partial(tokenizers.decoders.DecodeStream(skip_special_tokens=False).step, self._inner)

    def name_lengths(self) -> np.ndarray:
        """The characters in each id's name, 0 for `end`: (vocab_size,). Byte-level tokenizers name a byte by one."""
        lengths = np.zeros(self.vocab_size, np.int64)
        for name, number in self._inner.get_vocab(with_added_tokens=True).items():
            lengths[number] = len(name)
        lengths[self.end] = 0
        return lengths

    def to_json(self) -> str:
        """The whole tokenizer as the text of a `tokenizer.json` file."""
        return self._inner.to_str()

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json`, or any tokenizer.json file, describes; raises ValueError for other text."""
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more precise
            raise usage_error(f"this is not a tokenizer.json: {error}.") from error
        return cls(inner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __reduce__(self) -> tuple[Any, ...]:  # the library's own pickling forgets `encode_special_tokens`
        return type(self).from_json, (self.to_json(),)


for tokenizer_class in (Tokenizer, tokenizers.Tokenizer):
    register_type(tokenizer_class)  # or a command line would offer their constructors beside the names of tokenizers


def pieces(document: str) -> Iterator[str]:
    """The document in pieces of at most PIECE characters, cut at line ends where there are any."""
    start = 0
    while len(document) - start > PIECE:
        stop = document.rfind("\n", start, start + PIECE) + 1 or start + PIECE
        yield document[start:stop]
        start = stop
    yield document[start:]


def well_formed(text: str) -> str:
    """The text with halves of a character joined, and those left alone, which UTF-8 cannot write, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def bytes_tokenizer() -> Tokenizer:
    """One id per byte, which is the byte, and 256 for the end of text."""
    inner = _byte_level(BPE(vocab=byte_symbols(), merges=[]), use_regex=False)
    inner.add_special_tokens([END])
    return Tokenizer(inner)


def ids_tokenizer(vocab_size: int) -> Tokenizer:
    """Ids that are no text: each is its own number, with spaces between them; `end` is not among the `vocab_size`."""
    inner = tokenizers.Tokenizer(WordLevel({str(number): number for number in range(vocab_size)}))
    inner.pre_tokenizer = WhitespaceSplit()
    inner.decoder = Replace(Regex("^"), " ")  # so that what is added to a text is apart from it
    inner.add_special_tokens([END])
    return Tokenizer(inner)


def train_bpe(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of the documents, with `vocab_size` ids (257 or more), or fewer if pairs to merge run out."""
    if vocab_size < BYTES + 1:
        raise usage_error(
            f"vocab_size={vocab_size} is too small for a byte-level BPE: "
            f"write {BYTES + 1} (every byte and the end of text) or more."
        )
    inner, alphabet = _byte_level(BPE(), use_regex=True), ByteLevel.alphabet()
    cut = inner.pre_tokenizer
    inner.pre_tokenizer = Sequence([cut, FixedLength(LONGEST_WORD)])
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    texts = (piece for document in documents for piece in pieces(well_formed(document)))
    inner.train_from_iterator(texts, trainer)
    inner.pre_tokenizer = cut
    return Tokenizer(inner)


def read_tokenizer(name: str, *, cache_dir: Path) -> Tokenizer:
    """A tokenizer that needs no training.

    Args:
        name: `bytes`, the path of a tokenizer.json or of a checkpoint (.ckpt), or a model on the Hub, `owner/name`.
        cache_dir: The folder that keeps what is downloaded.

    Raises:
        FileNotFoundError: If there is no such file, or the Hub cannot be reached or has no such tokenizer.
        ValueError: If the file holds no tokenizer.
    """
    if name == "bytes":
        return bytes_tokenizer()
    path = Path(name).expanduser()
    if path.is_file():
        text = _in_checkpoint(path) if path.suffix == ".ckpt" else path.read_text(encoding="utf-8")
    elif path.suffix in (".json", ".ckpt") or path.is_absolute() or name.startswith("."):
        raise missing_file(f"tokenizer={name!r} is not a file: check the path.")
    elif "/" not in name:
        raise usage_error(
            f"tokenizer={name!r} is not known: write 'bytes', 'bpe', the path of a tokenizer.json or .ckpt file, or "
            f"'owner/name' of a model on the Hub{did_you_mean(name, ['bytes', 'bpe'])}"
        )
    else:
        text = _on_the_hub(name, cache_dir)
    try:
        return Tokenizer.from_json(text)
    except ValueError as error:
        raise usage_error(f"tokenizer={name!r} cannot be used: {error}") from error


def _byte_level(model: BPE, *, use_regex: bool) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=use_regex)
    inner.decoder = tokenizers.decoders.ByteLevel()
    return inner


def _in_checkpoint(path: Path) -> str:
    import torch  # not needed to tokenise, and large: each process of a pool would have it in memory

    try:
        return str(saved_state(torch.load(path, map_location="cpu", mmap=True, weights_only=True))["tokenizer"])
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise usage_error(
            f"tokenizer={str(path)!r} is not a checkpoint that can be read: it is damaged, or holds more than plain "
            "values and tensors."
        ) from error
    except (KeyError, TypeError):
        raise usage_error(f"tokenizer={str(path)!r} is a checkpoint without a tokenizer: name another file.") from None


def _on_the_hub(name: str, cache_dir: Path) -> str:
    from huggingface_hub import hf_hub_download  # slow to import, and rarely needed

    try:
        path = hf_hub_download(name, "tokenizer.json", cache_dir=cache_dir / "hub")
    except Exception as error:  # offline, unknown, gated: many kinds, and one thing to say
        raise missing_file(
            f"tokenizer={name!r} is no file here and could not be had from the Hub "
            f"({type(error).__name__}): check the name and the connection."
        ) from error
    return Path(path).read_text(encoding="utf-8")
