"""The tables of a test as files and as text, and the bytes that they count."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from small_evaluation import OTHER
from small_parts import part

from lit_modules.data.batches import Blocks
from lit_modules.data.token_file import count_bytes
from lit_modules.data.tokenise import token_files
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from lit_modules.evaluation import tables


def test_a_test_that_is_cut_off_leaves_no_finished_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {name: tables.table([(1,) * len(columns)], columns) for name, columns in tables.COLUMNS.items()}
    tables.write(made, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.csv" for name in tables.COLUMNS}
    replace = tables.replace_text

    def fail(path: Path, content: str) -> None:
        if path.name == "pieces.csv":
            raise OSError("no room")
        replace(path, content)

    monkeypatch.setattr(tables, "replace_text", fail)
    with pytest.raises(OSError, match="no room"):
        tables.write(made, tmp_path)
    assert (tmp_path / "positions.csv").exists()
    assert not (tmp_path / "corpora.csv").exists()


@pytest.mark.parametrize("made", [bytes_tokenizer, lambda: train_bpe([OTHER], 400)], ids=["bytes", "bpe"])
def test_the_bytes_of_some_tokens_are_counted_exactly(made: Callable[[], Tokenizer], tmp_path: Path) -> None:
    tokenizer = made()
    documents = [OTHER, "€ " * 9, "<|endoftext|> is text here\n"]
    file = token_files(tmp_path / "x.json", [part(documents)], tokenizer)["train"]
    ids = file.open().tolist()
    of_each = [count_bytes(file, [(place, place + 1)], tokenizer) for place in range(len(ids))]
    assert sum(of_each) == count_bytes(file, [(0, 5), (5, len(ids))], tokenizer)
    assert sum(of_each) == sum(len(text.encode()) for text in documents)
    for place in range(len(ids)):
        read_back = tokenizer.decode([token for token in ids[:place] if token != tokenizer.end])
        if "\N{REPLACEMENT CHARACTER}" not in read_back:
            assert sum(of_each[:place]) == len(read_back.encode())


def test_other_tokenizers_have_the_bytes_of_an_average_token(tmp_path: Path) -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0, "größer": 1, "[UNK]": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    file = token_files(tmp_path / "x.json", [part(["größer als größer"])], Tokenizer(inner))["train"]
    assert (file.tokens, file.bytes) == (4, 21)
    assert count_bytes(file, [(1, 2), (3, 4)], Tokenizer(inner)) == round(21 * 2 / 4)


def test_tables_without_windows_are_written_with_their_headers(tmp_path: Path) -> None:
    made = {name: tables.table([], columns) for name, columns in tables.COLUMNS.items()}
    tables.write(made, tmp_path)
    for name, columns in tables.COLUMNS.items():
        assert (tmp_path / f"{name}.csv").read_text() == ",".join(columns) + "\n"
    assert tables.as_text(made) == tables.NOTE


@pytest.mark.parametrize("wanted", [1, 2, 7, 12, 13])
def test_spread_blocks_are_of_all_parts_of_a_file_and_none_comes_twice(wanted: int, tmp_path: Path) -> None:
    file = token_files(tmp_path / "x.json", [part(["0123456789" * 4])], bytes_tokenizer())["train"]
    blocks = Blocks(file, "it", block_size=3, max_tokens=3 * wanted + 2, spread=True)
    spans = [blocks.span(index) for index in range(len(blocks))]
    assert len(spans) == wanted
    parts = [int(((start - 1) / 3 + 0.5) / 13 * wanted) for start, _ in spans]  # of as many parts of the 13 blocks
    assert parts == list(range(wanted))
    for index, (start, stop) in enumerate(spans):
        assert blocks[index].tolist() == file.open()[start - 1 : stop].tolist()
    if wanted == 13:
        assert spans == [(start, start + 3) for start in range(1, 40, 3)]
