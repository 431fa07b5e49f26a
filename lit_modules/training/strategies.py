"""Which of Lightning's strategies a run may have."""

from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from lit_modules.training.fsdp2 import FSDP2
from mixers.checks import UsageError

SCALED = ("16", "16-mixed")  # number formats that need the loss scaled


def choose_strategy(
    strategy: str | Strategy, *, sharded_checkpoints: bool, precision: str | int | None
) -> str | Strategy:
    """The strategy that an option names.

    Args:
        strategy: `auto`, `fsdp2`, `ddp` or a variant of it, or a strategy for one device or with a whole model on each.
        sharded_checkpoints: Whether each process saves its own part.
        precision: The number format.

    Raises:
        UsageError: Another strategy would train wrongly without an error, or another option does not go with this one.
    """
    if isinstance(strategy, str) and strategy == FSDP2.strategy_name:
        strategy = FSDP2(sharded_checkpoints=sharded_checkpoints)
    if sharded_checkpoints and not isinstance(strategy, FSDP2):
        raise UsageError(f"sharded_checkpoints=True needs strategy='fsdp2', not {_name(strategy)!r}: write False.")
    if isinstance(strategy, FSDP2) and str(precision) in SCALED:
        raise UsageError(f"precision={precision!r} does not go with strategy='fsdp2': write bf16-mixed or 32-true.")
    if isinstance(strategy, str):
        # A spawned process is handed the command line's objects, which cannot all be pickled.
        allowed = strategy in ("auto", "single_device") or (strategy.startswith("ddp") and "spawn" not in strategy)
    else:
        allowed = isinstance(strategy, (DDPStrategy, FSDP2, SingleDeviceStrategy))
    if not allowed:
        raise UsageError(
            f"strategy={_name(strategy)!r} is not one that these models train with: write auto, ddp, or fsdp2 for "
            "a model that is shared out over the processes."
        )
    return strategy


def _name(strategy: str | Strategy) -> str:
    return strategy if isinstance(strategy, str) else type(strategy).__name__
