"""On a GPU, where there is one: forms and implementations agree, every mixer trains, and a graph decodes."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree

import mixers
from mixers import LanguageModel
from mixers.model.decoder import Decoder
from mixers.ops import OPS

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


@pytest.mark.parametrize(("op", "implementation"), [(name, i.name) for name, op in OPS.items() for i in op.faster])
def test_every_implementation_stays_near_the_reference_in_double(op, implementation):
    torch.manual_seed(0)
    dtype = torch.float32 if op == "long_conv" else torch.bfloat16
    arguments, chosen = OPS[op].examples(300, 256, dtype, torch.device("cuda")), OPS[op][implementation]
    if reason := chosen.unsupported_reason(*arguments):
        pytest.skip(reason)
    double = pytree.tree_map(
        lambda x: x.detach().cpu().double().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x,
        arguments,
    )
    results = []
    for run, inputs in ((chosen.run, arguments), (OPS[op]["reference"].run, double)):
        outputs = pytree.tree_leaves(run(*inputs))
        wanted = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.requires_grad]
        directions = [torch.linspace(-1, 1, y.numel()).sin().view(y.shape).to(y) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, wanted, directions)])
    for actual, exact in zip(*results, strict=True):
        assert error(actual.detach(), exact.detach()) < NEAR


@pytest.mark.parametrize("name", [name for name, mixer in mixers.available().items() if mixer(32).constant_state])
@torch.no_grad()
def test_a_graph_decodes_what_extend_does(name):
    torch.manual_seed(0)
    model = LanguageModel(mixers.get(name), vocab_size=50, dim=64, depth=2).cuda().eval()
    ids = torch.randint(50, (3, 30), device="cuda")
    decoder = Decoder(model, model.extend(ids[:, :10], model.initial_state(3))[1])
    outputs = torch.stack([decoder(token).clone() for token in ids[:, 10:].unbind(1)], 1)
    torch.testing.assert_close(outputs, model(ids)[:, 10:], rtol=1e-3, atol=1e-3)
