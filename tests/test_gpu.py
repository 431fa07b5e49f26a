"""On a GPU, where there is one: forms and implementations agree, every mixer trains, and a graph decodes."""

import copy

import pytest
import torch
from torch.utils import _pytree as pytree

import mixers
from mixers import Decoder, LanguageModel
from mixers.model import decoder as decoder_module
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


def small_model(mixer, device="cuda"):
    torch.manual_seed(0)
    return LanguageModel(mixer, vocab_size=50, dim=64, depth=2).to(device).eval()


def decoded(model, ids, read=10):
    """The logits after each of ids (batch, time) from token `read` on."""
    with torch.no_grad():
        decoder = Decoder(model, model.extend(ids[:, :read], model.initial_state(len(ids)))[1])
        return torch.stack([decoder(token).clone() for token in ids[:, read:].unbind(1)], 1)


@pytest.mark.parametrize("name", mixers.available())
@torch.no_grad()
def test_a_graph_decodes_what_extend_does(name, monkeypatch):
    monkeypatch.setattr(
        decoder_module, "ROOM_ELSEWHERE", 12
    )  # so that states that grow need more of it, and new graphs
    model, ids = small_model(name), torch.randint(50, (3, 50), device="cuda")
    torch.testing.assert_close(decoded(model, ids), model(ids)[:, 10:], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_graph_under_autocast_follows_the_weights():
    model, ids = small_model("attention"), torch.randint(50, (3, 40), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        decoder = Decoder(model, model.initial_state(3))
        for token in ids[:, :20].unbind(1):
            before = decoder(token).clone()
        model.norm.weight.mul_(-1)
        for block in model.blocks:
            block.ffn.down.weight.zero_()
            block.mixer.out_proj.weight.zero_()
        after = decoder(ids[:, 20]).float()
    exact = torch.nn.functional.linear(
        model.norm(model.embed(ids[:, 20])), model.embed.weight
    )  # no block adds anything
    assert error(after, exact.double().cpu()) < NEAR
    assert error(after, before.double().cpu()) > NEAR


@torch.no_grad()
def test_a_graph_is_captured_again_when_autocast_is_switched_on():
    model, ids = small_model("retention"), torch.randint(50, (3, 30), device="cuda")
    exact, decoder = model(ids), Decoder(model, model.initial_state(3))
    for place, token in enumerate(ids.unbind(1)):
        with torch.autocast("cuda", torch.bfloat16, enabled=place >= 15):
            logits = decoder(token)
            assert error(logits, exact[:, place].double().cpu()) < NEAR
            assert logits.dtype == (torch.bfloat16 if place >= 15 else torch.float32)


@pytest.mark.parametrize("name", ["retention", "attention", "hyena"])
def test_inference_mode_may_begin_and_end_between_tokens(name):
    model, ids, outputs = small_model(name), torch.randint(50, (3, 30), device="cuda"), []
    with torch.inference_mode():
        decoder = Decoder(model, model.initial_state(3))
    for start in range(0, 30, 5):
        with torch.inference_mode(start % 2 == 0), torch.no_grad():
            outputs += [decoder(token).clone() for token in ids[:, start : start + 5].unbind(1)]
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(outputs, 1), model(ids), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device at most")
@pytest.mark.parametrize("name", ["retention", "attention"])
@torch.no_grad()
def test_a_graph_decodes_on_another_device_than_the_current_one(name):
    model, ids = small_model(name, "cuda:1"), torch.randint(50, (3, 30), device="cuda:1")
    torch.testing.assert_close(decoded(model, ids), model(ids)[:, 10:], rtol=1e-3, atol=1e-3)
