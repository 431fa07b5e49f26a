"""Going on from a checkpoint on the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL_WORDS, write_text

from lit_modules.main import main
from lit_modules.training import checkpoint, cli
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import complete


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a run that ended at step 4, in whose folder we are."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    words = [*SMALL_WORDS, "--model.dropout=0.1", "--model.mixer=retention", "--model.mixer.num_heads=2"]
    main([*words, "--model.overrides.1=attention", "--model.decay_steps=9"])
    return words


class Prepared(cli.CLI):
    """A command with everything built, and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_a_run_goes_on_without_any_option_being_said_again(stopped: list[str]) -> None:
    command = Prepared(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    assert complete(command.model.hparams["mixer"]).options["num_heads"] == 2
    assert command.model.hparams["dropout"] == 0.1
    assert command.datamodule.corpus == "corpus.txt"
    assert command.datamodule.batch_size == 4
    assert command.trainer.limit_val_batches == 2
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    [version] = Path("runs").glob("*/version_*")  # in the same folder
    saved = torch.load(version / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 8
    assert saved["datamodule_hyper_parameters"]["tokenizer"] == "bytes"


def test_a_run_from_the_command_line_goes_on_as_if_it_had_not_stopped(stopped: list[str]) -> None:
    main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
    overrides = ["--model.overrides.1=attention", "--model.decay_steps=9"]
    main([*stopped, *overrides, "--trainer.max_steps=8"])
    parts, whole = (
        torch.load(f"runs/retention-attention/version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (0, 1)
    )
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(parts["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("said", "both"),
    [
        ("--model.mixer=hyena", ("model.mixer='hyena'", "'retention'")),
        ("--model.mixer.num_heads=4", ("model.mixer.num_heads=4", "2")),
        ("--model.overrides.0=attention", ("model.overrides",)),
        ("--model.depth=3", ("model.depth=3", "2")),
        ("--model.dim=64", ("model.dim=64", "32")),
        ("--data.tokenizer=bpe", ("data.tokenizer='bpe'", "'bytes'")),
        ("--data.vocab_size=99", ("data.vocab_size=99", "8192")),
        ("--trainer.max_steps=4", ("step 4 already", "larger --trainer.max_steps")),
    ],
)
def test_what_the_weights_were_not_made_for_is_refused(
    said: str, both: tuple[str, ...], stopped: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--ckpt_path=last", "--trainer.max_steps=8", said])
    assert ended.value.code == 2
    sentence = capsys.readouterr().err
    assert all(part in sentence for part in both), sentence


def test_the_same_options_said_again_are_fine(stopped: list[str]) -> None:
    said = [
        "--model.mixer=retention",
        "--model.overrides.1=attention",
        "--data.tokenizer=bytes",
        "--trainer.max_steps=8",
    ]
    assert Prepared(["fit", "--ckpt_path=last", *said]).saved is not None
    [config] = Path("runs").glob("*/version_0/config.yaml")
    assert Prepared(["fit", f"--config={config}", "--ckpt_path=last", "--trainer.max_steps=8"]).saved is not None


def test_other_options_that_are_said_win_over_the_checkpoint(stopped: list[str]) -> None:
    Path("typed.yaml").write_text("model: {weight_decay: 0.5}")
    said = ["--model.lr=0.5", "--model.schedule=constant", "--model.dropout=0.3", "--data.batch_size=2"]
    words = ["fit", "--ckpt_path=last", "--trainer.max_steps=6", "--config=typed.yaml", "--seed_everything=7", *said]
    command = Prepared(words)
    command.trainer.fit(command.model, datamodule=command.datamodule, ckpt_path=command.config.fit.ckpt_path)
    groups = command.trainer.optimizers[0].param_groups
    assert {group["lr"] for group in groups} == {0.5}
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}
    assert command.model.hparams["dropout"] == 0.3
    assert command.model.hparams["seed"] == 7
    assert command.datamodule.batch_size == 2


def test_validation_needs_the_checkpoint_alone(stopped: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["validate", "--ckpt_path=last", "--trainer.limit_val_batches=2"])
    heading, row = capsys.readouterr().out.splitlines()[-2:]
    assert heading.endswith("bits per byte")
    assert row.startswith("corpus.txt ")
    assert [path.name for path in Path("runs").rglob("version_*")] == ["version_0"]


def test_a_corpus_is_not_needed_to_write(stopped: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("corpus.txt").unlink()
    capsys.readouterr()
    main(["generate", "--ckpt_path=last", "--prompt=the", "--prompt=a state", "--max_tokens=3", "--seed=1"])
    first, second = capsys.readouterr().out.strip("\n").split("\n\n")[:2]
    assert first.startswith("the")
    assert second.startswith("a state")


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {}, "code": Trap(tmp_path / "ran")}, path)
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        checkpoint.read_file(path)
    assert not (tmp_path / "ran").exists()


class Trap:
    """Something that leaves a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_run_that_died_in_its_last_validation_goes_on_with_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise Died

    main(words)
    [whole] = Path("runs").rglob("best.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(LitLanguageModel, "on_validation_epoch_end", die)
        with pytest.raises(Died):
            main([*words, "--trainer.val_check_interval=4", "--trainer.default_root_dir=died"])
    assert not list(Path("died").rglob("best.ckpt"))
    main(["fit", "--ckpt_path=last", "--trainer.default_root_dir=died"])
    [best] = Path("died").rglob("best.ckpt")
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (best, whole)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


class Died(Exception):
    """What ends a run with no time to save."""


def test_a_cool_down_branches_off_a_run_at_a_constant_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    words = [*SMALL_WORDS, "--model.dropout=0.1", "--model.mixer=rwkv"]
    cooled = ["--model.schedule=wsd", "--model.cooldown_steps=3", "--trainer.max_steps=7"]
    main([*words, "--model.schedule=constant"])
    trunk = Path("runs/rwkv/version_0")
    before = {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()}
    main(["fit", "--ckpt_path=last", "--branch=true", *cooled])
    assert {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()} == before
    main([*words, *cooled])
    branch, straight = (torch.load(f"runs/rwkv/version_{n}/checkpoints/last.ckpt", weights_only=True) for n in (1, 2))
    assert branch["global_step"] == 7
    torch.testing.assert_close(branch["state_dict"], straight["state_dict"], rtol=0, atol=0)
    assert Path("runs/rwkv/version_1/checkpoints/best.ckpt").is_file()
    main(["fit", "--ckpt_path=runs/rwkv/version_1/checkpoints/last.ckpt", "--trainer.max_steps=8"])
    assert not Path("runs/rwkv/version_3").exists()  # the branch itself goes on in its own folder


def test_a_branch_needs_a_run_to_branch_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    with pytest.raises(SystemExit):
        main([*SMALL_WORDS, "--branch=true"])
    assert "branch=True needs a run to branch off: set ckpt_path" in capsys.readouterr().err
    assert not Path("runs").exists()
