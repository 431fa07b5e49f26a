"""What a row's model costs."""

from pathlib import Path

import pytest
import torch
from small_study import prepare

from lit_modules.compare.cost import Growth, measure_costs
from lit_modules.compare.study import read_study
from mixers import Retention


def test_growth_is_told_by_its_exponent() -> None:
    lengths = [64, 128, 256]
    assert Growth(lengths, [1.0, 4.0, 16.0]).exponent == pytest.approx(2)
    assert Growth(lengths, [5.0, 5.0, 5.0]).exponent == pytest.approx(0)
    assert Growth(lengths, [5.0, None, 5.0]).exponent is None


def test_a_model_that_does_not_fit_is_a_gap_that_says_so(tmp_path: Path, monkeypatch) -> None:
    def out_of_memory(self: Retention, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Retention, "forward", out_of_memory)
    costs = measure_costs(read_study(prepare(tmp_path)), 257, torch.float32, torch.device("cpu"), lambda _: None)
    assert costs["RetNet"].tokens_per_second is None
    assert costs["RetNet"].note == "out of memory"
    assert costs["Linear, one head"].tokens_per_second is not None
