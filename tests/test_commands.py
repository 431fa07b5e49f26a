"""The commands: their help, their arguments, and what they load."""

import inspect
import os
import subprocess
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from small_runs import says

from lit_modules.commands import evaluate
from lit_modules.commands.parser import Repeated, run
from lit_modules.main import COMMANDS, main, version
from mixers import available
from mixers.checks import UsageError

PROJECT = Path(__file__).parents[1]


def test_generate_shows_its_own_options_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    help_text = capsys.readouterr().out
    assert "--temperature" in help_text
    assert "--accelerator" in help_text
    assert not any(section in help_text for section in ("--model", "--data", "--trainer"))


def test_a_prompt_is_text_and_can_be_given_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def generate(*, prompt: Repeated | None = None, stop: Repeated | None = None, ckpt_path: str = "last") -> None:
        """Does nothing.

        Args:
            prompt: Text.
            stop: Text.
            ckpt_path: A path.
        """
        given.update(prompt=prompt, stop=stop, ckpt_path=ckpt_path)

    run(generate, ["--prompt=[a, b]", "--prompt", "{x: 1}", "--prompt=1e3"])
    assert given == {"prompt": ["[a, b]", "{x: 1}", "1e3"], "stop": None, "ckpt_path": "last"}


def test_what_is_positional_in_python_is_positional_on_the_command_line() -> None:
    given: list[tuple[str, int]] = []

    def measure(phase: str, *, rounds: int = 3) -> None:
        """Does nothing."""
        given.append((phase, rounds))

    run(measure, ["train", "--rounds=2"])
    run(measure, ["decode"])
    assert given == [("train", 2), ("decode", 3)]
    with pytest.raises(UsageError, match="phase"):
        run(measure, [])


def test_the_help_lists_every_command_with_the_first_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    for name, path in COMMANDS.items():
        module, _, function = path.partition(":")
        documented = inspect.getdoc(attrgetter(function)(import_module(module)))
        assert f"  {name:9}  {(documented or '').splitlines()[0]}" in shown


def test_the_help_on_mixers_lists_them_all(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*words, "--model.mixer.help"])
    shown = capsys.readouterr().out.splitlines()
    for name, mixer in available().items():
        assert any(line.split()[:1] == [name] and (mixer.__doc__ or "").split("\n")[0] in line for line in shown)


def test_evaluate_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert 'pip install "lit-mixers[eval]"' in says(["evaluate", "--tasks=[piqa]"], capsys)


@pytest.mark.parametrize("argv", [["--help"], ["generate", "--help"], ["evaluate", "--help"], ["generate"]], ids=str)
def test_commands_that_do_not_train_do_not_wait_for_lightning(argv: list[str], tmp_path: Path) -> None:
    program = (
        f"import sys; from lit_modules.main import main\ntry: main({argv})\nexcept SystemExit: print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    assert "pytorch_lightning" not in ran.stdout.split()


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert version() in capsys.readouterr().out


def test_a_program_of_its_own_trains_and_writes(words: list[str], tmp_path: Path) -> None:
    def run(*said: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROJECT / "cli.py"), *said]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)

    trained = run(*words)
    assert trained.returncode == 0, trained.stderr
    assert "bits per byte: " in trained.stdout
    assert not any(noise in trained.stderr for noise in ("Tip:", "LeafSpec", "Traceback"))
    written = run("generate", "--ckpt_path=last", "--prompt=the", "--max_tokens=5", "--temperature=0")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("the")
    refused = run("fit", "--model.mixer=retentoin")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: No mixer is named 'retentoin'")
