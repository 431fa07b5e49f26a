"""The command line: everything that can be said, and one sentence for everything that cannot."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_runs import says, write_text

from lit_modules.main import main
from lit_modules.training import cli
from lit_modules.training.mixer_config import complete
from mixers import Attention, Mixer, Retention, available

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


def mixers_of(words: list[str]) -> list[Mixer[Any]]:
    """The mixers of the model that a command line describes."""
    return [layer for layer in Prepared(words).model.model.modules() if isinstance(layer, Mixer)]


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


@pytest.mark.parametrize(
    "said",
    [
        ["--model.mixer=attention"],
        ["--model.mixer=Attention"],
        ["--model.mixer", "mixers.attention.Attention"],
        ["--model.mixer={class_path: attention, init_args: {window: 3}}"],
        ["--config=attention.yaml"],
    ],
    ids=" ".join,
)
def test_a_mixer_has_its_own_defaults_and_not_those_of_the_default_mixer(said: list[str], words: list[str]) -> None:
    Path("attention.yaml").write_text("model: {mixer: {class_path: attention, init_args: {window: 3}}}")
    assert Retention(32).num_heads != Attention(32).num_heads
    assert all(mixer.num_heads == Attention(32).num_heads for mixer in mixers_of([*words, *said]))


def test_a_block_can_have_another_mixer(words: list[str]) -> None:
    said = ["--model.mixer=retention", "--model.overrides.1=attention", "--model.overrides.1.num_heads=2"]
    first, second = mixers_of([*words, *said])
    assert type(first) is Retention
    assert isinstance(second, Attention)
    assert second.num_heads == 2


def test_a_mixer_of_any_package_works_by_its_path(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("third_party.py").write_text(THIRD)
    monkeypatch.setenv("LIT_MIXERS_ALLOW", "third_party")
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
        (["--trainer.devices=x"], ["devices"]),
        (["--trainer.callbacks=Foo"], ["--trainer.callbacks=Foo", "is no list of callbacks"]),
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
    monkeypatch.setenv("LIT_MIXERS_ALLOW", "bug")
    monkeypatch.syspath_prepend(Path.cwd())
    with pytest.raises(ValueError, match="a bug"):
        main([*words, "--trainer.callbacks=bug.Bug"])


@pytest.mark.parametrize("name", available())
def test_a_mixer_that_is_named_has_its_own_defaults(name: str, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.mixer.chunk_size=7", f"--model.mixer={name}", "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)["model"]["mixer"]
    asked = {"chunk_size": 7} if name == "retention" else {}  # which is the mixer that the option was said of
    assert complete(found["class_path"]).options | asked == found.get("init_args", {})
