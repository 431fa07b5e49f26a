"""The command line: everything that can be said, and one sentence for everything that cannot."""

import inspect
import os
import subprocess
import sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import SMALL_WORDS, write_text

from lit_modules.commands import evaluate
from lit_modules.commands.parser import Repeated, run
from lit_modules.main import COMMANDS, main, version
from lit_modules.training import cli
from mixers import Attention, Mixer, Retention, available
from mixers.checks import UsageError

PROJECT = Path(cli.__file__).parents[2]
THIRD = """
import torch
from mixers import Mixer


class Gain(Mixer):
    \"\"\"Multiplies.

    Args:
        width: Width.
        gain: Factor.
    \"\"\"

    def __init__(self, width: int, *, gain: float = 1.0):
        super().__init__(width)
        self.gain = gain

    def initial_state(self, batch):
        return ()

    def extend(self, x, state):
        return x * self.gain, state
"""


class Prepared(cli.CLI):
    """A command with everything built, and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run that is small, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    return list(SMALL_WORDS)


def mixers_of(words: list[str]) -> list[Mixer[Any]]:
    """The mixers of the model that a command line describes."""
    return [layer for layer in Prepared(words).model.model.modules() if isinstance(layer, Mixer)]


def says(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command line is refused with."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert err.endswith(lines[0] + "\n")
    assert "Traceback" not in err
    assert "usage:" not in out + err
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(
    "said",
    [
        ["--model.mixer=retention", "--model.mixer.num_heads=8"],
        ["--model.mixer", "retention", "--model.mixer.num_heads", "8"],
        ["--model.mixer.num_heads=8"],
        ["--model.mixer=Retention", "--model.mixer.num_heads=8"],
        ["--model.mixer=mixers.Retention", "--model.mixer.num_heads=8"],
        ["--model.mixer=mixers.retention.Retention", "--model.mixer.num_heads=8"],
        ["--config=plain.yaml", "--model.mixer.num_heads=8"],
        ["--config=full.yaml"],
        ["--config=other.yaml", "--config=full.yaml"],
        ["--config=full.yaml", "--model.mixer.num_heads=8"],
    ],
    ids=" ".join,
)
def test_a_mixer_and_its_options_can_be_said_in_many_ways(said: list[str], words: list[str]) -> None:
    Path("plain.yaml").write_text("model: {mixer: retention}")
    Path("full.yaml").write_text("model: {mixer: {class_path: retention, init_args: {num_heads: 8}}}")
    Path("other.yaml").write_text("model: {mixer: attention}")
    mixers = mixers_of([*words, *said])
    assert [type(mixer) for mixer in mixers] == [Retention, Retention]
    assert all(mixer.num_heads == 8 for mixer in mixers)


@pytest.mark.parametrize("name", sorted(available()))
def test_every_mixer_has_a_name_and_a_help(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert all(type(mixer) is available()[name] for mixer in mixers_of([*words, f"--model.mixer={name}"]))
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--model.mixer.help={name}"])
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert f"--model.mixer.help={name}".split("=")[1] in help_text
    assert "--dim" not in help_text


def test_a_block_can_have_another_mixer(words: list[str]) -> None:
    said = ["--model.mixer=retention", "--model.overrides.1=attention", "--model.overrides.1.num_heads=2"]
    first, second = mixers_of([*words, *said])
    assert type(first) is Retention
    assert isinstance(second, Attention)
    assert second.num_heads == 2


def test_a_mixer_of_any_package_works_by_its_path(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("third_party.py").write_text(THIRD)
    monkeypatch.syspath_prepend(Path.cwd())
    mixers = mixers_of([*words, "--model.mixer=third_party.Gain", "--model.mixer.gain=2"])
    assert [mixer.gain for mixer in mixers] == [2.0, 2.0]


def test_what_print_config_prints_is_a_config_of_the_same_model(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = [*words, "--model.mixer=attention", "--model.overrides.0=retention", "--model.overrides.0.num_heads=8"]
    with pytest.raises(SystemExit):
        main([*said, "--print_config"])
    Path("printed.yaml").write_text(capsys.readouterr().out)
    expected, actual = Prepared(said), Prepared(["fit", "--config=printed.yaml"])
    assert str(actual.model) == str(expected.model)
    assert actual.model.hparams == expected.model.hparams
    assert actual.datamodule.hparams == expected.datamodule.hparams


def test_the_defaults_are_those_of_the_default_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the defaults do not depend on where the program is called from
    write_text(tmp_path / "corpus.txt")
    defaults = yaml.safe_load((PROJECT / "configs" / "default.yaml").read_text())
    command = Prepared(["fit", "--data.corpus=corpus.txt", "--data.tokenizer=bytes"])
    assert command.trainer.max_steps == defaults["trainer"]["max_steps"]
    for name, value in defaults["model"].items():
        assert command.model.hparams[name] == value


def test_the_model_has_as_many_tokens_as_the_tokenizer(words: list[str]) -> None:
    command = Prepared(words)
    assert command.model.hparams["vocab_size"] == command.datamodule.vocab_size


def test_one_seed_gives_one_model(words: list[str]) -> None:
    def first_weight(*said: str) -> float:
        return next(Prepared([*words, *said]).model.parameters()).flatten()[0].item()

    assert first_weight() == first_weight()
    assert first_weight() != first_weight("--seed_everything=1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--model.mixer=retentoin"], ["'retentoin'", "did you mean 'retention'?", "attention, "]),
        (["--model.overrides.1=attentoin"], ["did you mean 'attention'?"]),
        (["--model.mixer.num_headz=8"], ["'retention' has no option 'num_headz'", "did you mean 'num_heads'?"]),
        (["--model.mixer.dim=99"], ["'retention' has no option 'dim'"]),
        (["--model.mixer.num_heads=abc"], ["--model.mixer: ", "num_heads", "Expected a int", "abc"]),
        (["--model.mixer.num_heads=7"], ["num_heads=7", "dim=32"]),
        (
            ["--model.mixer=torch.nn.Linear"],
            ["--model.mixer: ", "Expected 'torch.nn.Linear' to be a subclass of Mixer"],
        ),
        (["--model.mixer=mixers.Nothing"], ["--model.mixer: ", "module 'mixers' has no attribute 'Nothing'"]),
        (["--model.mixer=mixers.Mixer"], ["abstract class Mixer"]),
        (["--model.dept=3"], ["no option --model.dept", "did you mean --model.depth?"]),
        (["--model.depth=deep"], ["--model.depth: Expected a int", "deep"]),
        (["--model.schedule=quadratic"], ["--model.schedule: ", "'cosine', 'linear', 'constant'", "quadratic"]),
        (["--model.vocab_size=9"], ["model.vocab_size", "must be given via", "data"]),
        (["--seed_everything=true"], ["--seed_everything: Expected a int", "True"]),
        (["--data.corpuss=x"], ["did you mean --data.corpus?"]),
        (["--data.corpus=nowhere.txt"], ["corpus='nowhere.txt' is not there"]),
        (["--data.corpus=nowhere.txt", "--data.tokenizer=bpe"], ["corpus='nowhere.txt' is not there"]),
        (["--data.corpus=empty.txt"], ["empty.txt"]),
        (["--data.batch_size=0"], ["batch_size=0"]),
        (["--trainer.max_step=3"], ["did you mean --trainer.max_steps?"]),
        (["--trainer.max_epochs=3"], ["max_epochs=3", "max_steps"]),
        (["--trainer.max_steps=-1"], ["schedule='linear' needs an end", "trainer.max_steps"]),
        (["--trainer.accelerator=quantum"], ["quantum"]),
        (["--trainer.callbacks=Foo"], ["--trainer.callbacks: ", "import path", "Foo"]),
        (["--config=missing.yaml"], ["--config: File does not exist", "missing.yaml"]),
        (["--config=wrong.yaml"], ["no option --model.dept", "did you mean --model.depth?"]),
        (["--config=broken.yaml"], ["config"]),
        (["--ckpt_path=missing.ckpt"], ["missing.ckpt"]),
        (["--ckpt_path=last"], ["no last.ckpt", "runs"]),
        (["--ckpt_path=corpus.txt"], ["corpus.txt", "no checkpoint"]),
        (["--ckpt_path=empty.txt"], ["empty.txt", "no checkpoint"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_mistake_gets_one_sentence(
    said: list[str], expected: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").write_text("")
    Path("wrong.yaml").write_text("model: {dept: 3}")
    Path("broken.yaml").write_text("model: [")
    sentence = says([*words, *said], capsys)
    assert all(part in sentence for part in expected), sentence
    assert len(sentence) < 400


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fitt"], "'fit'"),
        ([], "fit"),
        (["validate"], "--ckpt_path"),
        (["generate"], "--ckpt_path"),
        (["generate", "--ckpt_path=x", "--promt=y"], "did you mean --prompt?"),
        (["generate", "--ckpt_path=x", "--temperature=-1"], "temperature=-1"),
        (["generate", "--ckpt_path=x", "--top_p=0"], "top_p=0"),
        (["generate", "--ckpt_path=x", "--top_p=1.5"], "top_p=1.5"),
        (["generate", "--ckpt_path=x", "--top_k=0"], "top_k=0"),
        (["generate", "--ckpt_path=x", "--max_tokens=-3"], "max_tokens=-3"),
        (["generate", "--ckpt_path=x", "--stop="], "stop=''"),
    ],
    ids=str,
)
def test_so_does_a_mistake_in_a_command(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in says(words, capsys)


def test_an_error_while_training_keeps_its_traceback(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bug.py").write_text(
        "import pytorch_lightning as pl\n"
        "class Bug(pl.Callback):\n"
        "    def on_train_batch_end(self, *args):\n"
        "        raise ValueError('a bug')\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ValueError, match="a bug"):
        main([*words, "--trainer.callbacks=bug.Bug"])


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
