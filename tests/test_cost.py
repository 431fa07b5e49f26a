"""What a row's model costs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_study import prepare

from lit_modules.commands.compare import cost
from lit_modules.commands.compare.cost import exponent, measure_costs
from lit_modules.commands.compare.study import read_study
from mixers import Retention
from mixers.benchmark import Row


def test_growth_is_told_by_its_exponent() -> None:
    lengths = [64, 128, 256]
    assert exponent([lengths, [1.0, 4.0, 16.0]]) == pytest.approx(2)
    assert exponent([lengths, [5.0, 5.0, 5.0]]) == pytest.approx(0)
    assert exponent([lengths, [5.0, None, 5.0]]) is None


def test_a_model_that_does_not_fit_is_a_gap_that_says_so(tmp_path: Path, monkeypatch) -> None:
    def out_of_memory(self: Retention, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Retention, "forward", out_of_memory)
    costs = measure_costs(read_study(prepare(tmp_path)), 257, torch.float32, torch.device("cpu"))
    assert costs["RetNet"]["tokens_per_second"] is None
    assert costs["RetNet"]["note"] == "out of memory"
    assert costs["Linear, one head"]["tokens_per_second"] is not None
    assert costs["Linear, one head"]["speed"] is None, "there is no first row's to compare with"


def test_ratios_are_of_times_in_the_same_round(tmp_path: Path, monkeypatch) -> None:
    study, loads, rounds = read_study(prepare(tmp_path, cost={"lengths": [64, 128], "rounds": 3})), [1, 10, 2], []

    def measured(what, subjects, settings, **_) -> Iterator[Row]:
        [at] = settings
        rounds.append((what, at))
        load = loads[rounds.count((what, at)) - 1]
        for subject, seconds in zip(subjects, [1.0, 2.0], strict=True):
            grows = at.length if what == "decode" else 1
            yield Row(what, subject, at, seconds=load * seconds * grows, tokens_per_second=1.0)

    monkeypatch.setattr(cost, "measure", measured)
    costs = measure_costs(study, 257, torch.float32, torch.device("cpu"))
    assert costs["Linear, one head"]["speed"] == [0.5, 0.5, 0.5], "however much else the machine did"
    assert costs["RetNet"]["longer_context"] == [2, 2, 2]
    assert costs["RetNet"]["token_seconds"][1] == [2 * 64, 2 * 128], "medians of what was measured"


def test_what_is_kept_as_json_comes_back(tmp_path: Path) -> None:
    study = read_study(prepare(tmp_path))
    costs = measure_costs(study, 257, torch.float32, torch.device("cpu"))
    for one in costs.values():
        assert json.loads(json.dumps(one)) == one
