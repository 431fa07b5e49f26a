"""The command `test`: every number of its tables, computed again the plain way."""

import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_evaluation import OTHER, column, read, run_of, trained_folder
from small_runs import model, text, trainer, write_text

from lit_modules.data.datamodule import Text
from lit_modules.evaluation import tables
from lit_modules.evaluation.scores import LAST, EvalCorpus
from lit_modules.training.language_model import LitLanguageModel

PROJECT = Path(__file__).parents[1]
CONTEXTS = [128, 300, 200]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_folder(tmp_path_factory.mktemp("tested"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return run_of(folder)


@pytest.fixture(scope="module")
def tested(folder: Path, run: Path) -> Path:
    """The tables of a checkpoint that lies elsewhere than in its run."""
    data, ckpt_path = text(folder), folder / "elsewhere" / "copy.ckpt"
    ckpt_path.parent.mkdir()
    shutil.copy(run / "checkpoints" / "last.ckpt", ckpt_path)
    corpora = [EvalCorpus(str(folder / "other.txt"))]
    trainer(folder).test(model(data), datamodule=data, ckpt_path=str(ckpt_path), corpora=corpora, contexts=CONTEXTS)
    return ckpt_path.parent / "test"


@pytest.fixture(scope="module")
def trained(run: Path) -> LitLanguageModel:
    return LitLanguageModel.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True).eval()


def own_ids(folder: Path) -> list[int]:
    """The tokens of the run's test split."""
    ids: list[int] = text(folder).token_file("test").open().tolist()
    return ids


@torch.no_grad()
def one_by_one(module: LitLanguageModel, row: list[int]) -> list[float]:
    """What each token but the first costs, given those before it in the row, token by token."""
    state, costs = module.model.initial_state(1), []
    for token, target in pairwise(row):
        logits, state = module.model.extend(torch.tensor([[token]]), state)
        costs.append(-logits[0, 0].double().log_softmax(-1)[target].item())
    return costs


@torch.no_grad()
def nats(module: LitLanguageModel, row: list[int]) -> list[float]:
    """`one_by_one`, all at once."""
    logits = module.model(torch.tensor([row[:-1]]))[0].double()
    return [-logits[place].log_softmax(-1)[target].item() for place, target in enumerate(row[1:])]


def test_the_loss_of_each_corpus_is_that_of_a_loop_over_its_tokens(
    folder: Path, tested: Path, trained: LitLanguageModel
) -> None:
    other = [*OTHER.encode(), 256]
    for row, ids in zip(read(tested, "corpora"), (own_ids(folder), other), strict=True):
        costs = [cost for start in range(0, len(ids) - 16, 16) for cost in one_by_one(trained, ids[start : start + 17])]
        loss = sum(costs) / len(costs)
        assert int(row["tokens"]) == len(costs) == (len(ids) - 1) // 16 * 16
        assert float(row["loss"]) == pytest.approx(loss, rel=1e-6)
        assert float(row["perplexity"]) == pytest.approx(math.exp(loss), rel=1e-5)
        assert float(row["bits_per_byte"]) == pytest.approx(sum(costs) / math.log(2) / int(row["bytes"]), rel=1e-6)


def test_bytes_are_those_of_the_tokens_that_are_scored(folder: Path, tested: Path) -> None:
    for row, ids in zip(read(tested, "corpora"), (own_ids(folder), [*OTHER.encode(), 256]), strict=True):
        scored = ids[1 : 1 + int(row["tokens"])]
        assert int(row["bytes"]) == len(scored) - scored.count(256)
    assert row["corpus"] == str(folder / "other.txt")


def test_blocks_from_all_parts_of_a_split_are_scored_if_not_all_tokens_are_wanted(
    folder: Path, trained: LitLanguageModel
) -> None:
    data, ids = text(folder), own_ids(folder)
    results = trainer(folder / "few", logger=False).test(trained, datamodule=data, max_tokens=330, contexts=[128, 320])
    [row] = read(folder / "few" / "runs" / "test", "corpora")
    blocks = (len(ids) - 1) // 16
    starts = [int((part + 0.5) * blocks / 20) * 16 for part in range(20)]
    assert starts[-1] > 16 * blocks * 0.9
    costs = [cost for start in starts for cost in nats(trained, ids[start : start + 17])]
    assert int(row["tokens"]) == len(costs) == 320
    assert float(row["loss"]) == pytest.approx(sum(costs) / 320, rel=1e-6)
    scored = [token for start in starts for token in ids[start + 1 : start + 17]]
    assert int(row["bytes"]) == len(scored) - scored.count(256)
    assert results == [{f"test/{name}": float(row[name]) for name in ("loss", "perplexity", "bits_per_byte")}]
    contexts = read(folder / "few" / "runs" / "test", "contexts")
    end = ((len(ids) - 1) // 320 // 2 + 1) * 320 + 1  # of the window in the middle
    for row in contexts:
        costs = nats(trained, ids[end - int(row["context"]) - 1 : end])[-LAST:]
        assert int(row["tokens"]) == len(costs) == LAST
        assert float(row["loss"]) == pytest.approx(sum(costs) / LAST, rel=1e-5)


def test_a_test_takes_no_more_tokens_than_a_validation_unless_it_is_told(
    folder: Path, trained: LitLanguageModel
) -> None:
    for name, options, expected in (("capped", {}, "160"), ("more", {"max_tokens": 330}, "320")):
        running, data = trainer(folder / name, logger=False), text(folder, val_tokens=170)
        running.test(trained, datamodule=data, contexts=[], **options)
        assert [row["tokens"] for row in read(folder / name / "runs" / "test", "corpora")] == [expected]


def test_every_context_predicts_the_same_last_tokens(folder: Path, tested: Path, trained: LitLanguageModel) -> None:
    rows, ids, window = read(tested, "contexts"), own_ids(folder), max(CONTEXTS)
    windows = [ids[end - window : end + 1] for end in range(window, len(ids), window)]
    assert len(windows) > 1
    assert column(rows, "context") == sorted(CONTEXTS)
    for row in rows:
        lasts = [nats(trained, part[-int(row["context"]) - 1 :])[-LAST:] for part in windows]
        costs = [cost for last in lasts for cost in last]
        assert int(row["tokens"]) == len(costs)
        assert float(row["loss"]) == pytest.approx(sum(costs) / len(costs), rel=1e-5)
        assert float(row["perplexity"]) == pytest.approx(math.exp(float(row["loss"])))


def test_positions_are_averaged_over_the_windows_of_the_longest_context(
    folder: Path, tested: Path, trained: LitLanguageModel
) -> None:
    rows, ids, window = read(tested, "positions"), own_ids(folder), max(CONTEXTS)
    ranges = [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 256), (257, 300)]
    assert [(int(row["first"]), int(row["last"])) for row in rows] == ranges
    costs = [nats(trained, ids[end - window : end + 1]) for end in range(window, len(ids), window)]
    for row, (first, last) in zip(rows, ranges, strict=True):
        part = [cost for of_window in costs for cost in of_window[first - 1 : last]]
        assert int(row["tokens"]) == len(part)
        assert float(row["loss"]) == pytest.approx(sum(part) / len(part), rel=1e-5)


def test_pieces_add_up_to_their_corpus(tested: Path) -> None:
    pieces = read(tested, "pieces")
    for row in read(tested, "corpora"):
        own = [piece for piece in pieces if piece["corpus"] == row["corpus"]]
        assert column(own, "piece") == list(range(len(own)))
        assert sum(column(own, "tokens")) == float(row["tokens"])
        assert sum(column(own, "nats")) == pytest.approx(float(row["loss"]) * float(row["tokens"]), rel=1e-12)


def test_a_piece_is_a_whole_number_of_blocks(folder: Path, trained: LitLanguageModel) -> None:
    write_text(folder / "long.txt", words=1500)
    data = text(folder, block_size=48)
    options: dict[str, Any] = {"corpora": [str(folder / "long.txt")], "contexts": []}
    trainer(folder / "pieces", logger=False).test(trained, datamodule=data, **options)
    pieces = [row for row in read(folder / "pieces" / "runs" / "test", "pieces") if "long" in row["corpus"]]
    *full, rest = column(pieces, "tokens")
    assert set(full) == {2064}  # of the multiples of 48 the nearest to 2048
    assert 0 < rest <= 2064
    assert rest % 48 == 0
    assert read(folder / "pieces" / "runs" / "test", "contexts") == []


def test_blocks_that_start_with_an_end_lose_no_token(folder: Path, trained: LitLanguageModel) -> None:
    data = text(folder, bos=True)
    trainer(folder / "bos", logger=False).test(trained, datamodule=data, contexts=[128, 150])
    [row], contexts = (read(folder / "bos" / "runs" / "test", name) for name in ("corpora", "contexts"))
    ids = own_ids(folder)
    assert int(row["tokens"]) == len(ids) // 16 * 16
    starts = range(0, len(ids) - 15, 16)
    costs = [cost for start in starts for cost in nats(trained, [256, *ids[start : start + 16]])]
    assert float(row["loss"]) == pytest.approx(sum(costs) / len(costs), rel=1e-6)
    lasts = [nats(trained, [256, *ids[end - 128 : end]]) for end in range(150, len(ids) + 1, 150)]
    assert float(contexts[0]["loss"]) == pytest.approx(sum(map(sum, lasts)) / len(lasts) / 128, rel=1e-5)


def test_isolated_documents_are_scored_as_if_alone(tmp_path: Path) -> None:
    documents = [f"{index} people\n" * 6 for index in range(60)]
    data = Text(documents, tokenizer="bytes", block_size=100, isolate_documents=True, cache_dir=str(tmp_path))
    module = model(data, start_token=data.start_token).eval()
    trainer(tmp_path, logger=False).test(module, datamodule=data, contexts=[150])
    [row], positions = (read(tmp_path / "runs" / "test", name) for name in ("corpora", "positions"))
    ids = data.token_file("test").open().tolist()

    def alone(row: list[int]) -> list[float]:
        cuts = [0, *(place for place in range(1, len(row) - 1) if row[place] == data.end), len(row) - 1]
        return [cost for start, stop in pairwise(cuts) for cost in nats(module, row[start : stop + 1])]

    costs = [cost for start in range(0, len(ids) - 100, 100) for cost in alone(ids[start : start + 101])]
    assert int(row["tokens"]) == len(costs)
    assert float(row["loss"]) == pytest.approx(sum(costs) / len(costs), rel=1e-5)
    windows = [alone(ids[start : start + 151]) for start in range(0, len(ids) - 150, 150)]
    last = [cost for window in windows for cost in window[128:]]
    assert float(positions[-1]["loss"]) == pytest.approx(sum(last) / len(last), rel=1e-5)
    together = [cost for start in range(0, len(ids) - 100, 100) for cost in nats(module, ids[start : start + 101])]
    assert sum(together) == pytest.approx(sum(costs), rel=1e-6)
    module.model.start_token = None
    across = [cost for start in range(0, len(ids) - 100, 100) for cost in nats(module, ids[start : start + 101])]
    assert sum(across) != pytest.approx(sum(costs), rel=1e-4)


def test_two_processes_find_what_one_does(folder: Path, run: Path, tested: Path) -> None:
    program = "import sys, torch; from lit_modules.main import main; torch.set_num_threads(1); main(sys.argv[1:])"
    (folder / "program.py").write_text(program)
    (folder / "two").mkdir()
    ckpt_path = shutil.copy(run / "checkpoints" / "last.ckpt", folder / "two")
    words = ["test", f"--ckpt_path={ckpt_path}", f"--contexts={CONTEXTS}", f"--corpora=[{folder / 'other.txt'}]"]
    words += ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.devices=2"]
    words += ["--trainer.precision=32-true"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "program.py", *words]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    assert "MEMBER: 2/2" in ran.stderr
    assert ran.stdout.count("bits per byte") == 1
    for name, columns in tables.COLUMNS.items():
        one, two = read(tested, name), read(folder / "two" / "test", name)
        for heading in columns:
            if heading in ("corpus", "kind", "class"):
                assert [row[heading] for row in two] == [row[heading] for row in one]
            else:
                assert column(two, heading) == pytest.approx(column(one, heading), rel=1e-6)
