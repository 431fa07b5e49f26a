"""The folder of a run: RUNS/MIXER/version_N."""

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger

LOGS = ("events.out.tfevents", "hparams.yaml")  # what TensorBoard's logger writes before there is anything to log


class RunLogger(TensorBoardLogger):
    """Logs to TensorBoard, in a new folder that no other run has, however many start at once.

    The folder is made when it is first needed. Of several processes the first makes it, and tells the others.
    """

    def __init__(self, root: Path, name: str, version: str | None) -> None:
        super().__init__(root, name=name, version=version, default_hp_metric=False)
        self._claimed: int | str | None = version
        self._made: list[Path] = []  # the new folder of this run, and those around it that it was made with

    @classmethod
    def of(cls, folder: Path | None, new: Path) -> "RunLogger":
        """That of the run in a folder, or of a new run in a folder below `new`."""
        if folder is not None:
            return cls(folder.parent.parent, folder.parent.name, folder.name)
        return cls(new.parent, new.name, None)

    @property
    def version(self) -> int | str:
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return super().version
        if self._claimed is None:
            root = Path(self.root_dir)
            around = [folder for folder in (root, *root.parents) if not folder.exists()]
            self._claimed = claim_version(root)
            self._made = [Path(self.log_dir), *around]
        return self._claimed

    def discard(self) -> None:
        """Removes the folder that was made for this run, if it holds nothing but an empty log."""
        if not self._made or any(not path.name.startswith(LOGS) for path in self._made[0].glob("*")):
            return
        shutil.rmtree(self._made[0], ignore_errors=True)
        for folder in self._made[1:]:
            with suppress(OSError):  # another run has its folder there
                folder.rmdir()


def claim_version(root: Path) -> int:
    """Makes the folder version_N with the lowest N that is higher than all there are, and returns N."""
    root.mkdir(parents=True, exist_ok=True)
    numbers = [path.name.removeprefix("version_") for path in root.glob("version_*")]
    for number in count(max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)):
        try:
            (root / f"version_{number}").mkdir()
        except FileExistsError:
            continue  # another run has just made it
        return number
    raise AssertionError
