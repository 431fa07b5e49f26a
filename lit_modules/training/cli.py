"""Lightning's commands: `fit`, `validate` and `test`, with everything a run needs as options."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from inspect import getdoc, signature
from pathlib import Path

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

import mixers.names  # noqa: F401  (the short names)
from lit_modules.console import command
from lit_modules.data import registry
from lit_modules.data.cache import replace_text
from lit_modules.lightning_internals import CLIWithoutCheckpoints, NothingRuns
from lit_modules.training import checkpoint, pretrained, resume
from lit_modules.training.allowed_imports import restrict_imports
from lit_modules.training.config_file import check_configs
from lit_modules.training.errors import Parser, explain
from lit_modules.training.fsdp2 import FSDP2
from lit_modules.training.given import given, options_of
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.own_defaults import keep_own_defaults
from lit_modules.training.sharded import weights_later
from lit_modules.training.trainer import Trainer
from mixers import available
from mixers.checks import SEEDS, UsageError, between

ROOT = signature(Trainer).parameters["default_root_dir"].default
DATA_HELP = f"The kind of data: {', '.join(registry.DATA)};"


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
        keep_own_defaults()
        self.argv = argv = with_data_name(argv)
        check_configs(options_of(argv, "--config")["--config"])
        asked = given(argv[1:], "data.name", "ckpt_path", "init_from", "trainer.default_root_dir")
        self.root = asked.get("trainer.default_root_dir", ROOT)
        self.init_from = asked.get("init_from")
        self.path: Path | None = None  # the checkpoint of a run that goes on, or is measured
        if asked.get("ckpt_path"):
            self.path = checkpoint.find(asked["ckpt_path"], self.root)
            self.content = checkpoint.read_file(self.path)
            if options_of(argv, "--init_from")["--init_from"]:
                pretrained.refuse_both(asked["ckpt_path"], self.init_from)
        saved = registry.saved_name(self.content) if self.path else None
        self.data = asked.get("data.name") or saved or registry.DEFAULT
        self.start: pretrained.Pretrained | None = None  # what a new run starts with
        self.saved: checkpoint.Options | None = None  # the data's options in the checkpoint of a resumed run
        options = {
            "usage": f"{command()} {argv[0]} [options]",
            "default_config_files": [str(default_config())],
            "allow_abbrev": False,  # or a typo that happens to begin an option would pass for it
        }
        super().__init__(
            LitLanguageModel,
            registry.get(self.data),
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
        parser.add_argument("--data.name", type=str, default=self.data, help=f"{DATA_HELP} `--data=NAME` for short.")
        parser.link_arguments("data", "model.vocab_size", lambda data: data.vocab_size, apply_on="instantiate")
        parser.link_arguments("data", "model.start_token", lambda data: data.start_token, apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
        self._parse(parser)
        between(0, SEEDS, seed_everything=self.config[self.argv[0]].seed_everything)

    def _parse(self, parser: LightningArgumentParser) -> None:
        name, *options = self.argv
        if self.path is not None:
            self._parse_resumed(parser, self.path)
        elif name == "fit" and self.init_from:
            self.start = start = pretrained.read(self.init_from, self.root)
            # What the weights decide is read before what was typed, which is then compared with it.
            self.config = parser.parse_args([name, f"--config={json.dumps(resume.start_config(start))}", *options])
            config = self.config[name]
            resume.check_model(start.options, config.as_dict())
            resume.check_tokenizer(config.as_dict(), str(start.path), start.tokenizer)
            config.init_from, config.data.tokenizer = str(start.path), str(start.tokenizer_file)
        else:
            self.config = parser.parse_args(self.argv)
            if name != "fit":
                raise UsageError(f"{name} needs a trained model: set --ckpt_path to its checkpoint, or to `last`.")

    def _parse_resumed(self, parser: LightningArgumentParser, path: Path) -> None:
        name, *options = self.argv
        saved = resume.as_config(path, self.content, self.data)
        if name != "fit":
            del saved["init_from"]
        # The checkpoint's options are read before those that were typed, which therefore win.
        self.config = parser.parse_args([name, f"--config={json.dumps(saved)}", *options])
        config, step = self.config[name], self.content["global_step"]
        resume.check(self.content, config.as_dict())
        if name == "fit":
            self._check_resumed(config, step)
        self.saved = self.content["datamodule_hyper_parameters"]
        config.ckpt_path, config.data.tokenizer = str(path), str(checkpoint.main_file(path))

    def _check_resumed(self, config: Namespace, step: int) -> None:
        if self.data != (saved := registry.saved_name(self.content)):
            raise UsageError(
                f"data={self.data!r} is not {saved!r}, on which ckpt_path={str(self.path)!r} was trained: leave it "
                "out, or start a new run with init_from instead of ckpt_path."
            )
        if not self.content.get("optimizer_states"):
            raise UsageError(
                f"ckpt_path={config.ckpt_path!r} holds no optimizer state: write one that fit saved whole."
            )
        if resume.is_finished(self.content, config.trainer):
            raise UsageError(
                f"ckpt_path={str(self.path)!r} is at step {step} already, and trainer.max_steps="
                f"{config.trainer.max_steps}: set a larger --trainer.max_steps to train on."
            )

    def instantiate_classes(self) -> None:
        section = self.config[self.subcommand]
        sharded = section.trainer.strategy == FSDP2.strategy_name
        del section.data["name"]  # the class is chosen: it takes the other options only
        try:
            with weights_later() if sharded else contextlib.nullcontext():
                super().instantiate_classes()
            if self.start is not None:
                self.model.start_from(self.start)
                self.start = None  # or its weights would stay in memory
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            if isinstance(error, TypeError) and not any(said in str(error) for said in ("abstract class", "`devices`")):
                raise
            # What a constructor says is wrong, without what jsonargparse says around it.
            while error.__cause__ is not None and str(error).startswith("Call to compute_fn of link"):
                error = error.__cause__  # type: ignore[assignment]
            raise UsageError(str(error)) from error
        section.data["name"] = self.data  # for config.yaml
        if self.subcommand == "fit":  # done above, and only said of a run that goes on
            self.config_init[self.subcommand].init_from = None
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
    if None in options_of(argv, "--model.mixer.help")["--model.mixer.help"]:
        print(mixer_list())
        raise SystemExit(0)
    if options_of(argv, "--data.help")["--data.help"]:
        print(data_help(argv))
        raise SystemExit(0)
    with usage_errors():
        CLI(argv)


def with_data_name(argv: Sequence[str]) -> list[str]:
    """The words, with `--data=NAME` or `--data NAME` written as the option that it is short for."""
    words = list(argv)
    for index, word in enumerate(argv):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(argv[index + 1 : index + 2])
        if option == "--data" and not Path(value).is_file():  # a file is a config of the section
            words[index] = f"--data.name{equals}{value if equals else ''}"
    return words


def data_help(argv: Sequence[str]) -> str:
    """The options of the data that is named, or else the list of what there is."""
    asked = [*options_of(argv, "--data.help")["--data.help"], given(with_data_name(argv), "data.name").get("data.name")]
    if not (name := next(filter(None, asked), None)):
        kinds = {name: registry.get(name) for name in registry.DATA}
        return f"Data:\n{list_classes(kinds)}\n\nOptions of data: --data.help=NAME"
    parser = Parser(prog=command(), usage=f"{command()} COMMAND --data={name} [options]", add_help=False)
    parser.add_class_arguments(registry.get(name), "data")
    return parser.format_help()


def mixer_list() -> str:
    """Every mixer that has a name, with a line on each."""
    found = dict(sorted(available().items()))
    return f"Mixers:\n{list_classes(found)}\n\nOptions of a mixer: --model.mixer.help=NAME"


def list_classes(classes: Mapping[str, type]) -> str:
    """A line for each name, with the first line of its class's docstring."""
    width = max(map(len, classes))
    return "\n".join(f"  {name:{width}}  {(getdoc(cls) or '').split(chr(10))[0]}" for name, cls in classes.items())


def default_config() -> Path:
    """The options that are read before all others: in the project's folder, or inside the installed package."""
    here = Path(__file__).parent.parent
    beside = here.parent / "configs" / "default.yaml"
    return beside if beside.is_file() else here / "configs" / "default.yaml"
