"""How far a trainer is."""

import pytorch_lightning as pl


def batches_done(trainer: pl.Trainer | None) -> int:
    """Batches that a trainer has finished, those before it was resumed included; none without a trainer.

    Lightning has no public count that is right in every hook. `processed` is raised after the optimizer's step and
    before on_train_batch_end, so it is right whether a checkpoint is saved there, in on_validation_end, in on_train_end
    or on an exception; prefetched batches do not count. `completed` is one behind in on_train_batch_end, `ready` one
    ahead on an exception.
    """
    if trainer is None:
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]
