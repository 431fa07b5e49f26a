"""Files of token ids: whole, checked when read, and damaged in many ways."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_parts import part
from small_text import text

from lit_modules.data import token_file as module
from lit_modules.data import tokenise
from lit_modules.data.token_file import Ids, TokenFile, digest
from lit_modules.data.tokenise import token_files
from lit_modules.data.tokenizer import bytes_tokenizer

DOCUMENTS = ["first " * 40, "sécond\nand more " * 40, "third " * 40]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(tokenise, "CHUNK", 64)


def write(folder: Path) -> TokenFile:
    return token_files(folder / "a.json", [part(DOCUMENTS)], bytes_tokenizer())["train"]


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_any_slice_is_that_of_the_ids(tmp_path: Path) -> None:
    ids, expected = write(tmp_path).open(), [token for text in DOCUMENTS for token in [*text.encode(), 256]]
    for part_of in (slice(0, 0), slice(31, 33), slice(5, 900), slice(-3, None), slice(10**6, None), slice(7, 3)):
        assert ids[part_of].tolist() == expected[part_of]
    assert (len(ids), ids.tolist()) == (len(expected), expected)


@pytest.mark.parametrize("data", [b"\0" * 64, b"\xff"])
def test_what_is_not_what_was_written_is_never_read(tmp_path: Path, data: bytes) -> None:
    file = write(tmp_path)
    overwrite(file.path, 640, data)
    ids = file.open()
    assert ids[:320].tolist() == [*DOCUMENTS[0].encode(), 256, *DOCUMENTS[1].encode()][:320]
    with pytest.raises(ValueError, match=r"^the token file '.*a\.train\.bin' is damaged: its content .*; delete it"):
        ids[310:330]


def test_a_chunk_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, checked = write(tmp_path).open(), list[bytes]()
    monkeypatch.setattr(module, "digest", lambda data: checked.append(bytes(data)) or digest(data))
    for _ in range(3):
        ids[0:40]
    assert [len(data) for data in checked] == [64, 64]


def test_a_file_that_gets_shorter_while_it_is_read_ends_in_a_sentence(tmp_path: Path) -> None:
    file = write(tmp_path)
    ids = file.open()
    ids[:]
    overwrite(file.path, 0, b"")
    with file.path.open("r+b") as opened:
        opened.truncate(100)
    for read in (lambda: ids[200:300], file.open):
        with pytest.raises(ValueError, match=r"is damaged: it has another length than was written; delete it"):
            read()


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.path.unlink()
    with pytest.raises(ValueError, match=r"^the token file '.*a\.train\.bin' cannot be read; delete it"):
        file.open()


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_no_batch_comes_from_a_file_of_zeros(corpus: str, cache: Path, loader: str) -> None:
    text(corpus).prepare_data()
    for path in cache.glob("tokens/*.bin"):
        zeros(path)
    damaged = text(corpus)
    damaged.setup("fit")
    with pytest.raises(ValueError, match="is damaged"):
        next(iter(getattr(damaged, loader)()))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["a.train.bin", "a.json"])
@pytest.mark.parametrize(
    "damage", [cut, Path.unlink, lambda path: path.write_text("[]"), lambda path: path.write_text("")]
)
def test_files_that_are_not_whole_are_made_again(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    written = write(tmp_path)
    damage(tmp_path / name)
    assert write(tmp_path) == written
    assert len(written.open().tolist()) == written.tokens


def test_a_large_file_is_opened_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "digest", lambda data: pytest.fail("a chunk was read"))
    file = dataclasses.replace(write(tmp_path), tokens=2**30)
    with file.path.open("r+b") as opened:
        opened.truncate(2**31)  # no block of it is on the disk
    assert len(Ids(file)) == 2**30


def test_ids_take_two_bytes_if_they_fit(tmp_path: Path) -> None:
    tokenizer = bytes_tokenizer()
    for size, dtype in ((2**16, "uint16"), (2**16 + 1, "uint32")):
        tokenizer.vocab_size, tokenizer.end = size, size - 1
        file = token_files(tmp_path / f"{size}.json", [part(["x"])], tokenizer)["train"]
        assert file.dtype == dtype == file.open()[:].dtype
        assert np.array_equal(file.open()[:], [ord("x"), size - 1])
