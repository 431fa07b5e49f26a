"""A loss or gradient that is not a finite number stops a run before anything is made of it, or is skipped."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from small_runs import model, text, trainer
from torch import Tensor

from lit_modules.training.callbacks.progress import Samples
from lit_modules.training.language_model import LitLanguageModel


class Bad(LitLanguageModel):
    """A model whose loss, or gradient alone, is no number at some steps."""

    def spoil(self, *steps: int, factor: float = float("nan"), gradient_only: bool = False) -> "Bad":
        self.steps, self.factor, self.gradient_only = steps, factor, gradient_only
        return self

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.global_step + 1 not in self.steps:
            return loss
        bad = loss * self.factor
        return bad - (bad - loss).detach() if self.gradient_only else bad


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a model that is bad at some steps; returns it."""
    monkeypatch.setattr("small_runs.LitLanguageModel", Bad)

    def run(*steps: int, spoil: dict[str, Any] = {}, **options: Any) -> Bad:  # noqa: B006
        data = text(tmp_path)
        bad: Bad = model(data).spoil(*steps, **spoil)  # type: ignore[attr-defined]
        trainer(tmp_path, **options).fit(bad, datamodule=data)
        return bad

    return run


@pytest.mark.parametrize("spoil", [{}, {"factor": float("inf")}, {"gradient_only": True}])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_run_ends_before_it_validates_or_saves_with_the_step_and_what_to_try(
    spoil: dict[str, Any], clip: float | None, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(Samples, "on_validation_end", lambda self, trainer, _: used.append(trainer.global_step))
    with pytest.raises(FloatingPointError, match=r"at step 6, where the learning rate is 0\.00\d+: .*model\.lr"):
        run(6, spoil=spoil, log_every_n_steps=50, gradient_clip_val=clip)
    assert used == [4]
    [last] = tmp_path.rglob("last.ckpt")
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 4
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())


def test_a_bad_step_before_the_first_one_that_is_logged_leaves_no_checkpoint(run: Any, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 1,"):
        run(1, log_every_n_steps=50)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_logged_step_ends_the_run_at_once(run: Any) -> None:
    class Count(pl.Callback):
        steps = 0

        def on_train_batch_start(self, *_: Any) -> None:
            self.steps += 1

    count = Count()
    with pytest.raises(FloatingPointError, match="step 2"):
        run(2, callbacks=[count])
    assert count.steps == 2


def test_a_gradient_beyond_the_range_of_its_squares_is_not_finite(run: Any) -> None:
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 3"):
        run(3, spoil={"factor": 1e30, "gradient_only": True}, gradient_clip_val=None)


def test_weights_that_are_no_numbers_are_not_saved(run: Any, tmp_path: Path) -> None:
    class Spoil(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                next(pl_module.parameters()).data[0] = float("nan")

    with pytest.raises(FloatingPointError, match="the size of the weights is not finite at step 4"):
        run(callbacks=[Spoil()])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_skipped_if_that_is_asked_for(accumulate: int, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    weights: dict[int, list[Tensor]] = {}

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            weights[trainer.global_step] = [weight.detach().clone() for weight in pl_module.parameters()]

    done = run(3, skip_nonfinite_steps=True, callbacks=[Keep()], accumulate_grad_batches=accumulate)
    assert done.global_step == 12
    torch.testing.assert_close(weights[3], weights[2], rtol=0, atol=0)
    assert not any(torch.equal(new, old) for new, old in zip(weights[4], weights[3], strict=True))
    assert [said for said in caplog.messages if "step 3 is skipped" in said]
    assert all(weight.isfinite().all() for weight in weights[12])


def test_a_run_that_would_only_skip_ends(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_modules.training.callbacks.finite.MAX_SKIPPED", 3)
    with pytest.raises(FloatingPointError, match=r"the last 4 steps .* up to step 5"):
        run(*range(2, 12), skip_nonfinite_steps=True)
