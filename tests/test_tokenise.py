"""A corpus as token files: in parts, in groups, in processes, stopped and gone on, on disks that are full."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_parts import NAMES, deadly, numbers, part, read_numbers, without_torch

from lit_modules.data import encode, tokenise, tokenizer
from lit_modules.data.corpora import Part, load_corpus
from lit_modules.data.datamodule import Text
from lit_modules.data.encode import Writer
from lit_modules.data.tokenise import token_files
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from mixers.checks import UsageError


def expected(split: str, documents: int = 20) -> list[int]:
    found = (text for name, text in read_numbers(0, documents) if name == split)
    return [token for text in found for token in [*text.encode(), 256]]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "GROUP", 1)
    monkeypatch.setattr(tokenise, "POOL_FROM", 99)


@pytest.mark.parametrize("size", [1, 500, 10**6])
def test_each_split_follows_the_order_of_the_parts(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "GROUP", size)
    monkeypatch.setattr(tokenise, "POOL_FROM", 99)
    files = token_files(tmp_path / "a.json", numbers(), bytes_tokenizer())
    assert set(files) == set(NAMES)
    for split, file in files.items():
        assert file.open().tolist() == expected(split)
        assert (file.documents, file.bytes) == (expected(split).count(256), file.tokens - file.documents)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {
        "a.json", "a.train.bin", "a.validation.bin", "a.test.bin",
    }  # fmt: skip


def test_a_pool_writes_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = token_files(tmp_path / "alone.json", numbers(), bytes_tokenizer())
    monkeypatch.setattr(tokenise, "GROUP", 1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setattr(encode, "encode_group", None)  # of this process, which must not encode
    monkeypatch.setattr(tokenise, "encode_group", None)
    together = token_files(tmp_path / "together.json", numbers(), bytes_tokenizer())
    assert {split: file.content for split, file in together.items()} == {
        split: file.content for split, file in alone.items()
    }


def test_processes_of_a_pool_do_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [{"text": f"document {number}"} for number in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    pd.DataFrame(documents).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("\n<|endoftext|>\n".join(row["text"] for row in documents), encoding="utf-8")
    corpora = [load_corpus(name, cache_dir=tmp_path) for name in (str(tmp_path), "sotu")]
    parts = [without_torch(part) for corpus in corpora for part in corpus.parts[:3]]
    assert len(parts) == 4
    monkeypatch.setattr(tokenise, "GROUP", 1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    files = token_files(tmp_path / "tokens.json", parts, train_bpe([row["text"] for row in documents], 270))
    assert sum(file.documents for file in files.values()) > 120


def test_every_document_is_read_once_for_all_splits(tmp_path: Path) -> None:
    read = list[str]()

    def documents() -> Iterator[tuple[str, str]]:
        for split, document in read_numbers(0, 20):
            read.append(document)
            yield split, document

    for _ in range(2):
        token_files(tmp_path / "a.json", [Part("a", 0, documents)], bytes_tokenizer())
    assert len(read) == len(set(read)) == 20


def test_the_content_digest_follows_the_tokens(tmp_path: Path) -> None:
    files = [
        token_files(tmp_path / f"{index}.json", [part(texts)], bytes_tokenizer())["train"]
        for index, texts in enumerate([["ab"], ["ab"], ["a", "b"]])
    ]
    assert files[0].content == files[1].content != files[2].content


def test_a_long_document_is_encoded_in_pieces_and_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["a line\n" * 40 + "x" * 70, "", "short", "y" * 64]
    whole = token_files(tmp_path / "whole.json", [part(documents)], bytes_tokenizer())["train"]
    monkeypatch.setattr(tokenizer, "PIECE", 32)
    monkeypatch.setattr(encode, "BATCH", 64)
    sizes: list[int] = []
    original = Tokenizer.encode_arrays

    def encode_arrays(self: Tokenizer, texts: list[str]) -> list[np.ndarray]:
        sizes.extend(map(len, texts))
        return original(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_arrays", encode_arrays)
    pieced = token_files(tmp_path / "pieced.json", [part(documents)], bytes_tokenizer())["train"]
    assert max(sizes) <= 32 < max(map(len, documents))
    assert (pieced.content, pieced.documents) == (whole.content, 4)


def test_half_a_character_is_replaced_and_two_halves_are_joined(tmp_path: Path) -> None:
    file = token_files(
        tmp_path / "a.json", [Part("a", 0, lambda: iter([("train", "\ud83d\ude00 \ud83d.")]))], bytes_tokenizer()
    )
    assert bytes(file["train"].open().tolist()[:-1]).decode() == "😀 \ufffd."


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("damage", [None, "cut", "zeros", "facts"])
def test_a_stopped_run_goes_on_with_the_groups_that_are_whole(tmp_path: Path, damage: str | None) -> None:
    read = list[int]()

    def documents(number: int, fails: bool) -> Iterator[tuple[str, str]]:
        read.append(number)
        if fails:
            raise KeyboardInterrupt
        return read_numbers(number * 5, number * 5 + 5)

    def parts(fails: int) -> list[Part]:
        return [Part("", 300, partial(documents, number, number == fails)) for number in range(4)]

    with pytest.raises(KeyboardInterrupt):
        token_files(tmp_path / "a.json", parts(fails=2), bytes_tokenizer())
    assert not (tmp_path / "a.json").exists()
    [first] = (tmp_path / "a.groups").glob("0000001-*.train.bin")
    match damage:
        case "cut":
            first.write_bytes(first.read_bytes()[:-2])
        case "zeros":
            first.write_bytes(bytes(first.stat().st_size))
        case "facts":
            (tmp_path / "a.groups" / "0000001-0000002.json").write_text('{"train": {}}')
    read.clear()
    files = token_files(tmp_path / "a.json", parts(fails=-1), bytes_tokenizer())
    assert read == ([2, 3] if damage is None else [1, 2, 3])
    assert {split: file.open().tolist() for split, file in files.items()} == {split: expected(split) for split in NAMES}


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_a_sentence_and_nothing_passes_for_whole(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Writer, *rest: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "add", full)
        with pytest.raises(
            UsageError, match=r"^the cache folder '.*' cannot be written \(.*\): make room .*data\.cache_dir"
        ):
            token_files(tmp_path / "a.json", numbers(), bytes_tokenizer())
    assert not (tmp_path / "a.json").exists()
    assert token_files(tmp_path / "a.json", numbers(), bytes_tokenizer())["test"].open().tolist() == expected("test")


def test_a_cache_that_is_no_folder_is_named(tmp_path: Path, corpus: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"the cache folder '.*file/tokens' cannot be written .*LIT_MIXERS_CACHE"):
        Text(corpus, tokenizer="bytes", block_size=7, cache_dir=str(tmp_path / "file")).prepare_data()


def test_a_killed_process_of_the_pool_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "GROUP", 1)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    with pytest.raises(UsageError, match="a process that tokenises was killed"):
        token_files(tmp_path / "a.json", [*numbers(3), deadly()], bytes_tokenizer())
    assert not (tmp_path / "a.json").exists()


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from small_parts import slow_numbers
from lit_modules.data import tokenise
from lit_modules.data.tokenizer import bytes_tokenizer
tokenise.GROUP = 1
tokenise.token_files(Path({folder!r}, "a.json"), slow_numbers(Path({folder!r})), bytes_tokenizer())
"""


def test_a_killed_run_leaves_no_process_and_no_lock_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SCRIPT.format(folder=str(tmp_path), path=[str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    run = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"LOKY_MAX_CPU_COUNT": "2"})
    wait_for(lambda: len(list(tmp_path.glob("[23].*"))) == 2)  # which are only begun when 0 and 1 are done
    run.kill()
    run.wait()
    workers = [int(path.suffix[1:]) for path in tmp_path.glob("[23].*")]
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    done = [json.loads(path.read_text()) for path in tmp_path.glob("a.groups/*.json")]
    assert len(done) == 2
    monkeypatch.setattr(tokenise, "GROUP", 1)
    monkeypatch.setattr(tokenise, "POOL_FROM", 99)
    assert token_files(tmp_path / "a.json", numbers(), bytes_tokenizer())["train"].open().tolist() == expected("train")


def wait_for(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that within a minute")


def build_together(corpus: str, cache: str, start: Barrier) -> None:
    start.wait()
    prepared = Text(corpus, vocab_size=300, cache_dir=cache)
    assert len(prepared.token_file("train").open()) == prepared.token_file("train").tokens


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
    assert len(list(cache.glob("tokens/*.train.bin"))) == len(list(cache.glob("tokenizers/*.json"))) == 1
    assert not [path for path in cache.rglob("*") if "partial" in path.name or "groups" in path.name]
    tokens = np.fromfile(next(cache.glob("tokens/*.train.bin")), np.uint16)
    prepared = Text(str(corpus), vocab_size=300, cache_dir=str(cache))
    assert prepared.tokenizer.decode(tokens[:-1].tolist()) == "the cat sat on the mat\n" * 4000
