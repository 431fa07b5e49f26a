"""Options of the trainer that are out of range, or that would mean nothing in a run measured in steps."""

from typing import Any

from mixers.checks import UsageError, at_least

# Options of Lightning's trainer that count epochs, of which an endless stream has none.
OF_EPOCHS = ("max_epochs", "min_epochs", "check_val_every_n_epoch")
LEAST = {  # the smallest value of each, where it is given
    "min_steps": 0,
    "val_check_interval": 1,
    "save_every_n_steps": 1,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
    "gradient_clip_val": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
BATCHES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")


def check_options(options: dict[str, Any]) -> None:
    """Raises UsageError for the first of a trainer's options that is out of range."""
    for name in OF_EPOCHS:
        if options.get(name) is not None:
            raise UsageError(f"{name}={options[name]} has no meaning for an endless stream: set max_steps instead.")
    at_least(-1, max_steps=options["max_steps"])
    for name, least in LEAST.items():
        if options.get(name) is not None:
            at_least(least, **{name: options[name]})
    for name in BATCHES:
        if (value := options.get(name)) is not None:
            _check_batches(name, value)
    if 0 <= options["max_steps"] < (options.get("min_steps") or 0):
        raise UsageError(f"min_steps={options['min_steps']} is more than max_steps={options['max_steps']}: lower it.")
    devices = options.get("devices")
    try:
        count = int(devices)  # type: ignore[arg-type]  # what is no number, is for Lightning to judge
    except (TypeError, ValueError):
        return
    if count < 1 and count != -1:
        raise UsageError(f"devices={devices} is out of range: write 1 or more, -1 for all, a list of devices, or auto.")


def _check_batches(name: str, value: float) -> None:
    at_least(0, **{name: value})
    whole = isinstance(value, int) or value == 1.0
    if name in ("limit_train_batches", "overfit_batches") and not whole and value:
        raise UsageError(f"{name}={value} is a part of a stream that has no end: write a whole number of batches.")
    if not whole and value > 1:
        raise UsageError(f"{name}={value} is out of range: write a whole number of batches, or a part from 0.0 to 1.0.")
    if name == "limit_train_batches" and value == 0:
        raise UsageError("limit_train_batches=0 would train nothing: write 1 or more, or leave it out.")
