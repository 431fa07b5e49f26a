"""Wrong input from Python: every mixer and the language model answer it with a UsageError of one sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_modules.data.datamodule import Text
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.trainer import Trainer
from mixers import LanguageModel, Mixer, available
from mixers.checks import UsageError

WIDTH, OTHER_WIDTH = 32, 64


def mixer(name: str, width: int = WIDTH) -> Mixer[Any]:
    return available()[name](width)


CALLS: dict[str, tuple[Callable[[Mixer[Any]], object], str]] = {
    "a wrong width": (lambda mixer: mixer(torch.zeros(2, 3, WIDTH + 1)), "x is (2, 3, 33)"),
    "a wrong rank": (lambda mixer: mixer(torch.zeros(2, WIDTH)), "x is (2, 32)"),
    "token ids": (lambda mixer: mixer(torch.zeros(2, 3, WIDTH, dtype=torch.long)), "x is torch.int64"),
    "another state": (lambda mixer: mixer.extend(torch.zeros(2, 3, WIDTH), None), "state is a NoneType"),
    "a state of another batch": (
        lambda mixer: mixer.extend(torch.zeros(2, 3, WIDTH), mixer.initial_state(3)),
        "as many rows in both",
    ),
}


@pytest.mark.parametrize("name", sorted(available()))
@pytest.mark.parametrize("what", CALLS)
def test_a_wrong_call_of_a_mixer_is_answered_in_a_sentence(name: str, what: str) -> None:
    call, words = CALLS[what]
    with pytest.raises(UsageError) as answered:
        call(mixer(name))
    assert words in str(answered.value)
    assert "\n" not in str(answered.value)


@pytest.mark.parametrize("name", sorted(available()))
def test_a_state_of_another_width_is_refused(name: str) -> None:
    other = mixer(name, OTHER_WIDTH)
    _, state = other.extend(torch.zeros(2, 3, OTHER_WIDTH), other.initial_state(2))
    with pytest.raises(UsageError, match=r"state holds a tensor .* write a state that its own initial_state"):
        mixer(name).extend(torch.zeros(2, 3, WIDTH), state)


@pytest.mark.parametrize("name", ["attention", "linear_attention", "retention"])
def test_numbers_of_another_precision_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"x is torch.float64 and this mixer torch.float32"):
        mixer(name)(torch.zeros(2, 3, WIDTH, dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(available()))
def test_nothing_gives_nothing(name: str) -> None:
    for shape in ((0, 3, WIDTH), (2, 0, WIDTH)):
        assert mixer(name)(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LanguageModel(vocab_size=9, dim="wide"), "dim='wide' is not a finite number"),  # type: ignore[arg-type]
        (lambda: LanguageModel(vocab_size=9, dim=10**400), "GiB of memory"),
        (lambda: LanguageModel(vocab_size=0), "vocab_size=0"),
        (lambda: LanguageModel(vocab_size=9, dim=8, dropout=float("nan")), "dropout=nan"),
        (lambda: LanguageModel("nope", vocab_size=9), "No mixer is named 'nope'"),
        (lambda: LitLanguageModel(float("nan"), vocab_size=9, dim=8, depth=1), "lr=nan"),
        (lambda: LitLanguageModel(weight_decay=float("inf"), vocab_size=9, dim=8, depth=1), "weight_decay=inf"),
        (lambda: LitLanguageModel(seed=-1, vocab_size=9, dim=8, depth=1), "seed=-1"),
        (lambda: Trainer(gradient_clip_val=float("nan")), "gradient_clip_val=nan"),
        (lambda: Trainer(max_steps=None), "max_steps=None"),  # type: ignore[arg-type]
        (lambda: Trainer(save_every_n_steps=0), "save_every_n_steps=0"),
        (lambda: Text([]), "corpus=[] is empty"),
        (lambda: Text(block_size=True), "block_size=True"),
    ],
)
def test_a_wrong_argument_is_answered_in_a_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(UsageError) as answered:
        call()
    assert words in str(answered.value)
