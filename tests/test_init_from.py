"""New runs that start with the weights of another: what they keep of it, what they may change, what they learn."""

from pathlib import Path

import pytest
import torch
import yaml
from small_pairs import FORM, rows, write_rows
from small_runs import SMALL_WORDS, model, says, text, trainer, write_text

from lit_modules.data import registry
from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.main import main
from lit_modules.training import checkpoint, pretrained
from lit_modules.training.cli import CLI
from mixers.checks import UsageError

CONFIGS = Path(__file__).parent.parent / "configs" / "finetune"
BASE = "runs/retention/version_0/checkpoints/last.ckpt"
TUNE = [
    "fit",
    "--data=instructions",
    "--data.corpus=pairs.jsonl",
    "--data.block_size=64",
    f"--init_from={BASE}",
    *(word for word in SMALL_WORDS[1:] if not word.startswith(("--data", "--model.d"))),
    "--data.batch_size=4",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run on text, and pairs."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_text(Path("corpus.txt"))
        write_rows(Path("pairs.jsonl"), rows(60))
        main([*SMALL_WORDS, "--model.mixer.num_heads=2"])
        main(TUNE)
    return folder


@pytest.fixture
def folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(base)
    return base


class Prepared(CLI):
    """A command that does nothing once everything is made."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def test_a_run_starts_with_the_weights_at_step_0_in_a_folder_of_its_own(folder: Path):
    tuned = checkpoint.read_file(folder / BASE.replace("version_0", "version_1"))
    assert tuned["global_step"] == 4
    assert tuned["hyper_parameters"]["dim"] == 32  # that of the weights, not of configs/default.yaml
    assert tuned["hyper_parameters"]["mixer"]["init_args"]["num_heads"] == 2
    assert registry.saved_name(tuned) == "instructions"


def test_the_first_loss_is_that_of_the_weights(tmp_path: Path):
    source = text(tmp_path)
    first = trainer(tmp_path, max_steps=40)
    first.fit(model(source, dropout=0.0), datamodule=source)
    path, run = str(next(tmp_path.rglob("last.ckpt"))), trainer(tmp_path, max_steps=1)
    lit = model(text(tmp_path), dropout=0.0, lr=1e-30, warmup_steps=0)
    run.fit(lit, datamodule=text(tmp_path), init_from=path)
    weights = checkpoint.read_file(Path(path))["state_dict"]
    assert run.global_step == 1
    assert all(torch.allclose(weight, weights[name], rtol=0, atol=1e-20) for name, weight in lit.state_dict().items())


def test_a_run_starts_from_a_folder_to_share_as_from_its_checkpoint(folder: Path):
    main(["convert", BASE, "shared"])
    starts = [Prepared([*(word for word in TUNE if "init_from" not in word), f"--init_from={path}"])
              for path in (BASE, "shared")]  # fmt: skip
    first, second = (pretrained.read(start.config.fit.init_from, "runs") for start in starts)
    assert first.tokenizer == second.tokenizer
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    assert (
        starts[0].model.hparams["mixer"]["init_args"].items() <= starts[1].model.hparams["mixer"]["init_args"].items()
    )


def test_a_sharded_checkpoint_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    main(["convert", BASE, "parts", "--to=sharded"])
    reads, read = [], checkpoint.read_shards
    monkeypatch.setattr(checkpoint, "read_shards", lambda path: reads.append(path) or read(path))
    main([*TUNE, "--init_from=parts", "--trainer.default_root_dir=others"])
    assert reads == [Path("parts")]
    config = yaml.safe_load((folder / "others/retention/version_0/config.yaml").read_text())
    assert config["init_from"] == "parts"
    weights = checkpoint.read_file(folder / "others/retention/version_0/checkpoints/last.ckpt")["state_dict"]
    tuned = checkpoint.read_file(Path(BASE.replace("version_0", "version_1")))["state_dict"]
    assert all(torch.equal(weight, tuned[name]) for name, weight in weights.items())


def test_a_resumed_run_knows_where_it_began(folder: Path):
    path = BASE.replace("version_0", "version_1")
    main(["fit", f"--ckpt_path={path}", "--trainer.max_steps=6"])
    config = yaml.safe_load((folder / "runs/retention/version_1/config.yaml").read_text())
    assert config["init_from"] == BASE
    assert config["data"]["name"] == "instructions"
    assert checkpoint.read_file(Path(path))["global_step"] == 6


def test_validate_measures_the_held_out_responses(folder: Path, capsys):
    main(["validate", f"--ckpt_path={BASE.replace('version_0', 'version_1')}"])
    assert "pairs.jsonl" in capsys.readouterr().out


def test_a_tuned_model_is_tested_on_text(folder: Path, capsys):
    words = [
        "--data=text",
        "--data.corpus=corpus.txt",
        "--data.block_size=16",
        "--contexts=[]",
        "--data.cache_dir=cache",
    ]
    main(["test", f"--ckpt_path={BASE.replace('version_0', 'version_1')}", *words])
    assert "corpus.txt" in capsys.readouterr().out


def test_options_that_do_not_change_the_function_may_change(folder: Path):
    command = Prepared([*TUNE, "--model.dropout=0.3", "--model.mixer.chunk_size=8", "--data.tokenizer=bytes"])
    assert command.model.hparams["dropout"] == 0.3
    assert command.model.hparams["dim"] == 32


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.dim=64"], "model.dim=64 contradicts the checkpoint, which was made with 32"),
        (["--model.mixer=attention"], "model.mixer='attention' contradicts"),
        (["--data.tokenizer=bpe"], "data.tokenizer='bpe' contradicts"),
        ([f"--ckpt_path={BASE}"], "leave one out"),
        (["--init_from=missing.ckpt"], "init_from='missing.ckpt' is no file"),
        (["--init_from=pairs.jsonl"], "no checkpoint of lit-mixers"),
        (["--data=instuctions"], "did you mean 'instructions'?"),
    ],
    ids=str,
)
def test_what_contradicts_the_weights_is_refused(words, said, folder: Path, capsys):
    assert said in says([*TUNE, *words], capsys)
    assert not (folder / "runs/retention/version_2").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--data=instructions"], "--data.corpus is needed"),
        (["fit", "--data=text", "--ckpt_path=last"], "init_from instead of ckpt_path"),
        (["test", "--ckpt_path=last"], "validate"),
        (["generate", f"--ckpt_path={BASE}", "--chat=true", "--prompt=hello"], "not tuned on conversations"),
        (["generate", "--chat=true"], "--prompt=TEXT"),
    ],
    ids=str,
)
def test_other_mistakes_are_one_sentence(words, said, folder: Path, capsys):
    assert said in says(words, capsys)


def test_both_ways_to_start_are_refused_in_python(tmp_path: Path, folder: Path):
    source = text(tmp_path)
    with pytest.raises(UsageError, match="leave one out"):
        trainer(tmp_path).fit(model(source), datamodule=source, ckpt_path=BASE, init_from=BASE)


@pytest.mark.parametrize("name", ["instructions", "text", "small"])
def test_a_config_for_fine_tuning_has_only_options_of_fit(name, folder: Path, capsys):
    given = [] if name == "text" else ["--data.corpus=pairs.jsonl"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["fit", f"--config={CONFIGS}/{name}.yaml", f"--init_from={BASE}", *given, "--print_config"])
    assert "dim: 32\n" in capsys.readouterr().out


def test_the_help_on_data_lists_the_names_and_the_options(capsys):
    for words, expected in (
        (["--data.help"], "  Prompts with responses"),
        (["--data=instructions", "--data.help"], "--data.too_long"),
        (["--data.help=text"], "--data.isolate_documents"),
    ):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["fit", *words])
        assert expected in capsys.readouterr().out


def test_a_tuned_model_answers_in_the_format_it_was_taught(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text(Path("corpus.txt"))
    write_rows(Path("pairs.jsonl"), rows(2000))
    own = ["--data.batch_size=16", "--trainer.val_check_interval=1000", "--model.lr=5e-3", "--model.warmup_steps=10"]
    main([*SMALL_WORDS, *own, "--data.block_size=64", "--trainer.max_steps=60"])
    main([*TUNE, *own, "--trainer.max_steps=150"])
    prompts = [row["prompt"] for row in rows(20, seed=1)]
    before, after = (_share_in_format(f"runs/retention/version_{number}", prompts) for number in (0, 1))
    assert before == 0
    assert after >= 0.9
    capsys.readouterr()
    main(["generate", "--ckpt_path=last", "--chat=true", "--temperature=0", f"--prompt={prompts[0]}"])
    assert FORM.fullmatch(capsys.readouterr().out.strip())


def _share_in_format(run: str, prompts: list[str]) -> float:
    """Of the answers to prompts, those that are in the format to their end."""
    lit, tokenizer = checkpoint.load(f"{run}/checkpoints/last.ckpt")
    template = checkpoint.chat_template("runs/retention/version_1/checkpoints/last.ckpt")
    asked = [template.prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    answers = complete(lit, tokenizer, asked, Sampling(max_tokens=60, temperature=0))
    return sum(FORM.fullmatch(answer) is not None for answer in answers) / len(answers)
