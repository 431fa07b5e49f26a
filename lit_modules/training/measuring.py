"""What a trainer measures of a trained model: `validate` and `test`, with tables."""

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl

from lit_modules.data.base import LanguageData
from lit_modules.data.datamodule import HeldOut, Text
from lit_modules.data.synthetic.task import Task
from lit_modules.evaluation import answers, tables
from lit_modules.evaluation.scores import EvalCorpus, Evaluation, Scores
from lit_modules.training import checkpoint
from lit_modules.training.fsdp2 import FSDP2
from mixers.checks import UsageError, one_of


class Measuring(pl.Trainer):
    """Lightning's trainer, whose `validate` and `test` print and write tables."""

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
