"""What the documents show runs: the configs, and the worked example of the contributing guide."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lit_modules.cli import main
from mixers import registry
from mixers.testing import LAWS

PROJECT = Path(__file__).parent.parent
SMALL = [
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--model.dim=128",
    "--model.depth=4",
    "--data.batch_size=2",
    "--data.block_size=32",
    "--data.tokenizer=bytes",
]


@pytest.mark.parametrize("config", sorted(path.name for path in (PROJECT / "configs").glob("*.yaml")))
def test_every_config_trains(config, tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("It was the best of times, it was the worst of times.\n" * 50, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    path = str(PROJECT / "configs" / config)
    main(["fit", f"--config={path}", *SMALL, f"--data.corpus={corpus}", f"--data.cache_dir={tmp_path / 'cache'}"])
    assert "bits per byte: " in capsys.readouterr().out


@pytest.fixture
def example(monkeypatch):
    """The mixer of the contributing guide, defined as it stands there and forgotten afterwards."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    code = re.findall(r"```python\n(.*?)```", (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    module = ModuleType("moving_average")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module.MovingAverage


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_worked_example_obeys_the_laws(example, law):
    law(example)


def test_the_worked_example_has_its_name(example):
    assert registry.get("moving_average") is example
