"""Mixtures and streams on two processes: the batches and losses of one, also when the number changes on the way."""

import json
from pathlib import Path

import pytest
import torch
from small_distributed import PROGRAM, checkpoints, curve, fit, on, saved, start
from small_recording import PROGRAM as RECORDING
from small_recording import global_batches, recorded_step
from small_runs import WORDS

from lit_modules.data import streaming
from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel

STEPS = 6
SAME = ["--model.schedule=constant", "--trainer.val_check_interval=3"]
DATA = {
    "mixture": ["--data.corpus={digits.txt: 0.7, letters.txt: 0.3}"],
    "stream": ["--data.corpus=rows.jsonl", "--data.streaming=true", "--data.val_tokens=200"],
    "worker": ["--data.corpus=rows.jsonl", "--data.streaming=true", "--data.val_tokens=200", "--data.num_workers=1"],
}
RUNS = ["two", "more", "fewer"]  # on two processes, on one and then two, and on two and then one


def first_half(run: str, data: str, processes: int) -> list[str]:
    return fit(f"{run}_{data}", *DATA[data], *SAME, f"--trainer.max_steps={STEPS // 2}", *on(processes, "auto"))


def second_half(run: str, data: str, processes: int) -> list[str]:
    path = checkpoints(Path(f"{run}_{data}")) / "last.ckpt"
    return ["fit", f"--ckpt_path={path}", f"--trainer.max_steps={STEPS}", *on(processes, "auto")]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same runs on one process, on two, on one and then two, and on two and then one."""
    folder = tmp_path_factory.mktemp("runs")
    numbers = torch.randint(1000, (3000,), generator=torch.Generator().manual_seed(0)).tolist()
    (folder / "digits.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    words = [" ".join(WORDS[number % 14] for number in numbers[start : start + 30]) for start in range(0, 3000, 30)]
    (folder / "letters.txt").write_text("\n".join(words), encoding="utf-8")
    rows = "".join(json.dumps({"text": document}) + "\n" for document in words)
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(LitLanguageModel, "training_step", recorded_step)
        patch.setattr(streaming, "WINDOW", 20)
        for data in DATA:
            main(fit(f"one_{data}", *DATA[data], *SAME, f"--trainer.max_steps={STEPS}"))
            main(first_half("more", data, 1))
        jobs = [fit(f"two_{data}", *DATA[data], *SAME, f"--trainer.max_steps={STEPS}", *on(2, "auto")) for data in DATA]
        jobs += [second_half("more", data, 2) for data in DATA] + [first_half("fewer", data, 2) for data in DATA]
        ran = start(folder, jobs, program=RECORDING + PROGRAM)
        assert ran.returncode == 0, ran.stderr
        for data in DATA:
            main(second_half("fewer", data, 1))
        yield folder


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("data", DATA)
def test_the_samples_of_each_step_are_those_of_one_process(data: str, run: str, folder: Path) -> None:
    expected = global_batches(f"one_{data}")
    assert len(expected) == STEPS
    assert all(len(batch) == 4 for batch in expected)
    assert len({tuple(row) for batch in expected for row in batch}) > 3 * STEPS
    assert global_batches(f"{run}_{data}") == expected


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("data", DATA)
def test_the_losses_are_those_of_one_process(data: str, run: str, folder: Path) -> None:
    tags = {"train/loss": STEPS, "val/loss": 2}
    if data == "mixture":
        tags |= {"val/loss/digits.txt": 2, "val/loss/letters.txt": 2}
    for tag, length in tags.items():
        expected = curve(folder / f"one_{data}", "retention", tag)
        assert len(expected) == length
        assert curve(folder / f"{run}_{data}", "retention", tag) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("data", DATA)
def test_the_checkpoint_is_that_of_one_process(data: str, run: str, folder: Path) -> None:
    found, expected = (saved(folder / f"{name}_{data}") for name in (run, "one"))
    torch.testing.assert_close(found["state_dict"], expected["state_dict"], rtol=0, atol=1e-5)
    states = [content["Text"].pop("stream", {}) for content in (found, expected)]
    if data != "mixture":
        tokens = [state.pop("tokens").tolist() for state in states]
        assert tokens[0] == tokens[1]
    assert states[0] == states[1]
    assert found["Text"] == expected["Text"]
