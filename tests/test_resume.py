"""A run that was stopped anywhere and goes on is the run that was never stopped, bit for bit."""

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small_runs import SMALL_WORDS, model, text, trainer, write_text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_modules.main import main
from lit_modules.training import checkpoint, cli
from lit_modules.training.mixer_config import complete

STEPS = 12


class At(pl.Callback):
    """Calls something when a batch of a given number begins, in training or in a validation."""

    def __init__(self, batch: int, call: Any, *, in_validation: bool = False):
        self.batch, self.call, self.in_validation = batch, call, in_validation

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if not self.in_validation and trainer.fit_loop.total_batch_idx == self.batch:
            self.call()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int, dataloader_idx: int = 0
    ) -> None:
        if self.in_validation and trainer.fit_loop.total_batch_idx == self.batch:
            self.call()


class Died(Exception):
    """What ends a run with no time to save."""


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def die() -> None:
    raise Died


def run(folder: Path, *callbacks: pl.Callback, ckpt_path: str | None = None, **options: Any) -> dict[str, Tensor]:
    """Trains, or trains on, and returns the weights."""
    data = text(folder)
    module = model(data)
    options = {"max_steps": STEPS} | options
    trainer(folder, callbacks=list(callbacks), **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the only run in a folder, but for the speed."""
    [version] = (folder / "runs").glob("*/version_*")
    board = EventAccumulator(str(version)).Reload()
    names = [name for name in board.Tags()["scalars"] if name != "tokens_per_second"]
    return {name: sorted({(event.step, event.value) for event in board.Scalars(name)}) for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, list[tuple[int, float]]]]:
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), curves(folder)


@pytest.mark.parametrize("batch", range(STEPS - 1))
def test_a_run_interrupted_in_any_batch_goes_on_as_if_it_had_not_been(batch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, At(batch, interrupt))
    assert stopped.value.code == 130
    torch.testing.assert_close(run(tmp_path, ckpt_path="last"), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [3, 7])
def test_a_run_interrupted_in_a_validation_runs_it_again_and_goes_on(batch: int, whole: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, At(batch, interrupt, in_validation=True))
    torch.testing.assert_close(run(tmp_path, ckpt_path="last"), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [4, 7, 9])
def test_a_run_that_died_goes_on_from_an_older_checkpoint_as_if_it_had_not(
    batch: int, whole: Any, tmp_path: Path
) -> None:
    with pytest.raises(Died):
        run(tmp_path, At(batch, die), save_every_n_steps=3)
    torch.testing.assert_close(run(tmp_path, ckpt_path="last", save_every_n_steps=3), whole[0], rtol=0, atol=0)
    assert curves(tmp_path) == whole[1]


@pytest.mark.parametrize("batch", [4, 5, 6, 7])
def test_an_accumulated_step_is_finished_before_the_run_stops(batch: int, tmp_path: Path) -> None:
    accumulated = {"accumulate_grad_batches": 3, "max_steps": 4, "val_check_interval": 2}
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = run(tmp_path / "whole", **accumulated)
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", At(batch, interrupt), **accumulated)
    parts = run(tmp_path / "parts", ckpt_path="last", **accumulated)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert curves(tmp_path / "parts") == curves(tmp_path / "whole")


def test_sigterm_stops_a_run_with_its_own_code_and_leaves_the_handlers_as_they_were(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, At(2, lambda: signal.raise_signal(signal.SIGTERM)))
    assert stopped.value.code == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    ran: list[int] = []
    with pytest.raises(SystemExit):
        run(tmp_path, At(2, twice), At(3, lambda: ran.append(3)))
    assert not ran
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(tmp_path, At(2, interrupt))
    told = capsys.readouterr().out
    assert "Stopped at step 3 of 12" in told
    assert "fit --ckpt_path=last" in told


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run that ended at step 4, in whose folder we are."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    words = [*SMALL_WORDS, "--model.dropout=0.1", "--model.mixer=retention", "--model.mixer.num_heads=2"]
    main([*words, "--model.overrides.1=attention", "--model.decay_steps=9"])
    return words


class Prepared(cli.CLI):
    """A command with everything built, and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_a_run_goes_on_without_any_option_being_said_again(stopped: list[str]) -> None:
    command = Prepared(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    assert complete(command.model.hparams["mixer"]).options["num_heads"] == 2
    assert command.model.hparams["dropout"] == 0.1
    assert command.datamodule.corpus == "corpus.txt"
    assert command.datamodule.batch_size == 4
    assert command.trainer.limit_val_batches == 2
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    [version] = Path("runs").glob("*/version_*")  # in the same folder
    saved = torch.load(version / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 8
    assert saved["datamodule_hyper_parameters"]["tokenizer"] == "bytes"


def test_a_run_from_the_command_line_goes_on_as_if_it_had_not_stopped(stopped: list[str]) -> None:
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    overrides = ["--model.overrides.1=attention", "--model.decay_steps=9"]
    main([*stopped, *overrides, "--trainer.max_steps=8"])
    parts, whole = (
        torch.load(f"runs/retention-attention/version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (0, 1)
    )
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("said", "both"),
    [
        ("--model.mixer=hyena", ("model.mixer='hyena'", "'retention'")),
        ("--model.mixer.num_heads=4", ("model.mixer.num_heads=4", "2")),
        ("--model.overrides.0=attention", ("model.overrides",)),
        ("--model.depth=3", ("model.depth=3", "2")),
        ("--model.dim=64", ("model.dim=64", "32")),
        ("--data.tokenizer=bpe", ("data.tokenizer='bpe'", "'bytes'")),
        ("--data.vocab_size=99", ("data.vocab_size=99", "8192")),
        ("--trainer.max_steps=4", ("step 4 already", "larger --trainer.max_steps")),
    ],
)
def test_what_the_weights_were_not_made_for_is_refused(
    said: str, both: tuple[str, ...], stopped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--ckpt_path=last", "--trainer.max_steps=8", said])
    assert ended.value.code == 2
    sentence = capsys.readouterr().err
    assert all(part in sentence for part in both), sentence


def test_the_same_options_said_again_are_fine(stopped: list[str]) -> None:
    said = [
        "--model.mixer=retention",
        "--model.overrides.1=attention",
        "--data.tokenizer=bytes",
        "--trainer.max_steps=8",
    ]
    assert Prepared(["fit", "--ckpt_path=last", *said]).saved is not None
    [config] = Path("runs").glob("*/version_0/config.yaml")
    assert Prepared(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_steps=8"]).saved is not None


def test_other_options_that_are_said_win_over_the_checkpoint(stopped: list[str]) -> None:
    Path("typed.yaml").write_text("model: {weight_decay: 0.5}")
    said = ["--model.lr=0.5", "--model.schedule=constant", "--model.dropout=0.3", "--data.batch_size=2"]
    words = ["fit", "--ckpt_path=last", "--trainer.max_steps=6", "--config=typed.yaml", "--seed_everything=7", *said]
    command = Prepared(words)
    command.trainer.fit(command.model, datamodule=command.datamodule, ckpt_path=command.config.fit.ckpt_path)
    groups = command.trainer.optimizers[0].param_groups
    assert {group["lr"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert command.model.hparams["dropout"] == 0.3
    assert command.model.hparams["seed"] == 7
    assert command.datamodule.batch_size == 2


def test_validation_needs_the_checkpoint_alone(stopped: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["validate", "--ckpt_path=last", "--trainer.limit_val_batches=2"])
    heading, row = capsys.readouterr().out.splitlines()[-2:]
    assert heading.endswith("bits per byte")
    assert row.startswith("corpus.txt ")
    assert [path.name for path in Path("runs").rglob("version_*")] == ["version_0"]


def test_a_corpus_is_not_needed_to_write(stopped: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("corpus.txt").unlink()
    capsys.readouterr()
    main(["generate", "--ckpt_path=last", "--prompt=the", "--prompt=a state", "--max_tokens=3", "--seed=1"])
    first, second = capsys.readouterr().out.strip("\n").split("\n\n")[:2]
    assert first.startswith("the")
    assert second.startswith("a state")


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "code": Trap(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        checkpoint.read_file(path)
    assert not (tmp_path / "ran").exists()


class Trap:
    """Something that leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)
