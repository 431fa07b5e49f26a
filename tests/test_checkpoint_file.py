"""Checkpoints are written whole or not at all, and every byte of them is checked before they are used."""

import errno
import os
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from small_runs import model, text, trainer

from lit_modules.training.checkpoint_file import COMMENT_SIZE, verify
from lit_modules.training.checkpoint_io import CheckpointFiles
from mixers.checks import UsageError

CONTENT = {"weight": torch.arange(6.0), "step": 3, "name": "x"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    CheckpointFiles().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def damage(path: Path, offset: int) -> None:
    """Flips a bit of one byte."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_is_one_that_torch_reads(saved: Path) -> None:
    verify(saved)
    for mmap in (False, True):
        content = torch.load(saved, weights_only=True, mmap=mmap)
        assert content["step"] == 3
        torch.testing.assert_close(content["weight"], CONTENT["weight"])
    assert CheckpointFiles().load_checkpoint(saved)["name"] == "x"
    assert [path.name for path in saved.parent.iterdir()] == ["last.ckpt"]


def test_any_flipped_byte_is_refused_by_the_files_name(saved: Path) -> None:
    whole = saved.read_bytes()
    for offset in range(0, len(whole)):
        if offset % 7 and offset < len(whole) - COMMENT_SIZE - 30:
            continue  # all of the end, where the digest is, and every seventh byte before
        damage(saved, offset)
        with pytest.raises(UsageError, match=r"last\.ckpt.* is damaged"):
            verify(saved)
        saved.write_bytes(whole)
    verify(saved)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 1.1])
def test_a_file_of_another_length_is_refused(share: float, saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes((whole + whole)[: int(share * len(whole))])
    with pytest.raises(UsageError, match="damaged"):
        verify(saved)


def test_a_checkpoint_without_a_digest_is_read_and_its_tensors_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"weight": torch.arange(1000.0)}, path)
    verify(path)
    damage(path, path.read_bytes().index(torch.arange(500.0, 600.0).numpy().tobytes()))
    with pytest.raises(UsageError, match=r"old\.ckpt.* is damaged"):
        verify(path)


class SmallDisk:
    """A file on a disk that takes no more than a few bytes of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, 20_000

    def __enter__(self) -> "SmallDisk":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_full_disk_leaves_the_checkpoint_from_before_and_the_run_goes_on(tmp_path: Path) -> None:
    def run(steps: int, ckpt_path: str | None = None) -> None:
        data = text(tmp_path)
        trainer(tmp_path, max_steps=steps, limit_val_batches=0).fit(model(data), datamodule=data, ckpt_path=ckpt_path)

    def open_on_small_disk(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = opened(path, mode, *rest, **options)
        return SmallDisk(file) if path.name.endswith(".ckpt.partial") else file

    run(3)
    [last] = tmp_path.rglob("last.ckpt")
    before, opened = last.read_bytes(), Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", open_on_small_disk)
        with pytest.raises(UsageError, match=r"last\.ckpt could not be written \(No space left.*MB are free.*is whole"):
            run(6, "last")
    assert last.read_bytes() == before
    assert not list(tmp_path.rglob("*.partial"))
    run(6, "last")
    assert torch.load(last, weights_only=True)["global_step"] == 6
