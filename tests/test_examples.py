"""What the documents show runs: the README's commands and code, the configs, and the contributing guide's example."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lit_modules.commands.compare.study import read_study
from lit_modules.main import main
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


README = (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with a text and the project's configs."""
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("It was the best of times, it was the worst of times.\n" * 80, encoding="utf-8")
    shutil.copytree(PROJECT / "configs", "configs")
    monkeypatch.setenv("LIT_MIXERS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("config", sorted(path.name for path in (PROJECT / "configs").glob("*.yaml")))
def test_every_config_trains(config, folder, capsys):
    main(["fit", f"--config=configs/{config}", *SMALL, "--data.corpus=corpus.txt"])
    assert "bits per byte: " in capsys.readouterr().out


def test_every_command_of_the_readme_runs(folder, capsys):
    lines = re.findall(r"^python cli\.py .*$", README, re.MULTILINE)
    commands = [shlex.split(line, comments=True)[2:] for line in lines]
    kinds = ["fit", "fit", "fit", "fit", "generate", "validate", "test", "compare", "benchmark"]
    assert [command[0] for command in commands] == kinds
    for command in commands:
        if any(".help" in word for word in command):
            with pytest.raises(SystemExit, match=r"^0$"):
                main(command)
        elif command[0] == "fit":
            main([*command, *SMALL, "--data.corpus=corpus.txt"])
        elif command[0] == "test":
            main([*command, "--trainer.accelerator=cpu", "--contexts=[128]", "--max_tokens=300"])
        elif command[0] == "compare":  # a small one is in test_compare.py, and this one is looked at in test_configs.py
            assert read_study(command[1]).name == "laptop"
        elif command[0] == "benchmark":
            main([*command, "--lengths=[16]", "--dim=64", "--rounds=1", "--repeats=1"])
        else:
            main([*command, "--accelerator=cpu" if command[0] == "generate" else "--trainer.accelerator=cpu"])
    shown = capsys.readouterr().out
    assert "filter_frequency" in shown
    assert "My fellow citizens" in shown


@pytest.mark.parametrize("part", ["floors", "training", "constancy", "large"])
def test_what_the_performance_page_shows_can_be_measured(part, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["measure.py", str(tmp_path / "out"), "--small", "--parts", part])
    runpy.run_path(str(PROJECT / "docs" / "measure.py"), run_name="__main__")
    assert list((tmp_path / "out" / part).rglob("rows.csv"))


def test_the_code_of_the_readme_runs():
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})


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
