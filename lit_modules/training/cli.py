"""Lightning's commands: `fit`, `validate` and `test`, with everything a run needs as options."""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from inspect import getdoc
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

import mixers.names  # noqa: F401  (the short names)
from lit_modules.console import command
from lit_modules.data.cache import replace_text
from lit_modules.data.datamodule import Text
from lit_modules.lightning_internals import CLIWithoutCheckpoints, NothingRuns
from lit_modules.training import checkpoint, resume
from lit_modules.training.allowed_imports import restrict_imports
from lit_modules.training.config_file import check_configs
from lit_modules.training.errors import Parser, explain
from lit_modules.training.fsdp2 import FSDP2
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.sharded import weights_later
from lit_modules.training.trainer import Trainer
from mixers import available
from mixers.checks import SEEDS, UsageError, between


class LightningParser(Parser, LightningArgumentParser):
    """Lightning's parser, with sentences for mistakes."""


class SaveConfig(SaveConfigCallback):
    """Saves the options of a run when it begins to train: by then all is checked, and a checkpoint is restored."""

    def setup(self, *_: object, **__: object) -> None:
        """Not yet, as Lightning would."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = trainer.log_dir  # which all processes ask for together
        if folder is not None and trainer.is_global_zero:
            Path(folder).mkdir(parents=True, exist_ok=True)
            replace_text(Path(folder) / self.config_filename, self.parser.dump(self.config, skip_none=False))


class CLI(CLIWithoutCheckpoints):
    """Lightning's command line, whose first argument is the command."""

    def __init__(self, argv: Sequence[str]):
        restrict_imports()
        self.argv = list(argv)
        self.saved: checkpoint.Options | None = None  # the data's options in the checkpoint of a resumed run
        options = {
            "usage": f"{command()} {argv[0]} [options]",
            "default_config_files": [str(default_config())],
            "allow_abbrev": False,  # or a typo that happens to begin an option would pass for it
        }
        super().__init__(
            LitLanguageModel,
            Text,
            trainer_class=Trainer,
            parser_class=LightningParser,
            save_config_callback=SaveConfig if argv[0] == "fit" else None,
            auto_configure_optimizers=False,
            parser_kwargs={"allow_abbrev": False, argv[0]: options},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # building the others' parsers takes time
        return {self.argv[0]: super().subcommands()[self.argv[0]]}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Lightning's also takes a bool, of which `true` quietly means 0.
        parser.add_argument("--seed_everything", type=int, default=42, help="Seed of the weights and the dropout.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data", "model.vocab_size", lambda data: data.vocab_size, apply_on="instantiate")
        parser.link_arguments("data", "model.start_token", lambda data: data.start_token, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        self._parse(parser)
        between(0, SEEDS, seed_everything=self.config[self.argv[0]].seed_everything)

    def _parse(self, parser: LightningArgumentParser) -> None:
        name, *options = self.argv
        where = options_of(options, "--config", "--ckpt_path", "--trainer.default_root_dir")
        check_configs(where)
        asked = parser.parse_args([name, *where])[name] if where else None
        if asked is None or not asked.ckpt_path:
            self.config = parser.parse_args(self.argv)
            if name != "fit":
                raise UsageError(f"{name} needs a trained model: set --ckpt_path to its checkpoint, or to `last`.")
            return
        path = checkpoint.find(asked.ckpt_path, asked.trainer.default_root_dir)
        content = checkpoint.read_file(path)
        # The checkpoint's options are read before those that were typed, which therefore win.
        self.config = parser.parse_args([name, f"--config={json.dumps(resume.as_config(path, content))}", *options])
        config, step = self.config[name], content["global_step"]
        if name == "fit" and not content.get("optimizer_states"):
            raise UsageError(f"ckpt_path={asked.ckpt_path!r} holds no optimizer state: write one that fit saved whole.")
        resume.check(content, config.as_dict())
        if name == "fit" and resume.is_finished(content, config.trainer):
            raise UsageError(
                f"ckpt_path={asked.ckpt_path!r} is at step {step} already, and trainer.max_steps="
                f"{config.trainer.max_steps}: set a larger --trainer.max_steps to train on."
            )
        self.saved = content["datamodule_hyper_parameters"]
        config.ckpt_path, config.data.tokenizer = str(path), str(checkpoint.main_file(path))

    def instantiate_classes(self) -> None:
        sharded = self.config[self.subcommand].trainer.strategy == FSDP2.strategy_name
        try:
            with weights_later() if sharded else contextlib.nullcontext():
                super().instantiate_classes()
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            if isinstance(error, TypeError) and not any(said in str(error) for said in ("abstract class", "`devices`")):
                raise
            # What a constructor says is wrong, without what jsonargparse says around it.
            while error.__cause__ is not None and str(error).startswith("Call to compute_fn of link"):
                error = error.__cause__  # type: ignore[assignment]
            raise UsageError(str(error)) from error
        if self.saved is not None:  # the tokenizer keeps its name, though it is read from the checkpoint
            self.config[self.subcommand].data.tokenizer = self.saved["tokenizer"]
            self.datamodule.hparams["tokenizer"] = self.saved["tokenizer"]


class Built(NothingRuns, CLI):
    """A command with everything built, and not run."""


def build(argv: Sequence[str]) -> None:
    """Builds all that a command needs without running it; raises UsageError where an option is wrong."""
    with usage_errors():
        Built(argv)


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Makes UsageErrors of Lightning's own, and of what else ends a run for a reason that a user can see to."""
    try:
        yield
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    except (OSError, RuntimeError, UsageError) as error:
        raise explain(error) or error from error


def run_command(argv: Sequence[str]) -> None:
    """Runs one of Lightning's commands; raises UsageError where an option is wrong, or what it names."""
    if "--model.mixer.help" in options_of(argv, "--model.mixer.help"):
        print(mixer_list())
        raise SystemExit(0)
    with usage_errors():
        CLI(argv)


def options_of(argv: Sequence[str], *names: str) -> list[str]:
    """Of the options in `argv`, those with certain names, each as one word."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        short = ["-c"] if name == "--config" else []
        finder.add_argument(*short, name, action="append", nargs="?", dest=name)
    found = vars(finder.parse_known_args(argv)[0])
    return [name if value is None else f"{name}={value}" for name in names for value in found[name] or ()]


def mixer_list() -> str:
    """Every mixer that has a name, with a line on each."""
    found = available()
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {(getdoc(cls) or '').split(chr(10))[0]}" for name, cls in sorted(found.items())]
    return "\n".join(["Mixers:", *lines, "\nOptions of a mixer: --model.mixer.help=NAME"])


def default_config() -> Path:
    """The options that are read before all others: in the project's folder, or inside the installed package."""
    here = Path(__file__).parent.parent
    beside = here.parent / "configs" / "default.yaml"
    return beside if beside.is_file() else here / "configs" / "default.yaml"
