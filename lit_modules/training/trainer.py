"""Lightning's trainer, measured in optimizer steps."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_info

from lit_modules.data.base import LanguageData
from lit_modules.data.datamodule import HeldOut, Text
from lit_modules.data.synthetic.task import Task
from lit_modules.evaluation import answers, tables
from lit_modules.evaluation.scores import EvalCorpus, Evaluation, Scores
from lit_modules.lightning_internals import batches_done, end_without_steps, hush, set_timeout
from lit_modules.training import checkpoint, pretrained
from lit_modules.training.callbacks.standard import all_callbacks
from lit_modules.training.check_weights import check_weights
from lit_modules.training.checkpoint_io import CheckpointFiles
from lit_modules.training.fsdp2 import FSDP2
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import model_mixers
from lit_modules.training.precision import best_precision
from lit_modules.training.results import print_results
from lit_modules.training.run_folder import RunLogger
from lit_modules.training.strategies import choose_strategy
from lit_modules.training.trainer_options import check_options
from mixers.checks import UsageError, above, one_of


class Trainer(pl.Trainer):
    """Trains on an endless stream of text for a number of optimizer steps.

    Args:
        max_steps: Optimizer steps to train for; -1 trains until it is stopped.
        precision: Number format: `auto` is bfloat16 with float32 weights (`bf16-mixed`) where the hardware multiplies
            bfloat16 itself, and float32 (`32-true`) elsewhere.
        val_check_interval: Optimizer steps between two validations; there is always one at the end.
        save_every_n_steps: Optimizer steps between two savings of last.ckpt, which is also saved before each
            validation and when the run is stopped.
        skip_nonfinite_steps: Whether an optimizer step whose gradient is infinite or not a number is left out, for
            which the processor waits for the GPU on every step; otherwise it stops the run.
        process_timeout: Minutes that one of several processes waits for another that hangs, before the run ends.
        accumulate_grad_batches: Batches that an optimizer step takes its gradient from.
        logger: Where to log; by default to TensorBoard, in a folder runs/MIXER/version_N.
        callbacks: Callbacks beside the trainer's own.
        enable_checkpointing: Whether to keep the best and the last checkpoint.
        enable_progress_bar: Whether to show progress.
        enable_model_summary: Whether to list the layers of the model at the start.
        max_epochs: Not for this trainer: a run is measured in steps.
        accelerator: The hardware: `auto`, `cpu`, `gpu` or any that Lightning knows.
        default_root_dir: The folder of all runs.
        strategy: How processes share the work: with `ddp` each has the whole model, with `fsdp2` a part of the model
            and of the optimizer's state, for models that do not fit otherwise; `auto` is `ddp` for several.
        sharded_checkpoints: Whether with `fsdp2` each process saves its own part, so that a checkpoint is a folder;
            otherwise it is one file, for which the first process needs the memory.
        options: Options of Lightning's trainer.
    """

    def __init__(
        self,
        *,
        max_steps: int = -1,
        precision: str | int = "auto",
        val_check_interval: int | None = None,
        save_every_n_steps: int = 500,
        skip_nonfinite_steps: bool = False,
        process_timeout: float = 30,
        accumulate_grad_batches: int = 1,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        enable_checkpointing: bool = True,
        enable_progress_bar: bool = True,
        enable_model_summary: bool = False,
        max_epochs: int | None = None,
        accelerator: str | Accelerator = "auto",
        default_root_dir: str | Path = "runs",
        strategy: str | Strategy = "auto",
        sharded_checkpoints: bool = False,
        **options: Any,
    ):
        above(0, process_timeout=process_timeout)
        own_options = ("max_steps", "max_epochs", "val_check_interval", "save_every_n_steps", "accumulate_grad_batches")
        check_options(options | {name: value for name, value in locals().items() if name in own_options})
        if precision == "auto":
            precision, reason = best_precision(accelerator)
            rank_zero_info(f"precision: {precision} ({reason})")
        strategy = choose_strategy(strategy, sharded_checkpoints=sharded_checkpoints, precision=precision)
        own = all_callbacks(
            callbacks,
            progress_bar=enable_progress_bar,
            checkpoints_every_n_steps=save_every_n_steps if enable_checkpointing else None,
            skip_nonfinite_steps=skip_nonfinite_steps,
        )
        hush()
        self._logs_to_folder = logger is None or logger is True  # which `fit` knows
        super().__init__(
            max_steps=max_steps,
            max_epochs=-1 if max_steps == -1 else None,
            precision=precision,  # type: ignore[arg-type]
            # Lightning counts batches here, and optimizer steps elsewhere.
            val_check_interval=val_check_interval and val_check_interval * accumulate_grad_batches,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=accumulate_grad_batches,
            logger=False if self._logs_to_folder else logger,
            callbacks=own,
            enable_checkpointing=enable_checkpointing,
            enable_progress_bar=enable_progress_bar,
            enable_model_summary=enable_model_summary,
            accelerator=accelerator,
            default_root_dir=default_root_dir,
            strategy=strategy,
            use_distributed_sampler=False,  # the data know their share
            **options,
        )
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # else it is one that the user chose
            self.strategy.checkpoint_io = CheckpointFiles()
        end_without_steps(self)
        set_timeout(self, minutes=process_timeout)

    def fit(  # type: ignore[override]  # nothing is ever unpickled, so there is no `weights_only` to choose
        self,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        init_from: str | None = None,
        branch: bool = False,
    ) -> None:
        """Trains a model.

        Args:
            model: The model.
            train_dataloaders: Batches to train on, instead of a data module.
            val_dataloaders: Batches to validate on, instead of a data module.
            datamodule: The data.
            ckpt_path: Checkpoint to go on from, in the same folder; `last` is the newest of all runs.
            init_from: Checkpoint whose weights a new run starts with, at step 0, on other data or with other options of
                training: its model and its tokenizer are those of the checkpoint.
            branch: Whether the run that goes on from `ckpt_path` does so in a new folder, and leaves that of the
                checkpoint as it is: such as a cool-down, with `schedule=wsd`, from a run at a constant rate.
        """
        path = self._file(ckpt_path)
        if branch and path is None:
            raise UsageError("branch=True needs a run to branch off: set ckpt_path to one of its checkpoints.")
        if init_from and path:
            pretrained.refuse_both(ckpt_path, init_from)
        if init_from and isinstance(model, LitLanguageModel):
            model.start_from(pretrained.read(init_from, self.default_root_dir))
        if path and isinstance(model, LitLanguageModel):
            check_weights(model, checkpoint.read_file(path)["state_dict"], f"ckpt_path={str(path)!r}")
        if path:  # a resumed run saves where it saved before
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        if self._logs_to_folder:  # of the run that goes on, or in a new one named after the mixer
            name = model_mixers(model.model) if isinstance(model, LitLanguageModel) else type(model).__name__
            folder = checkpoint.run_folder(path) if path and not branch else None
            self.logger = RunLogger.of(folder, Path(self.default_root_dir, name))
        try:
            super().fit(model, train_dataloaders, val_dataloaders, datamodule, path, weights_only=True)
        except BaseException:
            if batches_done(self) == 0 and isinstance(self.logger, RunLogger):  # refused, or stopped, before it trained
                self.logger.discard()
            raise
        if self.is_global_zero and isinstance(model, LitLanguageModel):
            print_results(model.model, self)

    def validate(  # type: ignore[override]
        self,
        model: pl.LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
        datamodule: pl.LightningDataModule | None = None,
    ) -> list[dict[str, float]]:
        """Measures a model on the validation text.

        Args:
            model: The model.
            dataloaders: Batches to validate on, instead of a data module.
            ckpt_path: Checkpoint of the model; `last` is the newest of all runs.
            verbose: Whether to print the results.
            datamodule: The data.

        Returns:
            The metrics, in one dict.
        """
        results = super().validate(model, dataloaders, self._file(ckpt_path), False, datamodule, weights_only=True)
        results = results[:1]  # Lightning repeats it for each corpus of a mixture
        if verbose and self.is_global_zero:
            corpus = datamodule.corpus if isinstance(datamodule, LanguageData) else "validation"
            for result in results:
                note = answers.NOTE if isinstance(datamodule, Task) else tables.NOTE
                print(f"{note}\n\n{tables.aligned(tables.validation(corpus, result))}")
        return [dict(result) for result in results]

    def test(  # type: ignore[override]
        self,
        model: pl.LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
        datamodule: pl.LightningDataModule | None = None,
        *,
        split: HeldOut = "test",
        corpora: list[str | EvalCorpus] = [],  # noqa: B006  (jsonargparse shows and copies it)
        contexts: list[int] = [512, 1024, 2048],  # noqa: B006
        max_tokens: int | None = None,
        output_dir: str | Path | None = None,
    ) -> list[dict[str, float]]:
        """Measures a model on the test text and on other corpora, by position and by context.

        Tables are printed, and go to a folder; corpora.csv is the last to be written. Of a synthetic task it measures
        loss and accuracy by part, in accuracy.csv.

        Args:
            model: The model.
            dataloaders: Batches for a module's own `test_step`, instead of a data module.
            ckpt_path: Checkpoint of the model; `last` is the newest of all runs.
            verbose: Whether to print the results.
            datamodule: The data.
            split: Which split of the run's own corpus: settings are chosen on `validation`, and reported on `test`.
            corpora: Other corpora, each a name as `--data.corpus` takes it or {corpus: NAME, text_field: FIELD}.
            contexts: Tokens of context, for the perplexity of the last 128 of windows of the longest of them; that by
                position is of the same windows.
            max_tokens: Most tokens of each corpus to score, in blocks spread evenly over it; by default as many as a
                validation takes (`data.val_tokens`).
            output_dir: The folder for the tables; by default `test` in the folder of the run.

        Returns:
            The metrics, in one dict for each corpus, that of the run first.

        Raises:
            UsageError: An option is out of range, or `output_dir` cannot be written to.
        """
        path = self._file(ckpt_path)
        if isinstance(datamodule, Task):
            return [self._test_task(model, datamodule, path, split, output_dir, verbose)]
        if isinstance(datamodule, LanguageData) and not isinstance(datamodule, Text):
            raise UsageError(f"test measures text, not {datamodule.corpus!r}: use validate, or give --data=text.")
        if not isinstance(datamodule, Text):
            if corpora or max_tokens is not None or output_dir is not None:
                asked = f"corpora={corpora}, max_tokens={max_tokens} and output_dir={output_dir}"
                raise UsageError(f"{asked} need the run's Text as datamodule.")
            return [dict(r) for r in super().test(model, dataloaders, path, verbose, datamodule, weights_only=True)]
        if (limit := self.limit_test_batches) != 1.0:
            raise UsageError(f"trainer.limit_test_batches={limit} would leave out parts of the tables: set max_tokens.")
        evaluation = Evaluation(datamodule, split, corpora, contexts, max_tokens)
        folder = self._table_folder(path, output_dir)
        scores = Scores(evaluation)
        self.callbacks.append(scores)  # type: ignore[attr-defined]
        try:
            super().test(model, dataloaders, path, False, evaluation, weights_only=True)
        except BaseException:
            if folder is not None and output_dir is None:
                with suppress(OSError):  # it holds tables of an earlier test
                    folder.rmdir()
            raise
        finally:
            self.callbacks.remove(scores)  # type: ignore[attr-defined]
        return tables.report(evaluation, scores.nats, folder, verbose and self.is_global_zero)

    def _test_task(
        self,
        model: pl.LightningModule | None,
        task: Task,
        path: Path | None,
        split: HeldOut,
        output_dir: str | Path | None,
        verbose: bool,
    ) -> dict[str, float]:
        """`test` on a synthetic task: loss and accuracy of each of its parts."""
        one_of(get_args(HeldOut), split=split)
        task.measured, folder = split, self._table_folder(path, output_dir)
        scores = answers.Answers(task)
        self.callbacks.append(scores)  # type: ignore[attr-defined]
        try:
            super().test(model, None, path, False, task, weights_only=True)
        finally:
            self.callbacks.remove(scores)  # type: ignore[attr-defined]
        return answers.report(task, scores.sums, folder, verbose and self.is_global_zero)

    def _table_folder(self, path: Path | None, output_dir: str | Path | None) -> Path | None:
        """Where the first process writes the tables of a test."""
        run = checkpoint.run_folder(path) or path.parent if path else Path(self.log_dir or self.default_root_dir)
        return tables.folder_to_write(run / "test", asked=output_dir) if self.is_global_zero else None

    def _file(self, ckpt_path: str | None) -> Path | None:
        path = checkpoint.find(ckpt_path, self.default_root_dir) if ckpt_path else None
        if path and path.is_dir() and not isinstance(self.strategy, FSDP2):
            raise UsageError(f"ckpt_path={str(path)!r} is a folder: write --trainer.strategy=fsdp2 to read it.")
        return path
