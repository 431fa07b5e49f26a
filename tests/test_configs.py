"""The configs of the paper's models and of studies: what they describe can be built, and has the size it says."""

from pathlib import Path

import pytest
import torch
import yaml

from lit_modules.commands.compare.budgets import parts_of
from lit_modules.commands.compare.check import check_options
from lit_modules.commands.compare.cost import build_model
from lit_modules.commands.compare.study import deep_merge, read_study
from lit_modules.main import main
from lit_modules.training.mixer_config import complete
from mixers import available
from mixers.benchmark import Case
from mixers.model import BLOCK_PARAMETERS

CONFIGS = Path(__file__).parent.parent / "configs"
COMPARISONS = [f"comparison/{name}.yaml" for name in ("laptop", "tokens", "tokens_256", "gpu")]
COMPARISONS += ["paper/comparison.yaml"]
STUDIES = [*COMPARISONS, "comparison/rates.yaml"]
STUDIES += [f"tasks/{path.name}" for path in sorted((CONFIGS / "tasks").glob("*.yaml"))]

# Parameters with GPT-2's 50,257 tokens and tied embeddings.
SIZES = {"200m": 0.253e9, "1.3b": 1.31e9, "2.7b": 2.65e9, "6.7b": 6.65e9, "3b": 2.65e9}


def options_of(name: str) -> dict:
    return yaml.safe_load((CONFIGS / "paper" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SIZES)
def test_a_model_of_the_paper_has_its_size(name):
    options = options_of(name)["model"]
    with torch.device("meta"):
        counts = build_model({"mixer": "retention", **options}, Case(0, vocab_size=50257)).parameter_counts()
    assert sum(counts.values()) == pytest.approx(SIZES[name], rel=0.005)
    blocks = BLOCK_PARAMETERS * options["dim"] ** 2 * options["depth"]
    assert counts["mixer"] + counts["feed_forward"] == pytest.approx(blocks, rel=0.01)


@pytest.mark.parametrize("name", SIZES)
def test_a_config_of_the_paper_has_only_options_of_fit(name, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", f"--config={CONFIGS}/paper/{name}.yaml", "--print_config"])
    assert f"dim: {options_of(name)['model']['dim']}\n" in capsys.readouterr().out


@pytest.mark.parametrize("path", STUDIES)
def test_every_row_of_a_study_has_only_options_of_fit(path):
    check_options(parts_of(read_study(CONFIGS / path))[0])


@pytest.mark.parametrize("path", COMPARISONS)
def test_the_rows_of_a_comparison_have_blocks_of_the_same_size(path):
    study = parts_of(read_study(CONFIGS / path))[0]
    for row in study.rows:
        model = study.options(row)["model"]
        with torch.device("meta"):
            counts = build_model(model, Case(0, vocab_size=8192)).parameter_counts()
        blocks = BLOCK_PARAMETERS * model["dim"] ** 2 * model["depth"]
        assert counts["mixer"] + counts["feed_forward"] == pytest.approx(blocks, rel=0.01), row


def test_rates_are_tried_for_every_row_of_the_laptops_comparison():
    laptop, rates = (read_study(CONFIGS / "comparison" / name) for name in ("laptop.yaml", "rates.yaml"))
    tried = [options["model"] for options in rates.rows.values()]
    for row, options in laptop.rows.items():
        for rate in (0.004, 0.008, 0.016, options["model"]["lr"]):
            assert {**options["model"], "lr": rate} in tried, (row, rate)
    assert (rates.fit["model"], rates.fit["data"]) == (laptop.fit["model"], laptop.fit["data"])


def test_at_twice_the_width_all_but_the_width_is_the_same():
    small, wide = (read_study(CONFIGS / "comparison" / f"{name}.yaml") for name in ("tokens", "tokens_256"))
    assert wide.fit == deep_merge(small.fit, {"model": {"dim": 2 * small.fit["model"]["dim"]}})
    assert (wide.test, wide.cost) == (small.test, small.cost)
    assert [budget.steps for budget in wide.budgets] == [budget.steps for budget in small.budgets]
    for row in wide.rows:
        twice, once = (complete(rows[row]["model"]["mixer"]) for rows in (wide.rows, small.rows))
        heads = {"num_heads": 2 * once.options["num_heads"]} if "num_heads" in once.options else {}
        assert twice == once._replace(options=once.options | heads), row


def test_recall_is_measured_of_every_mixer():
    models = [options["model"] for options in read_study(CONFIGS / "tasks" / "recall.yaml").rows.values()]
    last = [model["pattern"][-1] if "pattern" in model else model["mixer"] for model in models]
    assert sorted(complete(mixer).name for mixer in last) == sorted(available())


def test_the_papers_sets_are_options_of_test():
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["test", f"--config={CONFIGS}/paper/out_of_domain.yaml", "--print_config"])
