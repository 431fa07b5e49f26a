"""Synthetic tasks as data: splits, parts, order, ranks, resuming, and what is measured of them."""

import inspect
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import lines, says, trainer

from lit_modules.data import registry
from lit_modules.data.base import Batch
from lit_modules.data.synthetic.mqar import MQAR
from lit_modules.data.synthetic.parts import combine, part_batches, part_names
from lit_modules.data.synthetic.state_tracking import Parity
from lit_modules.data.synthetic.task import Task
from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel
from mixers import GRU
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

TASKS = {name: registry.get(name) for name in registry.DATA if ".synthetic." in registry.DATA[name]}
SMALL = {"examples": 40, "val_examples": 6, "test_examples": 5, "batch_size": 4}
GRID = {**SMALL, "vocab_size": 40, "length": [16, 24], "num_kv_pairs": [2, 3]}


def mqar(**options: object) -> MQAR:
    return MQAR(**{**GRID, **options})  # type: ignore[arg-type]


def model(data: Task) -> LitLanguageModel:
    torch.manual_seed(0)
    return LitLanguageModel(mixer=GRU, vocab_size=data.vocab_size, dim=8, depth=1, lr=1e-2, decay_steps=100)


def batches(data: Task, count: int) -> list[Batch]:
    found = iter(data.train_dataloader())
    return [next(found) for _ in range(count)]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_same_seed_gives_the_same_examples_and_others_give_others(task):
    first, again, other = (task(**SMALL, seed=seed).parts("train")[0] for seed in (3, 3, 4))
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_measured_does_not_depend_on_the_seed(task):
    first, other = (task(**SMALL, seed=seed) for seed in (3, 4))
    assert first.validation_digest == other.validation_digest
    assert first.parts("test")[0].digest == other.parts("test")[0].digest
    assert first.parts("test")[0].digest != first.parts("validation")[0].digest != first.parts("train")[0].digest


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_ids_and_targets_are_of_the_vocabulary_and_each_example_asks_something(task):
    data = task(**SMALL)
    for split in ("train", "validation", "test"):
        for part in data.parts(split):
            assert part.inputs.shape == part.targets.shape
            assert 0 <= part.inputs.min() <= part.inputs.max() < data.vocab_size
            asked = part.targets != IGNORED
            assert asked.any(1).all()
            assert 0 <= part.targets[asked].min() <= part.targets[asked].max() < data.vocab_size


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_option_is_documented(task):
    documented = "".join(base.__doc__ for base in task.__mro__ if issubclass(base, Task))
    names = {name for name in task(**SMALL).hparams if name != "tokenizer"}
    assert {name for name in names if f"        {name}: " not in documented} == set()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_misspelt_option_is_refused(task):
    with pytest.raises(TypeError, match="lenght"):
        task(lenght=8)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_nothing_that_the_weights_were_made_for_may_change_in_a_resumed_run(task):
    made_for = {"tokenizer", "vocab_size", "noise_ids", "map_seed", "modulus", "brackets", "group"}
    options = set(task(**SMALL).hparams)
    assert task.changeable_options == options - made_for
    assert set(inspect.signature(task).parameters) - {"common"} <= options


def test_an_epoch_has_the_full_batches_of_each_part_once():
    found = [
        index
        for batch, _ in zip(part_batches([10, 7], **order(batch_size=3)), range(5), strict=False)
        for index in batch
    ]
    assert len(set(found)) == 15
    assert sum(index < 10 for index in found) == 9


def test_each_batch_is_of_one_part():
    lengths = [batch.inputs.shape for batch in batches(mqar(), 20)]
    assert sorted(lengths) == [(4, 16)] * 10 + [(4, 24)] * 10
    assert lengths != sorted(lengths)


def test_two_epochs_have_different_orders():
    found = part_batches([12, 8], **order(batch_size=4))
    first, second = ([next(found) for _ in range(5)] for _ in range(2))
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second))


@pytest.mark.parametrize("start", [0, 4, 28, 60])
def test_the_order_goes_on_at_any_sample(start):
    whole, rest = (
        part_batches([12, 16], **order(batch_size=4)),
        part_batches([12, 16], **order(batch_size=4, start=start)),
    )
    for _ in range(start // 4):
        next(whole)
    assert [next(whole) for _ in range(20)] == [next(rest) for _ in range(20)]


def test_ranks_share_each_batch_of_a_single_process():
    whole, *ranks = (
        part_batches([12, 16], **order(batch_size=4, rank=rank, world_size=size))
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    for _ in range(20):
        assert next(whole) == next(ranks[0]) + next(ranks[1])


def order(**options: int) -> dict[str, int]:
    return {"seed": 0, "start": 0, "rank": 0, "world_size": 1, **options}


def test_lists_make_parts_and_single_numbers_count_for_all():
    made = combine({"length": [16, 24], "num_kv_pairs": 2})
    assert made == [{"length": 16, "num_kv_pairs": 2}, {"length": 24, "num_kv_pairs": 2}]
    assert part_names(made) == ["length=16", "length=24"]
    assert part_names(combine({"length": 16})) == [""]
    assert part_names(combine({"length": [16, 24], "pairs": [2, 3]})) == ["length=16,pairs=2", "length=24,pairs=3"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": [16, 24, 32]}, "equally many numbers"),
        ({"length": []}, "equally many numbers"),
        ({"length": 16, "num_kv_pairs": 2, "examples": [40, 50, 3]}, "examples=3"),
        ({"test_length": [16, 16], "test_num_kv_pairs": 2}, "alike"),
        ({"num_kv_pairs": [2, 7]}, "length=24 has no room for num_kv_pairs=7: write an even number of 28 or more"),
        ({"length": 15, "num_kv_pairs": 2}, "even number"),
        ({"vocab_size": 4}, "vocab_size=4 is too small"),
        ({"power": 0}, "power=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"examples": 10**12}, "memory"),
        ({"tokenizer": "bytes"}, "tokenizer='bytes' does not have the 40 ids"),
    ],
    ids=str,
)
def test_options_that_make_no_examples_are_refused_in_a_sentence(options, said):
    with pytest.raises(UsageError) as refused:
        _ = mqar(**options).tokenizer
    assert said in str(refused.value)


def test_test_lists_make_parts_of_their_own():
    data = mqar(test_length=[16, 32, 32], test_num_kv_pairs=[2, 2, 4])
    assert [part.block_size for part in data.parts("train")] == [16, 24]
    assert [part.block_size for part in data.parts("validation")] == [16, 32, 32]
    assert list(data.validation_weights) == [f"length={n},num_kv_pairs={d}" for n, d in ((16, 2), (32, 2), (32, 4))]
    assert [len(part) for part in data.parts("test")] == [5] * 3


def test_the_tokenizer_writes_and_reads_ids_as_numbers():
    data = mqar()
    assert data.tokenizer.encode("3 17 0") == [3, 17, 0]
    assert data.tokenizer.decode([3, 17, 0]) == " 3 17 0"
    with pytest.raises(UsageError, match="write numbers from 0 to 39"):
        data.tokenizer.encode("three")


def test_a_resumed_run_goes_on_with_the_next_batch():
    all_of_them, resumed = batches(mqar(), 30), mqar()
    resumed.load_state_dict({**resumed.state_dict(), "samples_seen": 12 * 4})
    assert same(all_of_them[12:], batches(resumed, 18))


def test_training_stopped_and_resumed_ends_with_the_same_weights(tmp_path: Path):
    def weights(folder: str, *steps: int) -> list[torch.Tensor]:
        path = None
        for end in steps:
            data = mqar()
            lit, run = model(data), trainer(tmp_path / folder, max_steps=end, val_check_interval=100)
            run.fit(lit, datamodule=data, ckpt_path=path)
            path = str(next((tmp_path / folder).rglob("last.ckpt")))
        return list(lit.parameters())

    assert all(map(torch.equal, weights("whole", 6), weights("parts", 3, 6)))


def test_validation_and_test_count_the_right_answers_of_each_part(tmp_path: Path):
    data = mqar()
    lit, run = model(data), trainer(tmp_path, limit_val_batches=1.0, logger=False, enable_checkpointing=False)
    [validated] = run.validate(lit, datamodule=data, verbose=False)
    [tested] = run.test(lit, datamodule=data, verbose=False, split="validation", output_dir=tmp_path / "out")
    right, losses, names = [], [], ["length=16,num_kv_pairs=2", "length=24,num_kv_pairs=3"]
    for part in data.parts("validation"):
        logits = lit.model(torch.from_numpy(part.inputs).long())
        targets = torch.from_numpy(part.targets).long()
        asked = targets != IGNORED
        right.append((logits.argmax(-1) == targets)[asked].double().mean().item())
        losses.append(torch.nn.functional.cross_entropy(logits[asked], targets[asked]).item())
    expected = {"loss": np.mean(losses), "accuracy": np.mean(right)}
    for name, loss, accuracy in zip(names, losses, right, strict=True):
        expected |= {f"loss/{name}": loss, f"accuracy/{name}": accuracy}
    for found, split in ((validated, "val"), (tested, "test")):
        measured = {name: found[f"{split}/{name}"] for name in expected}
        assert measured == pytest.approx(expected, abs=1e-6)
    rows = lines(tmp_path / "out" / "accuracy.csv")
    assert [row["part"] for row in rows] == ["all", *names]
    assert [row["targets"] for row in rows] == ["30", "12", "18"]
    assert float(rows[0]["accuracy"]) == pytest.approx(expected["accuracy"])


def test_a_gru_learns_parity_and_holds_it_for_longer_examples(tmp_path: Path):
    data = Parity(min_length=1, length=8, test_length=[8, 40], examples=20_000, val_examples=100)
    torch.manual_seed(0)
    options = {"lr": 1e-2, "schedule": "constant", "warmup_steps": 50, "weight_decay": 0.0}
    lit = LitLanguageModel(mixer=GRU, vocab_size=data.vocab_size, dim=16, depth=1, **options)
    own = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0}
    run = trainer(tmp_path, max_steps=250, val_check_interval=250, limit_val_batches=1.0, log_every_n_steps=100, **own)
    run.fit(lit, datamodule=data)
    assert run.callback_metrics["val/accuracy/length=40"] > 0.95


def test_a_task_trains_resumes_and_is_measured_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = ["--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    fit = [
        *("fit", "--data=mqar", "--data.vocab_size=40", "--data.length=[16,24]", "--data.num_kv_pairs=[2,3]"),
        *("--data.examples=40", "--data.val_examples=6", "--data.test_examples=5", "--data.batch_size=4"),
        *("--model.mixer=gru", "--model.dim=8", "--model.depth=1", "--model.warmup_steps=1", *own),
        "--trainer.val_check_interval=2",
    ]
    main([*fit, "--trainer.max_steps=2"])
    assert "measure it: " in capsys.readouterr().out
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=4", "--data.batch_size=8", *own])
    main(["test", "--ckpt_path=last"])
    assert "length=24,num_kv_pairs=3" in capsys.readouterr().out
    [table] = tmp_path.rglob("test/accuracy.csv")
    assert len(lines(table)) == 3
    main(["validate", "--ckpt_path=last", "--data.test_length=32", "--data.test_num_kv_pairs=[1,8]"])
    assert "num_kv_pairs=8" in capsys.readouterr().out
    main(["convert", "last", "shared"])
    main(["generate", "--ckpt_path=shared", "--prompt=3 30 5 25 3", "--max_tokens=2"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 30 5 25 3 ")
    assert "write some" in says(["generate"], capsys)
    assert "vocab_size=48" in says(["fit", "--ckpt_path=last", "--data.vocab_size=48"], capsys)
    assert "no text" in says(["generate", "--prompt=hello"], capsys)
