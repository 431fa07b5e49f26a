"""Decoding token by token, in memory that the decoder owns."""

import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close
from torch.utils import _pytree as pytree

import mixers
from mixers import Attention, Decoder, Hyena, LanguageModel
from mixers.model import decoder as decoder_module
from mixers.model.decoder import decode_in_place
from mixers.model.states import concat_states

BUILDERS = {
    **mixers.available(),
    "attention with a window": lambda dim: Attention(dim, window=5),
    "attention with shared keys": lambda dim: Attention(dim, num_kv_heads=2),
    "hyena of order 3 with short filters": lambda dim: Hyena(dim, order=3, max_length=6),
}
CONSTANT = {name: build for name, build in BUILDERS.items() if build(32).constant_state}


def model_of(build, **options):
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):  # Hyena's filters outweigh a block so small
        return LanguageModel(build, vocab_size=20, dim=32, depth=2, **options).double().eval()


@pytest.fixture(params=BUILDERS)
def model(request):
    return model_of(BUILDERS[request.param])


@pytest.fixture(params=CONSTANT)
def constant_model(request):
    return model_of(CONSTANT[request.param])


@pytest.fixture
def little_room(monkeypatch):
    """States that grow get room for 7 tokens at a time."""
    monkeypatch.setitem(decoder_module.ROOM, "cpu", 7)


def assert_same_state(state, expected):
    """Zeros at the end of a grown dimension do not count."""
    both = concat_states([state, expected])
    for leaf in pytree.tree_leaves(both):
        assert_close(*leaf.chunk(2), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("read", [0, 10])
@torch.no_grad()
def test_it_is_extend(model, read):
    ids = torch.randint(20, (3, 30))
    states = model.initial_state(3) if read == 0 else model.extend(ids[:, :read], model.initial_state(3))[1]
    before = pytree.tree_map(torch.clone, states)
    decoder = Decoder(model, states)
    outputs = [decoder(token).clone() for token in ids[:, read:].unbind(1)]
    assert_close(torch.stack(outputs, 1), model(ids)[:, read:], rtol=1e-9, atol=1e-9)
    pytree.tree_map(assert_close, states, before)
    assert_same_state(decoder.state, model.extend(ids[:, read:], states)[1])


@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_a_single_mixer_is_decoded_too():
    torch.manual_seed(0)
    for build in BUILDERS.values():
        mixer, x = build(32).double(), torch.randn(2, 20, 32, dtype=torch.float64)
        decoder = Decoder(mixer, mixer.extend(x[:, :3], mixer.initial_state(2))[1])
        outputs = torch.stack([decoder(token).clone() for token in x[:, 3:].unbind(1)], 1)
        assert_close(outputs, mixer(x)[:, 3:], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_its_state_goes_on_with_extend(model):
    ids = torch.randint(20, (2, 20))
    decoder = Decoder(model, model.initial_state(2))
    for token in ids[:, :10].unbind(1):
        decoder(token)
    logits, _ = model.extend(ids[:, 10:], decoder.state)
    assert_close(logits, model(ids)[:, 10:], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_rows_of_different_lengths_are_decoded_together(model):
    ids, read = torch.randint(20, (2, 20)), [3, 8]
    rows = [model.extend(ids[row : row + 1, :n], model.initial_state(1))[1] for row, n in enumerate(read)]
    decoder = Decoder(model, concat_states(rows))
    tokens = torch.stack([ids[row, n : n + 12] for row, n in enumerate(read)])
    outputs = torch.stack([decoder(token).clone() for token in tokens.unbind(1)], 1)
    whole = model(ids)
    expected = torch.stack([whole[row, n : n + 12] for row, n in enumerate(read)])
    assert_close(outputs, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_inference_mode_may_begin_and_end_between_tokens():
    model, ids = model_of(Attention, overrides={1: Hyena}), torch.randint(20, (2, 12))
    with torch.inference_mode():
        states = model.extend(ids[:, :4], model.initial_state(2))[1]
        decoder = Decoder(model, states)
        outputs = [decoder(token) for token in ids[:, 4:6].unbind(1)]
    outputs += [decoder(token) for token in ids[:, 6:9].unbind(1)]
    with torch.inference_mode():
        outputs += [decoder(token) for token in ids[:, 9:].unbind(1)]
    assert_close(torch.stack(outputs, 1), model(ids)[:, 4:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_step_that_writes_in_place_is_extend(model):
    """What a graph captures: input, state and output stay where they are."""
    ids = torch.randint(20, (2, 12))
    states = model.prepare_decoding(model.extend(ids[:, :4], model.initial_state(2))[1], 8)
    states, addresses, outputs = pytree.tree_map(torch.clone, states), set(), []
    for token in ids[:, 4:].split(1, 1):
        outputs.append(decode_in_place(model, token, states))
        addresses.add(tuple(leaf.data_ptr() for leaf in pytree.tree_leaves(states)))
    assert_close(torch.cat(outputs, 1), model(ids)[:, 4:], rtol=1e-9, atol=1e-9)
    assert len(addresses) == 1


@torch.no_grad()
def test_a_cache_is_copied_a_few_times_for_many_tokens():
    mixer, addresses = Attention(32), set()
    decoder = Decoder(mixer, mixer.initial_state(1))
    for x in torch.randn(1000, 1, 32):
        decoder(x)
        addresses.add(decoder._state.k.data_ptr())
    assert len(addresses) <= 10


@pytest.mark.parametrize("max_length", [60, 1000])
@torch.no_grad()
def test_hyenas_lookahead_is_the_whole_convolution(max_length):
    torch.manual_seed(0)
    mixer, tokens = Hyena(8, order=3, max_length=max_length).double(), 3 * decoder_module.ROOM["cpu"]
    x = torch.randn(2, tokens, 8, dtype=torch.float64)
    decoder = Decoder(mixer, mixer.extend(x[:, :5], mixer.initial_state(2))[1])
    outputs = torch.stack([decoder(token) for token in x[:, 5:].unbind(1)], 1)
    assert_close(outputs, mixer(x)[:, 5:], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_hyena_does_not_sum_over_the_whole_past_at_each_token(monkeypatch):
    transforms, rfft = [], torch.fft.rfft
    monkeypatch.setattr(torch.fft, "rfft", lambda *args, **options: transforms.append(1) or rfft(*args, **options))
    mixer = Hyena(8, max_length=1000)
    decoder, room = Decoder(mixer, mixer.initial_state(1)), decoder_module.ROOM["cpu"]
    for x in torch.randn(3 * room, 1, 8):
        decoder(x)
    assert len(transforms) <= 2 * 3


@torch.no_grad()
def test_steps_have_one_shape_for_the_compiler(constant_model):
    torch._dynamo.reset()
    compiled, model = CompileCounter(), constant_model
    extend = torch.compile(model.extend, backend=compiled, fullgraph=True)
    states, frames = model.extend(torch.randint(20, (2, 10)), model.initial_state(2))[1], []
    for token in torch.randint(20, (6, 2, 1)):
        _, states = extend(token, states)
        frames.append(compiled.frame_count)
    assert frames[1:] == [frames[1]] * 5  # the first state may still be a view of a longer one


@pytest.mark.parametrize("name", ["attention", "hyena"])
@torch.no_grad()
def test_decoding_has_one_shape_for_the_compiler_where_states_grow(name):
    torch._dynamo.reset()
    compiled, model = CompileCounter(), model_of(mixers.get(name))
    decode = torch.compile(model.decode, backend=compiled, fullgraph=True)
    states, frames = model.prepare_decoding(model.initial_state(2), 6), []
    for token in torch.randint(20, (6, 2, 1)):
        _, states = decode(token, states)
        frames.append(compiled.frame_count)
    assert frames == [frames[0]] * 6


@pytest.mark.usefixtures("little_room")
@torch.no_grad()
def test_documents_begin_anew_at_the_start_token():
    ids = torch.randint(1, 20, (2, 30))
    ids[0, 9], ids[1, 15], ids[:, 20] = 0, 0, 0
    for build in BUILDERS.values():
        model = model_of(build, start_token=0)
        decoder = Decoder(model, model.extend(ids[:, :4], model.initial_state(2))[1])
        outputs = torch.stack([decoder(token).clone() for token in ids[:, 4:].unbind(1)], 1)
        assert_close(outputs, model(ids)[:, 4:], rtol=1e-9, atol=1e-9)
