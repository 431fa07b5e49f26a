"""A record of what each process of a run is trained on: rows of ids, in a file for each batch and process."""

import json
import os
from pathlib import Path

from torch import Tensor

from lit_modules.lightning_internals import batch_index
from lit_modules.training.language_model import LitLanguageModel

TRAINING_STEP = LitLanguageModel.training_step
FOLDER = Path("rows")
# For `small_distributed.start`: each process keeps a record, and shuffles streams in small windows.
PROGRAM = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import small_recording
from lit_modules.data import streaming
from lit_modules.training.language_model import LitLanguageModel

LitLanguageModel.training_step = small_recording.recorded_step
streaming.WINDOW = 20
"""


def recorded_step(model: LitLanguageModel, batch: Tensor, batch_idx: int) -> Tensor:
    """A training step that writes its batch into a file, named after the run, the batch and the process."""
    run = Path(model.trainer.default_root_dir).name
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{run}.{batch_index(model.trainer)}.{model.global_rank}").write_text(json.dumps(batch.tolist()))
    return TRAINING_STEP(model, batch, batch_idx)


def global_batches(run: str) -> list[list[list[int]]]:
    """The batches of a run, of each the rows of all processes."""
    batches: list[list[list[int]]] = []
    while parts := sorted(name for name in os.listdir(FOLDER) if name.startswith(f"{run}.{len(batches)}.")):
        batches.append([row for name in parts for row in json.loads((FOLDER / name).read_text())])
    return batches
