"""Training a language model."""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_modules.console import did_you_mean
from lit_modules.data.base import as_batch
from lit_modules.lightning_internals import batch_index, step_is_logged, strategy_of
from lit_modules.training.allowed_imports import restrict_imports
from lit_modules.training.check_weights import check_weights
from lit_modules.training.fsdp2 import FSDP2
from lit_modules.training.mixer_config import as_config
from lit_modules.training.optimizer import Rates, check_moments, check_options, parameter_groups, regroup
from lit_modules.training.pretrained import Pretrained, load_weights
from lit_modules.training.schedule import Schedule, check_schedule, lr_factor, schedule_of
from lit_modules.training.sharded import Recipe, check_shares, is_sharded, shard, weights_device
from lit_modules.training.step_mean import StepMean
from lit_modules.training.validation import SHOWN, Validation
from mixers import LanguageModel
from mixers.checks import SEEDS, UsageError, between
from mixers.model.loss import IGNORED
from mixers.ops.compiled import no_compiler

MIXERS = ("mixer", "pattern", "overrides")  # the options of the model that checkpoints hold as configs
REBUILD = "pytorch_lightning.cli.instantiate_module"  # what load_from_checkpoint builds from plain config with


class LitLanguageModel(pl.LightningModule):
    """Trains a language model to predict the next token.

    Args:
        lr: Highest learning rate.
        mixer_lr_ratio: The learning rate of the mixers, as a multiple of `lr`; 0 leaves them as they are.
        ffn_lr_ratio: That of the feed-forward layers.
        embedding_lr_ratio: That of the embeddings and of the head.
        schedule: How the learning rate falls after the warm-up: `wsd` (warm-up, stable, decay) only over the last
            `cooldown_steps`, in a straight line.
        min_lr_ratio: The lowest learning rate, as a fraction of `lr`.
        warmup_steps: Optimizer steps over which the learning rate rises to `lr`.
        decay_steps: Optimizer step at which the learning rate stops falling; by default the last of the run.
        cooldown_steps: Optimizer steps over which it falls with schedule `wsd`; by default a fifth of `decay_steps`.
        weight_decay: AdamW's weight decay, applied to matrices but not to embeddings.
        betas: AdamW's decay rates of the mean gradient and of the mean squared gradient.
        seed: Seed of the dropout.
        compile: Whether torch.compile makes the blocks faster, which takes a minute or more at the start; on a CPU it
            needs a C++ compiler.
        model: Options of `mixers.LanguageModel`; mixers are classes, `functools.partial`s of classes, or names.

    Raises:
        UsageError: An option is unknown or out of range, or a mixer cannot be kept in a checkpoint.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        *,
        mixer_lr_ratio: float = 1.0,
        ffn_lr_ratio: float = 1.0,
        embedding_lr_ratio: float = 1.0,
        schedule: Schedule = "cosine",
        min_lr_ratio: float = 0.1,
        warmup_steps: int = 0,
        decay_steps: int | None = None,
        cooldown_steps: int | None = None,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        seed: int = 0,
        compile: bool = False,
        **model: Any,
    ):
        super().__init__()
        options = {name: value for name, value in locals().items() if name in self.changeable_options}
        check_options(Rates.from_options(options), betas)
        check_schedule(**schedule_of(options), decay_steps=decay_steps)
        between(0, SEEDS, seed=seed)
        known = inspect.signature(LanguageModel).parameters
        # jsonargparse, which reads this code to know the options, takes no call with `model` itself as an argument.
        for name, value in {**model}.items():
            if name not in known:
                raise UsageError(f"{name}={value!r} is no option of the model{did_you_mean(name, known)}")
        self._recipe = Recipe.of({**model})
        with weights_device():
            self.model = LanguageModel(**model)
        mixers = {name: as_config(value) for name, value in {**model}.items() if value and name in MIXERS}
        self.save_hyperparameters({**options, "betas": list(betas), **model, **mixers, "_instantiator": REBUILD})
        self._step_mean = StepMean()  # of batches with different numbers of targets

    initial_weights: Mapping[str, Tensor] | None = None  # until training starts with them

    # What the weights do not depend on: a run may be resumed with other values. The model and mixers declare their own.
    changeable_options: ClassVar[frozenset[str]] = frozenset(inspect.signature(__init__).parameters) - {"self", "model"}

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **options: Any) -> "LitLanguageModel":
        """As Lightning has it; from a file that names what may not be imported, nothing is."""
        restrict_imports()
        return super().load_from_checkpoint(*args, **options)

    def start_from(self, pretrained: Pretrained) -> None:
        """Has training start with other weights than random ones; raises UsageError if they do not fit."""
        check_weights(self.model, pretrained.weights, f"init_from={str(pretrained.path)!r}")
        self.initial_weights = pretrained.weights

    def configure_model(self) -> None:
        if isinstance(strategy := strategy_of(self), FSDP2):
            self.model = shard(self.model, self._recipe, strategy.device_mesh["data_parallel"])
        if self.initial_weights is not None:
            load_weights(self.model, self.initial_weights)
            self.initial_weights = None
        if not self.hparams["compile"]:
            return
        if reason := no_compiler(self.trainer.strategy.root_device):
            raise UsageError(f"compile=True cannot be: {reason}.")
        for block in self.model.blocks:
            block.compile()  # in place, so that the weights keep their names

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout follows from the batch's number alone, so a run that was stopped anywhere goes on exactly as if it
        # had not been, and a checkpoint needs no generator's state. SeedSequence keeps neighbouring seeds unrelated.
        entropy = [self.hparams["seed"], batch_index(self.trainer), self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = as_batch(batch)
        loss = self.model.loss(inputs, targets, sparse=not isinstance(batch, Tensor))
        if not isinstance(batch, Tensor) and self.trainer.world_size * self.trainer.accumulate_grad_batches > 1:
            return self._step_mean.weigh(loss, targets)
        if step_is_logged(self.trainer):  # on every step, a GPU would wait to be read, and each process for all
            self._log_step(loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        gradients = (parameter.grad for parameter in self.parameters() if parameter.grad is not None)
        loss = self._step_mean.finish(gradients, self.trainer.strategy, self.trainer.accumulate_grad_batches)
        if loss is not None and step_is_logged(self.trainer):
            self._log_step(loss)

    def _log_step(self, loss: Tensor) -> None:
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_start(self) -> None:
        check_shares(self.trainer.val_dataloaders, self.trainer.world_size)

    def on_test_start(self) -> None:
        if is_sharded(self.model):  # otherwise no process waits for another
            check_shares(self.trainer.test_dataloaders, self.trainer.world_size)

    def on_validation_epoch_start(self) -> None:
        loaders = self.trainer.val_dataloaders
        self._validation = Validation(len(loaders) if isinstance(loaders, list) else 1, self.device)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        inputs, targets = as_batch(batch)
        self._validation.update(
            dataloader_idx, *(each[targets != IGNORED] for each in self.model.scores(inputs, targets))
        )

    def on_validation_epoch_end(self) -> None:
        for name, value in self._validation.metrics(self.trainer.datamodule).items():  # type: ignore[attr-defined]
            self.log(name, value.float(), prog_bar=name in SHOWN)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Of each target its negative log-likelihood in nats, and whether it is the likeliest, (batch, time) each.

        `Trainer.test` adds them up.
        """
        losses, right = self.model.scores(*as_batch(batch))
        return {"losses": losses, "right": right}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips, and logs the norm that clipping computes anyway."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
            if step_is_logged(self.trainer):
                self.log("grad_norm", norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # A GradScaler and a fused step both want to unscale the gradients, and clipping needs them unscaled before.
        fused = self.device.type in ("cpu", "cuda") and self.trainer.scaler is None
        optimizer = AdamW(self._parameter_groups(), fused=fused)
        options = self.hparams
        # Not trainer.estimated_stepping_batches, which builds the loaders before their state is restored.
        steps = options["decay_steps"] or self.trainer.max_steps
        if options["schedule"] != "constant" and steps < 0:
            raise UsageError(
                f"schedule={options['schedule']!r} needs an end: set trainer.max_steps or model.decay_steps, or "
                "model.schedule=constant."
            )
        if 0 < self.trainer.max_steps < options["warmup_steps"]:
            rank_zero_warn(
                f"The learning rate does not reach model.lr={options['lr']}, since model.warmup_steps="
                f"{options['warmup_steps']} is more than trainer.max_steps={self.trainer.max_steps}."
            )
        scheduler = LambdaLR(optimizer, lr_factor(**schedule_of(options), decay_steps=steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        rates, states = Rates.from_options(checkpoint["hyper_parameters"]), checkpoint.get("optimizer_states", [])
        states[:] = [regroup(state, self.model, rates) for state in states]
        for state in states:
            check_moments(state, self.model)

    def on_train_start(self) -> None:
        self._step_mean = StepMean()  # an earlier run may have been interrupted within a step
        # A restored optimizer comes with the options it was saved with; those of this run are what the user asked for.
        [optimizer], scheduler = self.trainer.optimizers, self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        for group, asked in zip(optimizer.param_groups, self._parameter_groups(), strict=True):
            group |= {**asked, "params": group["params"], "initial_lr": asked["lr"]}
            group["lr"] = asked["lr"] * scheduler.lr_lambdas[0](scheduler.last_epoch)
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def on_train_end(self) -> None:
        # TensorBoard's table of runs: options beside results.
        final = {f"final/{name}": value for name, value in self.trainer.callback_metrics.items() if name[:4] == "val/"}
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(dict(self.hparams), metrics=final, step=self.global_step)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        groups = parameter_groups(self.model, Rates.from_options(self.hparams))
        return [{**group, "betas": tuple(self.hparams["betas"])} for group in groups]
