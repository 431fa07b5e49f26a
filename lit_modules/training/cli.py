"""The command line over LightningCLI: Lightning's commands, and our own."""

import sys
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule
from pytorch_lightning import Trainer as LightningTrainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import mixers.names  # noqa: F401  (the short names)
from lit_modules.data.datamodule import Text
from lit_modules.training import checkpoint
from lit_modules.training.errors import is_a_mistake_of_use, parser_options, reason, sentence
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.trainer import Trainer
from mixers.benchmark import Phase
from mixers.checks import UsageError

RUNS = ("fit", "validate", "test")  # the commands that take a model, data and a trainer
OWN = ("generate", "benchmark", "compare")  # those that Lightning lacks
FIRST: dict[str, tuple[str, Any, str]] = {
    "benchmark": ("what", Phase, "A training step, the reading of a prompt, or one more token."),
    "compare": ("study", str, "The study's YAML file: rows, seeds, and what all runs share."),
}
SEED = 42
NO_SEED = -1


class Parser(LightningArgumentParser):
    """A parser that answers a mistake with one sentence instead of its whole usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within a parser: the outer one speaks
            super().error(message, ex)
        fail(sentence(message, parser_options(self)))


class SaveConfig(SaveConfigCallback):
    """Keeps the options of a training run in its folder; other commands have none."""

    def setup(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            super().setup(trainer, pl_module, stage)


class CLI(LightningCLI):
    """Runs one command.

    Args:
        args: The words of the command line.
    """

    def __init__(self, args: Sequence[str]):
        self.words = list(args)
        self.saved: checkpoint.Saved | None = None
        strict = {"allow_abbrev": False}  # or a typo that happens to begin an option would pass for it
        defaults = {"default_config_files": [str(default_config())]}
        super().__init__(
            LitLanguageModel,
            Text,
            trainer_class=Trainer,
            parser_class=Parser,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},  # a run that goes on has one already
            seed_everything_default=SEED,
            auto_configure_optimizers=False,
            parser_kwargs={
                **strict,
                "description": "Trains language models with any sequence mixer.",
                "version": version(),
                **{name: {**strict, **defaults} for name in RUNS},
                **dict.fromkeys(OWN, strict),
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        run = {name: LightningCLI.subcommands()[name] for name in RUNS}
        return run | {name: set() for name in OWN}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Lightning's also takes a bool, of which `true` quietly means 0.
        parser.add_argument("--seed_everything", type=int, default=SEED, help="Seed of the weights and the dropout.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data", "model.vocab_size", lambda data: data.vocab_size, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        # A command of our own needs none of the options of a run, and is easier to read without them.
        if subcommand in RUNS:
            return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser = self.init_parser(**kwargs)
        parser.add_argument("--trainer.accelerator", type=str, default="auto", help="The hardware to run on.")
        if subcommand in FIRST:  # said without its name
            name, kind, meaning = FIRST[subcommand]
            parser.add_argument(name, type=kind, help=meaning)
            added = [name, *parser.add_method_arguments(klass, subcommand, skip={name})]
        else:
            added = parser.add_method_arguments(klass, subcommand, skip={"prompt", "stop"})
            # These can be given more than once, and are text even where they look like YAML.
            for name, meaning in (("prompt", "Text to continue"), ("stop", "Text to end before")):
                parser.add_argument(
                    f"--{name}", type=str, action="append", help=f"{meaning}; can be given several times."
                )
            added += ["prompt", "stop"]
        self._subcommand_method_arguments[subcommand] = added
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Not LightningCLI's, which warns of arguments that are given from Python.
        self.config = parser.parse_args(self.words)

    def _parse_ckpt_path(self) -> None:
        # Not LightningCLI's, with which a checkpoint wins over what the user typed, without a word.
        command = self.config.subcommand
        options = self.config[command]
        if command not in RUNS or not options.ckpt_path:
            return
        self.saved = checkpoint.read(checkpoint.find(options.ckpt_path, options.trainer.default_root_dir))
        merged = checkpoint.merged(self.saved, self._typed(command))
        self.config = self.parser.parse_object({"subcommand": command, command: merged}, self.config)
        if command == "fit" and 0 < self.config.fit.trainer.max_steps <= self.saved.step:
            raise UsageError(
                f"ckpt_path={options.ckpt_path!r} is at step {self.saved.step} already, and trainer.max_steps="
                f"{self.config.fit.trainer.max_steps}: set a larger --trainer.max_steps to train on."
            )

    def _typed(self, command: str) -> dict[str, Any]:
        """The options that the user gave, on the command line or in a config, by section."""
        # The parser needs a seed, for what follows from it; one in front is overruled by any that the user gave.
        start = self.words.index(command) + 1
        words = [*self.words[:start], f"--seed_everything={NO_SEED}", *self.words[start:]]
        typed: dict[str, Any] = self.parser.parse_args(words, defaults=False)[command].as_dict()
        if typed["seed_everything"] == NO_SEED:
            del typed["seed_everything"]
        return typed

    def _set_seed(self) -> None:
        if self.subcommand in RUNS:  # others seed what they draw themselves
            super()._set_seed()

    def instantiate_classes(self) -> None:
        if self.subcommand in RUNS:
            try:
                super().instantiate_classes()
            except TypeError as error:
                if "abstract class" not in str(error):
                    raise
                raise UsageError(f"{error}: write the name of a mixer that is complete.") from error
            if self.saved is not None:  # the tokenizer keeps its name, though it is read from the checkpoint
                self.datamodule.hparams["tokenizer"] = self.saved.data["tokenizer"]
            return
        self.config_init = self.parser.instantiate_classes(self.config)
        accelerator = self.config[self.subcommand].trainer.accelerator
        self.trainer = Trainer(accelerator=accelerator, devices=1, precision="32-true", logger=False)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        if subcommand in RUNS:
            return super()._prepare_subcommand_kwargs(subcommand)
        options: Namespace = self.config_init[subcommand]
        return {name: options[name] for name in self._subcommand_method_arguments[subcommand]}

    def before_validate(self) -> None:
        self._need_checkpoint("validate")

    def before_test(self) -> None:
        self._need_checkpoint("test")

    def _need_checkpoint(self, command: str) -> None:
        if self.saved is None:
            raise UsageError(f"{command} needs a trained model: set --ckpt_path to its checkpoint, or to `last`.")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Its words; by default those this program was called with.
    """
    try:
        CLI(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT
    except FloatingPointError as exception:
        fail(str(exception))
    except (ValueError, FileNotFoundError, MisconfigurationException) as exception:
        if not is_a_mistake_of_use(exception):
            raise
        fail(reason(exception))


def fail(message: str) -> NoReturn:
    """Ends the program with one sentence about what was wrong."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def version() -> str:
    """The version of lit-mixers, installed or run from its folder."""
    try:
        return metadata.version("lit-mixers")
    except metadata.PackageNotFoundError:
        project = Path(__file__).parent.parent.parent / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def default_config() -> Path:
    """The options that are read before all others: in the project's folder, or inside the installed package."""
    here = Path(__file__).parent.parent
    beside = here.parent / "configs" / "default.yaml"
    return beside if beside.is_file() else here / "configs" / "default.yaml"
