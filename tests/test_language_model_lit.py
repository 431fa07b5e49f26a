"""The Lightning module: what it optimises, how it measures, and what its checkpoints say."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import model, text, trainer
from torch import nn

from lit_modules.evaluation.scores import bits_per_byte
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import as_config, complete
from lit_modules.training.optimizer import Rates, check_moments, parameter_groups, regroup
from lit_modules.training.results import learning_rates
from lit_modules.training.schedule import lr_factor
from lit_modules.training.validation import mean
from mixers import S4D, Attention, LanguageModel, Retention
from mixers.checks import UsageError


class OwnRates(nn.Module):
    """Parameters with options of their own, and a module inside that overrules one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer_options = {"weight_decay": 0.0, "lr": 1e-3}
        self.rates = nn.Parameter(torch.zeros(2, 2))
        self.slow = nn.Linear(2, 2, bias=False)
        self.slow.optimizer_options = {"lr": 1e-4}  # type: ignore[assignment]


class Marked(nn.Module):
    """One parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.mix = nn.Parameter(torch.zeros(1, 1, 4))
        self.own = OwnRates()


def test_only_matrices_decay_and_each_parameter_learns_at_its_own_rate() -> None:
    marked = copy.deepcopy(Marked())  # as starting a process or averaging weights does
    names = {id(parameter): name for name, parameter in marked.named_parameters()}
    groups = parameter_groups(marked, Rates(lr=1e-2, weight_decay=0.5))
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found == {
        "embed.weight": (1e-2, 0.0),
        "linear.weight": (1e-2, 0.5),
        "linear.bias": (1e-2, 0.0),
        "norm.weight": (1e-2, 0.0),
        "norm.bias": (1e-2, 0.0),
        "mix": (1e-2, 0.0),
        "own.rates": (1e-3, 0.0),
        "own.slow.weight": (1e-4, 0.0),
    }


def test_a_rate_of_its_own_is_at_most_that_of_the_model() -> None:
    marked = Marked()
    rates = {
        id(p): group["lr"]
        for group in parameter_groups(marked, Rates(lr=5e-4, weight_decay=0.5))
        for p in group["params"]
    }
    assert rates[id(marked.own.rates)] == rates[id(marked.linear.weight)] == 5e-4
    assert rates[id(marked.own.slow.weight)] == 1e-4


@pytest.mark.parametrize("change", [{"weight_decay": 0.0}, {"lr": 1e-3}, {"lr": 1e-4, "weight_decay": 0.5}])
def test_a_run_may_go_on_with_another_learning_rate_and_weight_decay(change: dict[str, float], tmp_path: Path) -> None:
    data = text(tmp_path)
    mixer = partial(S4D, ssm_lr=1e-3)
    trainer(tmp_path, max_steps=2).fit(model(data, mixer=mixer), datamodule=data)
    [path] = tmp_path.rglob("last.ckpt")
    resumed, options = trainer(tmp_path, max_steps=4), {"lr": 1e-2, "weight_decay": 0.1} | change
    resumed.fit(model(data, mixer=mixer, **change), datamodule=data, ckpt_path=str(path))
    groups = resumed.optimizers[0].param_groups
    assert {(group["initial_lr"], group["weight_decay"]) for group in groups} == {
        (options["lr"], options["weight_decay"]), (options["lr"], 0.0), (min(1e-3, options["lr"]), 0.0),
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"lr": 1e-3, "weight_decay": 0.5}, {"lr": 1e-2, "weight_decay": 0.0}])
def test_an_optimizer_saved_with_groups_of_equal_options_merged_goes_on(options: dict[str, float]) -> None:
    marked, merged = Marked(), {}
    names = {parameter: name for name, parameter in marked.named_parameters()}
    groups = parameter_groups(marked, Rates(**options))
    pairs = {parameter: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}
    for pair in dict.fromkeys((group["lr"], group["weight_decay"]) for group in groups):
        merged[pair] = [parameter for parameter in marked.parameters() if pairs[parameter] == pair]
    assert len(merged) < len(groups)
    old = torch.optim.AdamW([{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in merged.items()])
    for parameter in set(names) - {marked.mix}:  # one without any state
        parameter.grad = torch.rand_like(parameter)
    old.step()
    new = torch.optim.AdamW(groups)
    new.load_state_dict(regroup(old.state_dict(), marked, Rates(**options)))
    assert new.state.keys() == old.state.keys() == set(names) - {marked.mix}
    for parameter, state in old.state.items():
        torch.testing.assert_close(new.state[parameter], state, rtol=0, atol=0)
    assert regroup(new.state_dict(), marked, Rates(**options)) == new.state_dict()
    marked.own.optimizer_options["lr"] = 3e-3
    marked.own.slow.optimizer_options["lr"] = 3e-3  # type: ignore[index]
    with pytest.raises(UsageError, match="another ssm_lr"):
        regroup(old.state_dict(), marked, Rates(lr=1e-4, weight_decay=0.3))


def test_mixers_feed_forward_layers_and_embeddings_have_multipliers_of_the_rate() -> None:
    module = LanguageModel(
        partial(S4D, ssm_lr=1e-3, state_size=2), vocab_size=11, dim=32, depth=1, tie_embeddings=False
    )
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    rates = Rates(lr=1.0, weight_decay=0.1, mixer_lr_ratio=0.5, ffn_lr_ratio=2.0, embedding_lr_ratio=4.0)
    groups = parameter_groups(module, rates)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found["blocks.0.ffn.up.weight"] == (2.0, 0.1)
    assert found["embed.weight"] == (4.0, 0.0)
    assert found["head.weight"] == (4.0, 0.1)
    assert {found[name][0] for name in found if "norm" in name} == {1.0}
    assert {found[name][0] for name in found if ".mixer." in name} == {0.5, 1e-3}
    assert groups[0]["lr"] == rates.lr  # which is logged


def test_the_results_of_a_run_name_the_rates_of_its_parts() -> None:
    assert learning_rates(Rates(lr=0.004, weight_decay=0.1)) == "learning rate: 0.004"
    rates = Rates(lr=0.004, weight_decay=0.1, mixer_lr_ratio=0.25)
    assert learning_rates(rates) == "learning rate: 0.004 (mixer 0.001)"


def test_an_optimizer_saved_before_parts_had_rates_goes_on() -> None:
    module = LanguageModel(vocab_size=11, dim=8, depth=1, ffn_dim=8)
    rates = Rates(lr=1.0, weight_decay=0.1)
    groups = parameter_groups(module, rates)
    decay = [p for group in groups if group["weight_decay"] for p in group["params"]]
    others = [p for group in groups if not group["weight_decay"] for p in group["params"]]
    order = {p: number for number, p in enumerate(module.parameters())}
    old = torch.optim.AdamW([{"params": sorted(params, key=order.__getitem__)} for params in (decay, others)])
    for parameter in module.parameters():
        parameter.grad = torch.rand_like(parameter)
    old.step()
    new = torch.optim.AdamW(groups)
    new.load_state_dict(regroup(old.state_dict(), module, rates))
    for parameter, state in old.state.items():
        torch.testing.assert_close(new.state[parameter], state, rtol=0, atol=0)


def test_a_wsd_schedule_is_constant_until_it_cools_down() -> None:
    factor = lr_factor("wsd", warmup_steps=10, decay_steps=100, min_lr_ratio=0.0, cooldown_steps=20)
    assert [factor(step) for step in (0, 9, 10, 80, 90, 100, 120)] == pytest.approx([0.1, 1, 1, 1, 0.5, 0, 0])
    usual = lr_factor("wsd", warmup_steps=0, decay_steps=100, min_lr_ratio=0.1)
    assert [usual(step) for step in (80, 90, 100)] == pytest.approx([1, 0.55, 0.1])


@pytest.mark.parametrize(
    ("schedule", "halfway", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_learning_rate_rises_and_falls_to_its_floor(schedule: Any, halfway: float, end: float) -> None:
    factor = lr_factor(schedule, warmup_steps=10, decay_steps=110, min_lr_ratio=0.1)
    assert [factor(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [factor(step) for step in (60, 110, 1000)] == pytest.approx([halfway, end, end])
    falling = [factor(step) for step in range(10, 120)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_run_really_learns_at_the_scheduled_rate(schedule: str, tmp_path: Path) -> None:
    data = text(tmp_path)
    module = model(data, schedule=schedule, lr=0.01, warmup_steps=2, min_lr_ratio=0.0)
    fitter = trainer(tmp_path, max_steps=4)
    fitter.fit(module, datamodule=data)
    assert fitter.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    assert fitter.lr_scheduler_configs[0].scheduler.last_epoch == 4


def test_a_typo_in_an_option_of_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"dept=1 .* did you mean 'depth'\?"):
        LitLanguageModel(vocab_size=10, dim=8, dept=1)


def test_a_mixer_that_no_checkpoint_could_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"functools\.partial"):
        LitLanguageModel(mixer=lambda dim: Retention(dim, num_heads=2), vocab_size=10, dim=8, depth=1)


def test_mixers_given_by_name_are_kept_as_their_classes() -> None:
    module = LitLanguageModel(mixer="lstm", overrides={1: "gru"}, vocab_size=10, dim=8, depth=2)
    assert [type(block.mixer).__name__ for block in module.model.blocks] == ["LSTM", "GRU"]
    assert complete(module.hparams["mixer"]).name == "lstm"
    assert complete(module.hparams["overrides"][1]).name == "gru"


def test_a_factory_and_its_config_describe_the_same_mixer() -> None:
    described = complete(as_config(partial(Retention, num_heads=2)))
    assert described.cls is Retention
    assert described.name == "retention"
    assert described.options["num_heads"] == 2
    assert described.options.keys() == complete({"class_path": "mixers.names.retention"}).options.keys()


def test_a_checkpoint_of_a_model_made_in_python_rebuilds_it_twice(tmp_path: Path) -> None:
    data = text(tmp_path)
    module = model(data)
    trainer(tmp_path, max_steps=2, val_check_interval=2).fit(module, datamodule=data)
    [path] = tmp_path.rglob("best.ckpt")
    again = LitLanguageModel.load_from_checkpoint(path, weights_only=True)
    assert isinstance(again.model.blocks[0].mixer, Retention)
    assert isinstance(again.model.blocks[1].mixer, Attention)
    assert again.hparams["vocab_size"] == data.vocab_size
    torch.testing.assert_close(dict(again.state_dict()), dict(module.state_dict()), rtol=0, atol=0)
    other = trainer(tmp_path, max_steps=4)
    other.fit(again, datamodule=text(tmp_path))
    [path] = tmp_path.rglob("version_1/checkpoints/best.ckpt")
    assert str(LitLanguageModel.load_from_checkpoint(path, weights_only=True)) == str(again)


def test_batches_count_by_their_tokens() -> None:
    metric = mean()
    metric.update(torch.full((3, 10), 1.0))
    metric.update(torch.full((1, 10), 4.0))
    assert metric.compute() == 1.75
    metric.reset()
    metric.update(torch.full((1, 5), 2.0))
    assert metric.compute() == 2.0


def test_many_small_losses_add_up_exactly() -> None:
    metric = mean()
    for _ in range(3000):
        metric.update(torch.full((4099,), 0.1))
    assert metric.compute().item() == pytest.approx(torch.tensor(0.1).item(), rel=1e-12)


def test_a_validation_loss_that_is_not_a_number_shows() -> None:
    metric = mean()
    metric.update(torch.tensor([[1.0, math.nan]]))
    assert metric.compute().isnan()


def test_the_weights_alone_are_saved_of_the_module() -> None:
    module = LitLanguageModel(mixer=partial(Retention, num_heads=2), vocab_size=5, dim=8, depth=1)
    assert module.state_dict().keys() == {f"model.{name}" for name in module.model.state_dict()}


def test_a_model_that_guesses_bytes_evenly_needs_eight_bits_for_each() -> None:
    assert bits_per_byte(torch.tensor(math.log(256), dtype=torch.float64), 1.0).item() == pytest.approx(8)
    assert bits_per_byte(torch.tensor(math.log(256), dtype=torch.float64), 4.0).item() == pytest.approx(2)


def test_dropout_depends_on_the_batch_and_the_seed_alone(tmp_path: Path) -> None:
    def draws(seed: int) -> list[float]:
        drawn: list[float] = []
        data = text(tmp_path)
        module = model(data, seed=seed)
        step = module.training_step

        def noted(batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            drawn.append(torch.rand(()).item())
            return step(batch, batch_idx)

        module.training_step = noted  # type: ignore[method-assign]
        torch.manual_seed(len(drawn) + seed)
        trainer(tmp_path, max_steps=3, logger=False).fit(module, datamodule=data)
        return drawn

    first, second, other = draws(0), draws(0), draws(1)
    assert first == second
    assert len({*first, *other}) == 6


def test_moments_of_other_shapes_are_refused_before_the_optimizer_writes_past_them() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    optimizer = torch.optim.AdamW(parameter_groups(model, Rates(lr=1e-3, weight_decay=0.1)))
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    check_moments(optimizer.state_dict(), model)
    for change in ("shape", "missing", "order", "number"):
        state = optimizer.state_dict()
        moments = state["state"] = {number: dict(values) for number, values in state["state"].items()}
        if change == "shape":
            moments[0]["exp_avg_sq"] = torch.zeros(2)
        elif change == "missing":
            del moments[1]["exp_avg"]
        elif change == "order":
            state["param_groups"][0]["params"].reverse()
        else:
            moments[9] = moments[0]
        with pytest.raises(UsageError, match="the state of an optimizer of other weights"):
            check_moments(state, model)
