"""Decoding in fixed memory."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close
from torch.utils import _pytree as pytree

import mixers
from mixers import Attention, LanguageModel
from mixers.model.decoder import Decoder

CONSTANT = {name: mixer for name, mixer in mixers.available().items() if mixer(32).constant_state}
CONSTANT["attention with a window"] = lambda dim: Attention(dim, window=5)


@pytest.fixture(params=CONSTANT)
def model(request):
    torch.manual_seed(0)
    return LanguageModel(CONSTANT[request.param], vocab_size=20, dim=32, depth=2).double().eval()


@torch.no_grad()
def test_it_is_extend(model):
    ids = torch.randint(20, (3, 30))
    _, states = model.extend(ids[:, :10], model.initial_state(3))
    before = pytree.tree_map(torch.clone, states)
    decoder = Decoder(model, states)
    outputs = [decoder(token).clone() for token in ids[:, 10:].unbind(1)]
    assert_close(torch.stack(outputs, 1), model(ids)[:, 10:], rtol=1e-9, atol=1e-9)
    pytree.tree_map(assert_close, states, before)
    assert_close(decoder.states, model.extend(ids[:, 10:], states)[1], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_every_token_finds_the_same_memory(model):
    decoder = Decoder(model, model.initial_state(2))
    addresses = set()
    for token in torch.randint(20, (5, 2)):
        logits = decoder(token)
        addresses.add((logits.data_ptr(), *(leaf.data_ptr() for leaf in pytree.tree_leaves(decoder._states))))
    assert len(addresses) == 1


@torch.no_grad()
def test_steps_have_one_shape_for_the_compiler(model):
    torch._dynamo.reset()
    compiled = CompileCounter()
    extend = torch.compile(model.extend, backend=compiled, fullgraph=True)
    states, frames = model.extend(torch.randint(20, (2, 10)), model.initial_state(2))[1], []
    for token in torch.randint(20, (6, 2, 1)):
        _, states = extend(token, states)
        frames.append(compiled.frame_count)
    assert frames[1:] == [frames[1]] * 5  # the first state may still be a view of a longer one


def test_states_that_grow_are_refused():
    model = LanguageModel(Attention, vocab_size=20, dim=32, depth=2)
    with pytest.raises(ValueError, match="that of Attention grows"):
        Decoder(model, model.initial_state(1))
