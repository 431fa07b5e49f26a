"""Going on when the last checkpoint is damaged, the validation text has changed, or the run was moved."""

import errno
import os
from pathlib import Path
from shutil import copytree

import pytest
import torch
from small_runs import SMALL_WORDS, says, write_text

import lit_modules
from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel

RESUME = ["fit", "--ckpt_path=last", "--trainer.max_steps=8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is at step 6 of 8; its best checkpoint is older."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("corpus.txt"))
        main([*SMALL_WORDS, "--model.decay_steps=8", "--model.dropout=0.1"])
        main(["fit", "--ckpt_path=last", "--trainer.max_steps=6", "--trainer.val_check_interval=100"])
    return folder


@pytest.fixture
def checkpoints(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoints of a copy of the run; we are in its folder."""
    monkeypatch.chdir(copytree(folder, tmp_path / "copy"))
    [last] = Path("runs").rglob("last.ckpt")
    return last.parent


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_best_checkpoint_of_the_run_is_found_instead_and_ends_with_the_same_weights(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(checkpoints / "last.ckpt")
    capsys.readouterr()
    main(RESUME)
    told = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert told == [f"{checkpoints}/last.ckpt is damaged; the newest that is whole is {checkpoints}/best.ckpt."]
    gone_on = torch.load(checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    main([*SMALL_WORDS, "--model.decay_steps=8", "--model.dropout=0.1", "--trainer.max_steps=8"])
    [whole] = Path("runs").glob("*/version_1/checkpoints/last.ckpt")
    torch.testing.assert_close(gone_on, torch.load(whole, weights_only=True)["state_dict"], rtol=0, atol=0)


def test_a_damaged_file_that_is_named_is_refused_by_its_name(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(checkpoints / "last.ckpt")
    before = contents(Path("runs"))
    named = f"--ckpt_path={checkpoints / 'last.ckpt'}"
    for words in (["fit", named, "--trainer.max_steps=8"], ["test", named], ["generate", named]):
        assert says(words, capsys).startswith(f"ckpt_path='{checkpoints}/last.ckpt' is damaged")
    assert contents(Path("runs")) == before
    with pytest.raises(ValueError, match=r"last\.ckpt' is damaged"):
        lit_modules.load(checkpoints / "last.ckpt")


def test_an_older_run_is_gone_on_with_only_if_nothing_else_is_whole(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SMALL_WORDS, "--model.dim=16"])
    [newer] = Path("runs").glob("*/version_1/checkpoints")
    for path in newer.iterdir():
        damage(path)
    capsys.readouterr()
    main(RESUME)
    assert f"the newest that is whole is {checkpoints}/last.ckpt." in capsys.readouterr().err
    for path in checkpoints.iterdir():
        damage(path)
    assert says(RESUME, capsys).startswith("ckpt_path='last' finds no checkpoint that is whole below 'runs'")


def test_nothing_is_written_when_a_checkpoint_cannot_be_restored(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("the optimizer has other groups")

    monkeypatch.setattr(LitLanguageModel, "on_load_checkpoint", refuse)
    before = {path: content for path, content in contents(Path("runs")).items() if "events" not in path.name}
    with pytest.raises(ValueError, match="other groups"):
        main([*RESUME, "--model.weight_decay=0"])
    after = contents(Path("runs"))
    assert {path: after[path] for path in before} == before


def test_the_weight_decay_may_become_zero(checkpoints: Path) -> None:
    main([*RESUME, "--model.weight_decay=0"])
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 8
    assert "weight_decay: 0" in (checkpoints.parent / "config.yaml").read_text()


def test_a_best_checkpoint_on_another_text_stays(checkpoints: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = (checkpoints / "best.ckpt").read_bytes()
    write_text(Path("corpus.txt"), words=4400)
    main(RESUME)
    assert (checkpoints / "best-before-step-6.ckpt").read_bytes() == best
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"] == 8
    assert [said for said in caplog.messages if "best-before-step-6.ckpt" in said]


def test_so_does_one_on_more_of_the_same_text(checkpoints: Path) -> None:
    best = (checkpoints / "best.ckpt").read_bytes()
    main([*RESUME, "--data.val_tokens=128"])
    assert (checkpoints / "best-before-step-6.ckpt").read_bytes() == best


@pytest.mark.parametrize("root", ["runs", "moved"])
def test_a_worse_checkpoint_on_the_same_text_does_not_replace_the_best(root: str, checkpoints: Path) -> None:
    Path("runs").rename(root)
    checkpoints = Path(root, *checkpoints.parts[1:])
    before = torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"]
    main([*RESUME, "--model.lr=1", f"--trainer.default_root_dir={root}"])  # which makes it worse
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert torch.load(checkpoints / "best.ckpt", weights_only=True)["global_step"] == before


def test_a_disk_that_is_full_at_the_start_is_said_in_one_sentence(
    checkpoints: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (checkpoints.parent / "config.yaml").read_bytes()
    monkeypatch.setattr(os, "replace", fill)
    assert says(RESUME, capsys).startswith("the disk is full ([Errno 28] No space left on device): make room")
    assert (checkpoints.parent / "config.yaml").read_bytes() == before
