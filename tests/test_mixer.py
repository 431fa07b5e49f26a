"""What every mixer refuses, and what it takes without a word: checked once, for mixers of anybody."""

import io
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close
from torch.utils import _pytree as pytree

import mixers
from mixers import Attention, Hyena, Mixer
from mixers.checks import UsageError


class Last(NamedTuple):
    x: Tensor


class Nested(NamedTuple):
    last: Last
    total: Tensor


class OwnMixer(Mixer[Nested]):
    """A user's own: it defines no more than it must."""

    def initial_state(self, batch):
        zero = torch.zeros(batch, self.dim)
        return Nested(Last(zero), zero.clone())

    def extend(self, x, state):
        total = state.total[:, None] + x.cumsum(1)
        return total, Nested(Last(x[:, -1]), total[:, -1])


class ExtendByOne(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x, state):
        return self.mixer.extend(x, state)


BUILDERS = {**mixers.available(), "own": OwnMixer, "attention, window 5": partial(Attention, window=5)}
every_mixer = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(2, 5, 31), r"x is \(2, 5, 31\): write \(batch, time, 32\) for this"),
        (torch.randn(5, 32), r"x is \(5, 32\): write \(batch, time, 32\)"),
        (torch.ones(2, 5, 32, dtype=torch.long), r"x is torch\.int64: write floating-point numbers"),
    ],
)
@every_mixer
def test_input_of_another_shape_or_dtype_is_refused(build, x, message):
    mixer = build(32)
    with pytest.raises(ValueError, match=message):
        mixer(x)
    with pytest.raises(ValueError, match=message):
        mixer.extend(x, mixer.initial_state(2))


@every_mixer
def test_a_state_of_another_batch_or_type_is_refused(build):
    mixer, x = build(32), torch.randn(8, 5, 32)
    with pytest.raises(ValueError, match=r"and x is .*: write as many rows in both"):
        mixer.extend(x, mixer.initial_state(1))
    with pytest.raises(ValueError, match=r"state is a tuple: write the (\w*State|Nested) that"):
        mixer.extend(x, tuple(mixer.initial_state(8)))
    with pytest.raises(ValueError, match="state is a NoneType"):
        mixer.extend(x, None)
    with pytest.raises(ValueError, match="state holds a list: write tensors only"):
        mixer.extend(x, type(mixer.initial_state(8))(*([1.0] for _ in mixer.initial_state(8))))
    if type(mixer).decode is not Mixer.decode:
        with pytest.raises(ValueError, match="write as many rows in both"):
            mixer.decode(x[:, :1], mixer.prepare_decoding(mixer.initial_state(1), 3))


def test_an_lstm_cannot_read_past_the_end_of_a_narrower_state():
    with pytest.raises(UsageError, match=r"state holds a tensor \(2, 32\), and one of LSTM \(2, 64\)"):
        mixers.LSTM(64).extend(torch.randn(2, 3, 64), mixers.LSTM(32).initial_state(2))


@every_mixer
def test_no_tokens_and_no_rows_are_ordinary(build):
    mixer, x = build(32), torch.randn(2, 5, 32)
    _, state = mixer.extend(x, mixer.initial_state(2))
    assert mixer(x[:, :0]).shape == (2, 0, 32)
    y, after = mixer.extend(x[:, :0], state)
    assert y.shape == (2, 0, 32)
    pytree.tree_map(assert_close, after, state)
    assert mixer(x[:0]).shape == (0, 5, 32)
    y, after = mixer.extend(x[:0], mixer.initial_state(0))
    assert y.shape == (0, 5, 32)
    assert type(after) is type(state)


@every_mixer
def test_a_saved_state_loads_as_weights_only(build):
    mixer, file = build(32), io.BytesIO()
    _, state = mixer.extend(torch.randn(2, 5, 32), mixer.initial_state(2))
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert type(loaded) is type(state)
    pytree.tree_map(assert_close, loaded, state)


@every_mixer
@torch.no_grad()
def test_extending_by_one_token_can_be_exported(build):
    mixer = build(32).eval()
    _, state = mixer.extend(torch.randn(2, 9, 32), mixer.initial_state(2))
    x = torch.randn(2, 1, 32)
    program = torch.export.export(ExtendByOne(mixer), (x, state)).module()
    assert_close(program(x, state)[0], mixer.extend(x, state)[0])


@torch.no_grad()
def test_a_growing_cache_can_be_exported_for_any_length():
    mixer = Attention(32).eval()
    state = mixer.extend(torch.randn(2, 9, 32), mixer.initial_state(2))[1]
    x, lengths = torch.randn(2, 1, 32), pytree.tree_map(lambda leaf: {}, state)
    lengths = lengths._replace(k={2: Dim.DYNAMIC}, v={2: Dim.DYNAMIC})
    program = torch.export.export(ExtendByOne(mixer), (x, state), dynamic_shapes=({}, lengths)).module()
    for length in (5, 30):
        state = mixer.extend(torch.randn(2, length, 32), mixer.initial_state(2))[1]
        assert_close(program(x, state)[0], mixer.extend(x, state)[0])


@pytest.mark.parametrize("build", [Attention, partial(Attention, window=5), partial(Hyena, max_length=20)])
@torch.no_grad()
def test_a_state_is_prepared_for_decoding_and_back(build):
    torch.manual_seed(0)
    mixer, x = build(32).double(), torch.randn(2, 30, 32, dtype=torch.float64)
    state = mixer.extend(x[:, :6], mixer.initial_state(2))[1]
    back = mixer.prepare_decoding(mixer.prepare_decoding(state, 5), 0)
    outputs, prepared = [], mixer.prepare_decoding(state, 5)
    for token in x[:, 6:9].split(1, 1):
        y, prepared = mixer.decode(token, prepared)
        outputs.append(y)
    outputs.append(mixer.extend(x[:, 9:], mixer.prepare_decoding(prepared, 0))[0])
    assert_close(torch.cat(outputs, 1), mixer(x)[:, 6:], rtol=1e-9, atol=1e-9)
    assert_close(mixer.extend(x[:, 6:], back)[0], mixer(x)[:, 6:], rtol=1e-9, atol=1e-9)
