"""On a GPU, where there is one: every mixer trains in bfloat16, and its forms agree within that precision."""

import copy

import pytest
import torch

import mixers
from mixers import LanguageModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

NEAR = 0.1  # of the outputs' standard deviation, root mean square, as in mixers.testing


def error(actual, exact):
    return ((actual.double().cpu() - exact).square().mean().sqrt() / exact.std()).item()


@pytest.mark.parametrize("name", mixers.available())
def test_every_form_stays_near_double(name):
    torch.manual_seed(0)
    half = mixers.get(name)(256).bfloat16()
    x = torch.randn(2, 300, 256).bfloat16()
    with torch.no_grad():
        exact = copy.deepcopy(half).double()(x.double())
        half, x = half.cuda(), x.cuda()
        state, pieces = half.initial_state(2), []
        for piece in x.split([200, 1, 1, 63, 35], 1):
            y, state = half.extend(piece, state)
            pieces.append(y)
        assert error(half(x), exact) < NEAR
        assert error(torch.cat(pieces, 1), exact) < NEAR


@pytest.mark.parametrize("name", mixers.available())
def test_every_mixer_trains_100_steps_under_autocast(name):
    torch.manual_seed(0)
    model = LanguageModel(mixers.get(name), vocab_size=256, dim=256, depth=2).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = torch.randint(256, (4, 32)).repeat_interleave(8, 1).cuda()  # every token eight times: easy to learn
    losses = []
    for _ in range(100):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
