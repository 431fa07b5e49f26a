"""What may be changed when a run is resumed, what may not, and a run that an earlier version of the code made."""

import shutil
from functools import partialmethod
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from small_runs import SMALL_WORDS, write_text

import lit_modules
from lit_modules.main import main
from lit_modules.training.mixer_config import complete

OLD_RUN = Path(__file__).parent / "data" / "old_run"
RESUME = ["fit", "--ckpt_path=last", "--trainer.max_steps=6"]


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of 4 steps, retention in its first block and attention in its second; we are in it."""
    folder = shutil.copytree(OLD_RUN, tmp_path / "old_run")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def s4d_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 4 steps of S4D."""
    folder = tmp_path_factory.mktemp("s4d")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("corpus.txt"))
        main([*SMALL_WORDS, "--model.mixer=s4d"])
    return folder


def last() -> dict[str, object]:
    """The last checkpoint of the only run in this folder."""
    [path] = Path("runs").rglob("last.ckpt")
    return torch.load(path, weights_only=True)


def contents() -> dict[Path, str]:
    return {path: sha256(path.read_bytes()).hexdigest() for path in Path("runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model.recompute", True),
        ("model.compile", True),
        ("model.dropout", 0.1),
        ("model.lr", 0.001),
        ("model.schedule", "constant"),
        ("model.mixer.chunk_size", 64),
        ("data.batch_size", 2),
        ("data.block_size", 32),
        ("data.bos", True),
        ("data.seed", 1),
        ("trainer.gradient_clip_val", 0.5),
        ("trainer.accumulate_grad_batches", 2),
    ],
)
def test_what_the_weights_do_not_fix_may_change(
    option: str, value: object, old_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    main([*RESUME, f"--{option}={str(value).lower() if value is True else value}"])
    content = last()
    assert content["global_step"] == 6
    section, _, name = option.partition(".")
    if section != "trainer":
        kept = content["hyper_parameters" if section == "model" else "datamodule_hyper_parameters"]
        found = complete(kept["mixer"]).options if name.startswith("mixer.") else kept
        assert found[name.removeprefix("mixer.")] == value


def test_a_rate_of_a_mixer_may_change(s4d_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(s4d_run)
    main([*RESUME, "--model.mixer.ssm_lr=2e-4"])
    content = last()
    assert content["global_step"] == 6
    assert complete(content["hyper_parameters"]["mixer"]).options["ssm_lr"] == 2e-4
    assert 2e-4 in {group["initial_lr"] for group in content["optimizer_states"][0]["param_groups"]}


@pytest.mark.parametrize(
    ("said", "both"),
    [
        ("--model.mixer=hyena", ("model.mixer='hyena'", "'retention'")),
        ("--model.mixer.num_heads=4", ("model.mixer.num_heads=4", "2")),
        ("--model.overrides.1.num_heads=4", ("model.overrides.1.num_heads=4", "2")),
        ("--model.overrides.1=rwkv", ("model.overrides.1='rwkv'", "'attention'")),
        ("--model.depth=3", ("model.depth=3", "2")),
        ("--model.norm=rms", ("model.norm='rms'", "'layer'")),
        ("--data.tokenizer=bpe", ("data.tokenizer='bpe'", "'bytes'")),
        ("--data.vocab_size=99", ("data.vocab_size=99", "8192")),
    ],
)
def test_what_the_weights_fix_is_refused_with_both_values_and_nothing_is_written(
    said: str, both: tuple[str, ...], old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    with pytest.raises(SystemExit) as ended:
        main([*RESUME, said])
    assert ended.value.code == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert all(part in sentence for part in both), sentence
    assert contents() == before


def test_options_of_the_checkpoints_mixer_can_be_given_without_its_name(s4d_run: Path, capsys) -> None:
    path = next(s4d_run.rglob("last.ckpt"))
    with pytest.raises(SystemExit) as ended:
        main(["validate", f"--ckpt_path={path}", "--model.mixer.state_size=3"])
    assert ended.value.code == 2
    assert "model.mixer.state_size=3 contradicts" in capsys.readouterr().err


def test_a_checkpoint_in_a_config_is_resumed_as_well(old_run: Path) -> None:
    Path("resume.yaml").write_text("ckpt_path: last\ntrainer: {default_root_dir: runs, max_steps: 6}")
    main(["fit", "--config=resume.yaml", "--model.lr=0.25"])
    content = last()
    assert content["global_step"] == 6
    assert content["hyper_parameters"]["lr"] == 0.25
    assert content["hyper_parameters"]["depth"] == 2  # the checkpoint's, not that of configs/default.yaml


class TestAnOldRun:
    """The numbers are those that the commit which made the run printed."""

    def test_goes_on(self, old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["fit", "--ckpt_path=last", "--trainer.max_steps=8"])
        assert last()["global_step"] == 8
        assert "validation perplexity: 98.04" in capsys.readouterr().out
        assert "tokenizer: bytes" in next(Path("runs").rglob("config.yaml")).read_text()

    def test_is_validated(self, old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["validate", "--ckpt_path=last"])
        assert capsys.readouterr().out.splitlines()[-1].split() == ["corpus.txt", "4.983", "146", "7.193"]

    def test_is_tested(self, old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["test", "--ckpt_path=last", "--contexts=[128]"])
        assert (next(Path("runs").glob("*/version_0")) / "test" / "corpora.csv").is_file()

    def test_writes(self, old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["generate", "--prompt=the ", "--temperature=0", "--max_tokens=30"])
        assert capsys.readouterr().out == "the " + 30 * "s" + "\n"

    def test_is_a_model_and_a_tokenizer_in_one_line(self, old_run: Path) -> None:
        model, tokenizer = lit_modules.load("last")
        weights = last()["state_dict"]
        assert {f"model.{name}" for name in model.state_dict()} == weights.keys()
        assert all(torch.equal(tensor, weights[f"model.{name}"]) for name, tensor in model.state_dict().items())
        assert model(torch.tensor([tokenizer.encode("the ")])).shape == (1, 4, tokenizer.vocab_size)
        assert not model.training
