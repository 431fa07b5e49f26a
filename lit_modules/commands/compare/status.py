"""How far the runs of a study have come, as their folders show."""

from pathlib import Path
from typing import Literal

import yaml

from lit_modules.commands.compare.study import Options, Run
from lit_modules.training import checkpoint
from mixers.checks import UsageError

Status = Literal["waiting", "begun", "trained", "finished", "failed"]

OVER = ("finished", "failed")
FOLDERS = {"trainer.default_root_dir", "trainer.logger.init_args.save_dir"}  # which may have been moved


def status(run: Run) -> Status:
    """How far a run has come, as its folder shows."""
    if (run.folder / "failed.txt").is_file():
        return "failed"
    if (run.folder / "test" / "corpora.csv").is_file() and _options(tested_with(run)) == run.test:
        return "finished"
    last = last_checkpoint(run)
    if not last.is_file():
        return "waiting"
    step: int = checkpoint.read_file(last)["global_step"]
    return "trained" if step >= run.options["trainer"]["max_steps"] else "begun"


def last_checkpoint(run: Run) -> Path:
    return run.folder / "checkpoints" / "last.ckpt"


def trained_with(run: Run) -> Path:
    """The file of options that a run was begun with."""
    return run.folder / "options.yaml"


def tested_with(run: Run) -> Path:
    """The file of options that it was tested with, written once it was."""
    return run.folder / "test" / "options.yaml"


def why_it_failed(run: Run) -> str:
    """One sentence; nothing if it did not fail."""
    note = run.folder / "failed.txt"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def check_same(run: Run) -> None:
    """Raises ValueError if a run was begun with other options than it has now."""
    begun_with = _options(trained_with(run))
    if begun_with is None:
        return
    there, asked = _flat(begun_with), _flat(run.options)
    for name in sorted({**there, **asked}.keys() - FOLDERS):
        if there.get(name) != asked.get(name):
            raise UsageError(
                f"{name}={asked.get(name)!r} of {run.name} is not what {str(run.folder)!r} was begun with, "
                f"{there.get(name)!r}: delete that folder, or write another --folder."
            )


def _options(path: Path) -> Options | None:
    """The options in a file, if it is there."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def _flat(options: Options, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
