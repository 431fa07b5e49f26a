"""Hybrids by a repeating pattern of mixers: built, refused, trained, resumed, saved and loaded."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import SMALL_WORDS, model, says, text, trainer, write_text

from lit_modules.commands.compare.cost import build_model
from lit_modules.main import main
from lit_modules.training.cli import CLI
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.mixer_config import complete, model_mixers
from lit_modules.training.pretrained_model import PretrainedLanguageModel
from mixers import GRU, Attention, LanguageModel, Retention
from mixers.benchmark import Case
from mixers.checks import UsageError
from mixers.model import BLOCK_PARAMETERS

CONFIGS = Path(__file__).parent.parent / "configs"
ATTENTION = "{class_path: attention, init_args: {num_heads: 2}}"
PATTERN = f"--model.pattern=[{{class_path: retention, init_args: {{chunk_size: 8}}}},{ATTENTION}]"
RESUME = ["fit", "--ckpt_path=last", "--trainer.max_steps=6"]


class Prepared(CLI):
    """A command with everything built, and not run."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a small run, in whose folder we are."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "corpus.txt")
    return list(SMALL_WORDS)


@pytest.fixture
def run(words: list[str]) -> Path:
    """The last checkpoint of a run with a pattern."""
    main([*words, PATTERN])
    [path] = Path("runs").glob("retention-attention/version_0/checkpoints/last.ckpt")
    return path


def types_of(model: LanguageModel) -> list[type]:
    return [type(block.mixer) for block in model.blocks]


def test_a_pattern_is_repeated_over_the_depth() -> None:
    model = LanguageModel(pattern=["gru", "gru", partial(Attention, window=4)], vocab_size=9, dim=32, depth=7)
    assert types_of(model) == [GRU, GRU, Attention, GRU, GRU, Attention, GRU]
    assert [block.mixer.window for block in model.blocks if isinstance(block.mixer, Attention)] == [4, 4]


def test_overrides_replace_blocks_of_a_pattern() -> None:
    model = LanguageModel(pattern=[GRU, Attention], overrides={0: Retention}, vocab_size=9, dim=32, depth=4)
    assert types_of(model) == [Retention, Attention, GRU, Attention]


def test_a_hybrid_extends_as_it_goes_forward() -> None:
    torch.manual_seed(0)
    model = LanguageModel(pattern=["mlstm", "based", "gated_conv", "attention"], vocab_size=9, dim=32, depth=4).double()
    ids, states, logits = torch.randint(9, (2, 20)), model.initial_state(2), []
    for piece in ids.split([1, 12, 7], 1):
        y, states = model.extend(piece, states)
        logits.append(y)
    torch.testing.assert_close(torch.cat(logits, 1), model(ids), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": []}, r"pattern=\[\] is empty: write at least one mixer"),
        ({"pattern": "retention"}, "pattern='retention' is no list"),
        ({"pattern": ["gru"] * 3}, "pattern has 3 mixers, more than depth=2 blocks"),
        ({"pattern": ["grru"]}, "No mixer is named 'grru'; did you mean 'gru'"),
        ({"pattern": ["gru"], "overrides": {2: "gru"}}, "overrides names block 2; with depth=2"),
        ({"pattern": ["gru"], "mixer": "lstm"}, "pattern is given and so is mixer"),
        ({"pattern": ["gru"], "mixer": partial(Retention, num_heads=2)}, "pattern is given and so is mixer"),
        ({"pattern": [Attention(32)]}, "mixer is a Attention, built already"),
    ],
)
def test_what_makes_no_hybrid_is_refused_in_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LanguageModel(**{"vocab_size": 9, "dim": 32, "depth": 2} | options)


@pytest.mark.parametrize("mixer", [Retention, "retention", partial(Retention, num_heads=4)])
def test_the_default_mixer_beside_a_pattern_is_not_taken_for_another(mixer: object) -> None:
    assert types_of(LanguageModel(mixer, pattern=[GRU], vocab_size=9, dim=32, depth=1)) == [GRU]


@pytest.mark.parametrize(
    "said",
    [
        [f"--model.pattern=[gru,{ATTENTION}]"],
        ["--config=pattern.yaml"],
        ["--config=other.yaml", "--config=pattern.yaml"],
        ["--model.mixer=retention", f"--model.pattern=[mixers.GRU,{ATTENTION}]"],
    ],
    ids=" ".join,
)
def test_a_pattern_is_said_by_names_with_options(said: list[str], words: list[str]) -> None:
    Path("pattern.yaml").write_text(f"model: {{pattern: [gru, {ATTENTION}]}}")
    Path("other.yaml").write_text("model: {pattern: [s4d]}")
    first, second, third, _ = Prepared([*words, "--model.depth=4", *said]).model.model.blocks
    assert type(first.mixer) is type(third.mixer) is GRU
    assert second.mixer.num_heads == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--model.pattern=[gru,attentoin]"], "did you mean 'attention'?"),
        (["--model.pattern=[gru,{class_path: attention, init_args: {heads: 2}}]"], "has no option 'heads'"),
        (["--model.pattern=gru"], "--model.pattern: write a list of mixers, as in [retention,retention,attention]."),
        (["--model.pattern=[5]"], "--model.pattern: write a list of mixers"),
        (["--model.pattern={1: gru}"], "--model.pattern: write a list of mixers"),
        (["--model.pattern=[gru]", "--model.mixer=lstm"], "pattern is given and so is mixer"),
        (["--model.pattern=[gru]", "--model.mixer.num_heads=2"], "pattern is given and so is mixer"),
        (["--model.pattern=[os.system]"], "'os.system' may not be imported"),
    ],
)
def test_mistakes_in_a_pattern_are_one_sentence(
    said: list[str], expected: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in says([*words, *said], capsys)


def test_what_print_config_prints_is_the_same_hybrid(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, PATTERN, "--print_config"])
    Path("printed.yaml").write_text(capsys.readouterr().out)
    expected, actual = Prepared([*words, PATTERN]), Prepared(["fit", "--config=printed.yaml"])
    assert str(actual.model) == str(expected.model)
    assert actual.model.hparams == expected.model.hparams


def test_a_hybrid_trains_is_resumed_and_writes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(yaml.safe_load((run.parent.parent / "config.yaml").read_text())["model"]["pattern"]) == 2
    main([*RESUME, PATTERN.replace("chunk_size: 8", "chunk_size: 16")])
    assert "mixer: retention-attention" in capsys.readouterr().out
    content = torch.load(run, weights_only=True)
    assert content["global_step"] == 6
    first, second = map(complete, content["hyper_parameters"]["pattern"])
    assert (first.options["chunk_size"], second.options["num_heads"]) == (16, 2)
    assert types_of(LitLanguageModel.load_from_checkpoint(run).model) == [Retention, Attention]
    main(["generate", "--ckpt_path=last", "--prompt=the state", "--max_tokens=3"])
    assert "the state" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "both"),
    [
        (f"--model.pattern=[{ATTENTION},retention]", ("model.pattern.0='attention'", "'retention'")),
        (PATTERN.replace("num_heads: 2", "num_heads: 4"), ("model.pattern.1.num_heads=4", "2")),
        ("--model.pattern=[retention]", ("model.pattern", "'attention'")),
        ("--model.pattern=null", ("model.pattern.0=None", "'retention'")),
        ("--model.overrides.0=gru", ("model.overrides",)),
    ],
)
def test_another_pattern_than_the_weights_have_is_refused_with_both_values(
    said: str, both: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = says([*RESUME, said], capsys)
    assert "contradicts the checkpoint" in sentence
    assert all(part in sentence for part in both), sentence


def test_a_run_may_start_from_the_weights_of_a_hybrid(run: Path, words: list[str]) -> None:
    kept = [word for word in words if not word.startswith("--model.d")]
    assert types_of(Prepared([*kept, f"--init_from={run}"]).model.model) == [Retention, Attention]


def test_a_run_from_python_goes_on_with_the_defaults_of_its_own_mixer(words: list[str]) -> None:
    data = text(Path())
    fitter = trainer(Path(), max_steps=1, limit_val_batches=0)
    fitter.fit(model(data, mixer=Attention, overrides=None), datamodule=data)
    command = Prepared(["fit", "--ckpt_path=last", "--trainer.max_steps=2"])
    assert all(block.mixer.num_heads == Attention(16).num_heads for block in command.model.model.blocks)


def test_a_saved_hybrid_comes_back_as_it_was(tmp_path: Path) -> None:
    pattern = [partial(Retention, num_heads=2), "attention"]
    model = PretrainedLanguageModel(pattern=pattern, vocab_size=9, dim=32, depth=4).eval()
    model.save_pretrained(tmp_path)
    loaded = PretrainedLanguageModel.from_pretrained(tmp_path)
    ids = torch.arange(9)[None]
    assert torch.equal(loaded(ids), model(ids))
    assert loaded.config() == model.config()


def test_the_cost_of_a_hybrid_is_measured_on_a_hybrid() -> None:
    with torch.device("meta"):
        model = build_model({"pattern": ["gru", "attention"], "dim": 32, "depth": 2}, Case(0, vocab_size=9))
    assert model_mixers(model) == "gru-attention"


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("qwen3_next", [3, 7, 11, 15]),
        ("kimi_linear", [3, 7, 11, 15]),
        ("nemotron_h", [4, 10]),
        ("samba", [1, 3, 5, 7, 9, 11, 13, 15]),
    ],
)
def test_a_published_hybrid_has_its_layers_and_blocks_of_the_same_size(name: str, attention: list[int]) -> None:
    options = yaml.safe_load((CONFIGS / "hybrids" / f"{name}.yaml").read_text())["model"]
    with torch.device("meta"):
        model = build_model(options, Case(0, vocab_size=50257))
    assert [layer for layer, cls in enumerate(types_of(model)) if cls is Attention] == attention
    counts = model.parameter_counts()
    assert counts["mixer"] + counts["feed_forward"] == pytest.approx(16 * BLOCK_PARAMETERS * 1024**2, rel=0.01)


@pytest.mark.filterwarnings("ignore:.*alone has.*more than the 12")  # at a width that heads of 128 are not made for
@pytest.mark.parametrize("path", sorted((CONFIGS / "hybrids").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_config_of_a_published_hybrid_trains_a_small_one(path: Path, words: list[str]) -> None:
    small = ["--model.dim=256", "--model.depth=6", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    main([*words, f"--config={path}", *small])
    assert list(Path("runs").glob("*-attention/version_0"))
