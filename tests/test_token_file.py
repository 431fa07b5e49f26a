import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from lit_modules.data import token_file as module
from lit_modules.data import tokenizer
from lit_modules.data.datamodule import Text
from lit_modules.data.token_file import TokenFile, token_file
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer

DOCUMENTS = ["first", "sécond\nand more", "third"]


class Wide(Tokenizer):
    """Bytes with an end that needs more than sixteen bits."""

    def __init__(self) -> None:
        self._bytes = bytes_tokenizer()
        self.vocab_size = 2**16 + 1
        self.end = 2**16

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._bytes.encode_batch(texts)


def write(path: Path, documents: list[str] = DOCUMENTS) -> TokenFile:
    return token_file(path, lambda: documents, bytes_tokenizer())


def test_documents_follow_each_other_each_with_an_end(tmp_path: Path) -> None:
    file = write(tmp_path / "a.bin")
    expected = [token for text in DOCUMENTS for token in [*text.encode(), 256]]
    assert file.open().tolist() == expected
    assert (file.tokens, file.bytes, file.documents) == (len(expected), len(expected) - 3, 3)


@pytest.mark.parametrize(("tokenizer", "dtype"), [(bytes_tokenizer(), "uint16"), (Wide(), "uint32")])
def test_ids_take_two_bytes_if_they_fit(tmp_path: Path, tokenizer: Tokenizer, dtype: str) -> None:
    file = token_file(tmp_path / "a.bin", lambda: ["x"], tokenizer)
    assert file.dtype == dtype == file.open().dtype
    assert file.open().tolist() == [ord("x"), tokenizer.end]


def test_a_whole_file_is_not_written_again(tmp_path: Path) -> None:
    def read_again() -> list[str]:
        raise AssertionError("the documents were read again")

    written = write(tmp_path / "a.bin")
    assert token_file(tmp_path / "a.bin", read_again, bytes_tokenizer()) == written


@pytest.mark.parametrize("suffix", [".bin", ".json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_a_damaged_file_is_written_again(tmp_path: Path, suffix: str, damage) -> None:
    written = write(tmp_path / "a.bin")
    damage(tmp_path / f"a{suffix}")
    assert write(tmp_path / "a.bin") == written
    assert written.open().size == written.tokens


def test_the_content_digest_follows_the_tokens(tmp_path: Path) -> None:
    contents = [
        write(tmp_path / f"{index}.bin", texts).content for index, texts in enumerate([["ab"], ["ab"], ["a", "b"]])
    ]
    assert contents[0] == contents[1] != contents[2]


def test_a_long_document_is_encoded_in_pieces_and_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["a line\n" * 40 + "x" * 70, "", "short", "y" * 64]
    whole = write(tmp_path / "whole.bin", documents)
    monkeypatch.setattr(tokenizer, "PIECE", 32)
    monkeypatch.setattr(module, "BATCH", 64)
    sizes: list[int] = []
    original = Tokenizer.encode_batch

    def encode_batch(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        sizes.extend(map(len, texts))
        return original(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", encode_batch)
    pieced = write(tmp_path / "pieced.bin", documents)
    assert max(sizes) <= 32 < max(map(len, documents))
    assert pieced.content == whole.content
    assert pieced.documents == 4


def build_together(corpus: str, cache: str, start: Barrier) -> None:
    start.wait()
    prepared = Text(corpus, vocab_size=300, cache_dir=cache)
    assert prepared.token_file("train").open().size == prepared.token_file("train").tokens


def test_two_processes_that_start_together_build_one_cache(tmp_path: Path) -> None:
    corpus, cache = tmp_path / "a.txt", tmp_path / "cache"
    corpus.write_text("the cat sat on the mat\n" * 5000, encoding="utf-8")
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    workers = [spawn.Process(target=build_together, args=(str(corpus), str(cache), start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list(cache.glob("tokens/*.bin"))) == len(list(cache.glob("tokenizers/*.json"))) == 1
    assert not list(cache.rglob("*.partial"))
    tokens = np.fromfile(next(cache.glob("tokens/*.bin")), np.uint16)
    prepared = Text(str(corpus), vocab_size=300, cache_dir=str(cache))
    assert prepared.tokenizer.decode(tokens[:-1].tolist()) == "the cat sat on the mat\n" * 4000
