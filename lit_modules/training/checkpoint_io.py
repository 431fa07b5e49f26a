"""How Lightning writes and reads the checkpoints of a run: whole or not at all."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from lit_modules.console import short_path
from lit_modules.training.checkpoint_file import DigestedFile, verify
from mixers.checks import UsageError


class CheckpointFiles(TorchCheckpointIO):
    """Reads and writes the checkpoints of a run."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint beside its place and renames it when it is whole: until then the one before stays.

        Raises:
            UsageError: The disk is full, or does not take the file for another reason.
        """
        path = Path(path)
        partial = path.with_name(f"{path.name}.partial")
        file = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as opened:
                file = DigestedFile(opened)
                torch.save(checkpoint, file)  # type: ignore[arg-type]  # it only writes
                file.finish()
            os.replace(partial, path)
            _write_through(path.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)  # its room counts as free
            raise UsageError(_not_saved(path, error, file.size if file else 0)) from error
        finally:
            partial.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, place: storage, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads a checkpoint, without unpickling anything; raises UsageError if it is damaged."""
        verify(Path(path))
        return super().load_checkpoint(path, map_location, weights_only=True)


def _write_through(folder: Path) -> None:
    """Waits until the names in a folder are on the disk; where folders cannot be opened, the system sees to that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _not_saved(path: Path, error: OSError, size: int) -> str:
    free = ""
    with suppress(OSError):
        free = f", {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    kept = "the one from before is whole" if path.is_file() else "there is none from before"
    return (
        f"the checkpoint {short_path(path)} could not be written ({error.strerror or error}): it needs "
        f"{size / 1e6:,.1f} MB{free}, and {kept}. Make room, and go on with --ckpt_path."
    )
