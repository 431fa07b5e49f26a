"""A run: what it leaves behind, what it shows, and the choices it makes."""

import shutil
from functools import partialmethod
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from small_runs import model, text, trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.training import precision
from lit_modules.training.callbacks import progress
from lit_modules.training.trainer import Trainer
from mixers import Retention


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 12 steps."""
    folder = tmp_path_factory.mktemp("run")
    data = text(folder)
    trainer(folder).fit(model(data), datamodule=data)
    return folder / "runs" / "retention-attention" / "version_0"


def test_a_run_keeps_its_best_and_its_last_checkpoint(run: Path) -> None:
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    best, last = (torch.load(run / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    assert last["global_step"] == 12
    assert best["global_step"] in (4, 8, 12)


@pytest.mark.parametrize(
    ("tag", "count"),
    [
        ("train/loss", 12),
        ("lr", 12),
        ("grad_norm", 12),
        ("tokens_per_second", 12),
        ("val/loss", 3),
        ("val/perplexity", 3),
        ("val/bits_per_byte", 3),
        ("final/val/perplexity", 1),
    ],
)
def test_tensorboard_shows_every_curve(tag: str, count: int, run: Path) -> None:
    board = EventAccumulator(str(run)).Reload()
    values = [event.value for event in board.Scalars(tag)]
    assert len(values) == count
    assert all(value > 0 for value in values[:-1])


def test_tensorboard_shows_what_the_model_writes_after_each_validation(run: Path) -> None:
    assert len(EventAccumulator(str(run)).Reload().Tensors("sample/text_summary")) == 3


def test_perplexity_and_bits_per_byte_follow_from_the_loss(run: Path) -> None:
    board = EventAccumulator(str(run)).Reload()
    loss, perplexity, bits = (
        board.Scalars(f"val/{name}")[-1].value for name in ("loss", "perplexity", "bits_per_byte")
    )
    assert torch.tensor(loss).exp().item() == pytest.approx(perplexity, rel=1e-5)
    bytes_per_token = loss / torch.tensor(2.0).log().item() / bits
    assert 0.99 < bytes_per_token <= 1  # a token is a byte, but for the end tokens, which are none


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_a_run_of_any_length_ends_with_a_validation(
    steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = text(tmp_path)
    fitter = trainer(tmp_path, max_steps=steps, val_check_interval=4)
    fitter.fit(model(data), datamodule=data)
    [board] = (tmp_path / "runs" / "retention-attention").iterdir()
    validations = EventAccumulator(str(board)).Reload().Scalars("val/loss")
    assert len(validations) == -(-steps // 4)
    told = capsys.readouterr().out
    assert "bits per byte: " in told
    assert "generate --ckpt_path=" in told
    assert "mixer " in told


def test_without_a_validation_set_there_is_only_the_last_checkpoint(tmp_path: Path) -> None:
    data = text(tmp_path)
    trainer(tmp_path, max_steps=3, limit_val_batches=0).fit(model(data), datamodule=data)
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]


def test_validations_and_savings_are_counted_in_optimizer_steps(tmp_path: Path) -> None:
    validated: list[int] = []

    class Note(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            validated.append(trainer.global_step)

    data = text(tmp_path)
    fitter = trainer(tmp_path, max_steps=6, val_check_interval=2, accumulate_grad_batches=3, callbacks=[Note()])
    fitter.fit(model(data), datamodule=data)
    assert validated == [2, 4, 6]


def test_a_run_is_measured_in_steps() -> None:
    with pytest.raises(ValueError, match="max_steps"):
        Trainer(max_epochs=2)


def test_a_falling_schedule_needs_an_end_and_a_constant_one_does_not(tmp_path: Path) -> None:
    data = text(tmp_path)
    with pytest.raises(ValueError, match=r"schedule='cosine'.*max_steps"):
        trainer(tmp_path, max_steps=-1).fit(model(data), datamodule=data)

    class Enough(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step >= 3

    fitter = trainer(tmp_path, max_steps=-1, callbacks=[Enough()])
    fitter.fit(model(data, schedule="constant"), datamodule=data)
    assert fitter.global_step == 3


def test_a_model_learns(tmp_path: Path) -> None:
    data = text(tmp_path)
    fitter = trainer(tmp_path, max_steps=40, val_check_interval=40)
    fitter.fit(model(data, mixer=Retention, overrides=None, dropout=0.0, dim=32), datamodule=data)
    assert fitter.callback_metrics["val/perplexity"] < 20  # 257 where nothing is learnt


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True}, "bf16-mixed"),
        ({"avx512_bf16": False, "avx512_f": True}, "32-true"),
    ],
)
@pytest.mark.parametrize("accelerator", ["cpu", CPUAccelerator()])
def test_bfloat16_is_chosen_where_the_processor_multiplies_it(
    accelerator: object, capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.best_precision(accelerator).name == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
def test_bfloat16_is_chosen_where_the_gpu_multiplies_it(
    accelerator: str, native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert precision.best_precision(accelerator).name == expected


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("get_capabilities", "_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not precision.cpu_multiplies_bfloat16()


def test_the_choice_is_said_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    Trainer(max_steps=1, accelerator="cpu", logger=False)
    assert [record for record in caplog.messages if "bfloat16 natively" in record]
    assert not [record for record in caplog.messages if "Tip" in record]


def test_one_bar_counts_the_optimizer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    data = text(tmp_path)
    trainer(tmp_path, enable_progress_bar=True, accumulate_grad_batches=2).fit(model(data), datamodule=data)
    shown = capsys.readouterr().out
    assert "Training: 100%" in shown
    assert "12/12" in shown
    assert "Epoch" not in shown
    assert "validation perplexity=" in shown
    assert "tokens/s=" in shown


def test_without_a_terminal_there_is_a_line_for_each_tenth_and_each_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = text(tmp_path)
    trainer(tmp_path, enable_progress_bar=True, max_steps=20, val_check_interval=5).fit(model(data), datamodule=data)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    tenths, validations = set(range(2, 21, 2)), set(range(5, 21, 5))
    assert {line.split(":")[0] for line in lines} == {f"step {step} of 20" for step in tenths | validations}
    assert all("loss" in line and "tokens/s" in line for line in lines)
    assert "validation perplexity" in lines[-1]


class TestCompile:
    @pytest.fixture(autouse=True)
    def without_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What torch.compile would make is run as it is: whether blocks are compiled is what matters here."""
        monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))

    def test_a_compiled_run_has_the_same_weights_under_the_same_names(self, tmp_path: Path) -> None:
        weights = []
        for compile in (False, True):
            data = text(tmp_path)
            module = model(data, dropout=0.0, compile=compile)
            trainer(tmp_path, max_steps=3, precision="64-true").fit(module, datamodule=data)
            assert all((block._compiled_call_impl is not None) is compile for block in module.model.blocks)
            weights.append(module.state_dict())
        assert weights[0].keys() == weights[1].keys()
        torch.testing.assert_close(weights[1], weights[0])

    def test_without_a_compiler_it_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None)
        data = text(tmp_path)
        with pytest.raises(ValueError, match="compile=True cannot be: there is no C"):
            trainer(tmp_path, max_steps=3).fit(model(data, compile=True), datamodule=data)
