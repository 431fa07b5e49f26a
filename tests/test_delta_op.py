"""The delta rule with decay against its loop over tokens: any strengths, shared heads and strong decays included."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers.ops.delta import delta_rule, fla
from mixers.ops.delta.blocked import blocked
from mixers.ops.delta.chunkwise import chunkwise
from mixers.ops.delta.reference import reference
from mixers.ops.delta.scores import Decays, decayed_scores, decayed_scores_backward

B, H, K, V = 2, 4, 3, 5
FORMS = [chunkwise, blocked]
CHANNELS = {"of a head": (1, 1, 1), "of channels": (K, K, V), "decay of channels": (K, 1, 1), "erase": (1, K, 1)}


def draw(length, kind="of a head", *, heads=H, strongest=3.0, begins=False, dtype=torch.float64):
    """The op's tensors; decays between 0 and -strongest a token, most of them weak, and keys of length one."""
    torch.manual_seed(length)
    precise = torch.promote_types(dtype, torch.float32)

    def gate(channels, draw):
        return draw(B, length, H, dtype=precise) if channels == 1 else draw(B, length, H, channels, dtype=precise)

    of_decay, of_erase, of_write = CHANNELS[kind]
    q, k = (torch.randn(B, length, heads, K, dtype=dtype) for _ in range(2))
    log_decay, erase = -strongest * gate(of_decay, torch.rand) ** 4, 2 * gate(of_erase, torch.rand)
    state = None if begins else torch.randn(B, H, K, V, dtype=precise)
    v, write = torch.randn(B, length, H, V, dtype=dtype), gate(of_write, torch.rand)
    inputs = q, F.normalize(k, dim=-1), v, log_decay, erase, write, state
    return [None if x is None else x.requires_grad_() for x in inputs]


def results(run, inputs, used=(0, 1)):
    """Outputs, and gradients of all inputs, of the output, the state or both."""
    outputs = run(*inputs)
    torch.manual_seed(0)
    directions = [torch.randn(output.shape, dtype=torch.float64).to(output.dtype) for output in outputs]
    wanted = [x for x in inputs if x is not None]
    chosen, along = [outputs[i] for i in used], [directions[i] for i in used]
    return [*outputs, *torch.autograd.grad(chosen, wanted, along, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("chunk_size", [1, 24, 64])
@pytest.mark.parametrize("length", [1, 2, 63, 65])
@pytest.mark.parametrize("kind", CHANNELS)
def test_chunks_are_the_loop_over_tokens(kind, length, chunk_size, begins, form):
    inputs = draw(length, kind, begins=begins)
    actual, expected = results(lambda *x: form(*x, chunk_size), inputs), results(reference, inputs)
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", ["of a head", "of channels"])
def test_heads_of_keys_serve_consecutive_heads_of_values(kind, heads, form):
    q, k, *others = inputs = draw(40, kind, heads=heads)
    repeated = [x.repeat_interleave(H // heads, 2) for x in (q, k)]
    assert_close(reference(*inputs), reference(*repeated, *others))
    actual, expected = results(lambda *x: form(*x, 16), inputs), results(reference, inputs)
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_a_state_may_lie_in_memory_in_any_order():
    *inputs, state = draw(40)
    strided = state.detach().mT.contiguous().mT.requires_grad_()
    output, after = blocked(*inputs, strided, 16)
    expected, expected_after = reference(*inputs, state)
    assert_close((output, after), (expected, expected_after))
    direction = torch.randn_like(after).transpose(0, 1).contiguous().transpose(0, 1)
    assert_close(torch.autograd.grad(after, strided, direction), torch.autograd.grad(expected_after, state, direction))


@pytest.mark.parametrize("used", [(0,), (1,)], ids=["output", "state"])
def test_what_nobody_uses_has_no_gradient(used):
    inputs = draw(40, "of channels")
    actual, expected = results(lambda *x: blocked(*x, 16), inputs, used), results(reference, inputs, used)
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strongest", [6.0, 100.0, 1000.0])
@pytest.mark.parametrize("kind", ["of a head", "of channels"])
def test_strong_decays_give_finite_and_right_outputs_and_gradients(kind, strongest, dtype, form):
    inputs = draw(150, kind, strongest=strongest, dtype=dtype)
    actual = results(lambda *x: form(*x, 64), inputs)
    exact = results(reference, [x.detach().double().requires_grad_() for x in inputs])
    assert all(x.isfinite().all() for x in actual)
    for one, other in zip(actual, exact, strict=True):
        tolerance = 2e-5 if one.dtype == torch.float32 and dtype == torch.float32 else 0.02
        assert (one - other).square().mean().sqrt() < tolerance * other.square().mean().sqrt()


def test_a_decay_that_forgets_all_leaves_each_token_alone():
    q, k, v, _, erase, write, state = draw(20)
    output, _ = blocked(q, k, v, torch.full_like(erase, -1e4), erase, write, state, 8)
    assert_close(output, (q * k).sum(-1, keepdim=True) * write[..., None] * v)


def test_a_step_of_strength_one_writes_the_value_that_its_key_then_reads():
    _, k, v, log_decay, erase, _, state = draw(30)
    one = torch.ones_like(erase)
    assert_close(delta_rule(k, k, v, log_decay, one, one, state, 16)[0], v)


def test_reflections_keep_what_is_orthogonal_and_turn_the_rest():
    """With β = 2 and values of zero, a state is reflected at each key, so that two of the same leave it as it was."""
    _, k, v, _, erase, _, state = draw(1)
    keys, two = k.expand(-1, 2, -1, -1), torch.full_like(erase, 2.0).expand(-1, 2, -1)
    after = delta_rule(keys, keys, torch.zeros_like(v).expand(-1, 2, -1, -1), 0 * two, two, two, state, 16)[1]
    assert_close(after, state)


def test_thousands_of_the_same_keys_stay_finite():
    q, k, v, log_decay, erase, write, _ = draw(4096, begins=True, dtype=torch.float32)
    same, strongest = k[:, :1].expand_as(k), torch.full_like(erase, 2.0)
    output, state = blocked(q, same, v, log_decay, strongest, write, None, 64)
    assert output.isfinite().all()
    assert state.isfinite().all()


@pytest.mark.parametrize("channels", [1, 6])
def test_scores_and_decays_are_their_definition_with_its_gradients(channels):
    torch.manual_seed(0)
    x, y = torch.randn(2, 16, 3, 6, dtype=torch.float64), torch.randn(2, 16, 6, dtype=torch.float64)
    log_decay = -torch.rand(2, 16, channels, dtype=torch.float64)
    for tensor in (x, y, log_decay):
        tensor.requires_grad_()
    total, decays = log_decay.cumsum(1), Decays.of(log_decay)
    scores, expected = decayed_scores(x, y, decays), torch.zeros(2, 16, 3, 16, dtype=torch.float64)
    for i in range(16):
        for j in range(i + 1):
            fading = (total[:, i] - total[:, j]).exp()
            expected[:, i, :, j] = (x[:, i] * (y[:, j] * fading)[:, None]).sum(-1)
    assert_close(scores, expected)
    assert_close(decays.since, total.exp())
    assert_close(decays.until, (total[:, -1:] - total).exp())

    dsince, duntil, dscores = torch.randn_like(total), torch.randn_like(total), torch.randn_like(scores) * (scores != 0)
    outputs, directions = (decays.since.log(), decays.until.log(), scores), (dsince, duntil, dscores)
    wanted = torch.autograd.grad(outputs, (x, y, log_decay), directions, retain_graph=True)
    with torch.no_grad():
        dx, dy, dwithin = decayed_scores_backward(dscores, scores, x, y, decays)
        assert_close((dx, dy, decays.backward(dsince, duntil, dwithin)), wanted)


def test_a_sequence_on_a_cpu_runs_blocked_and_one_token_the_loop():
    assert delta_rule.choose(*draw(2), 16).name == "blocked"
    assert delta_rule.choose(*draw(1), 16).name == "reference"


def test_only_states_between_chunks_and_what_was_written_are_kept_for_gradients():
    *inputs, state = draw(256)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        blocked(*inputs, state, 64)
    given = {x.untyped_storage().data_ptr() for x in inputs}
    own = sum(x.numel() for x in kept if x.untyped_storage().data_ptr() not in given)
    assert own <= B * H * (256 * V + 256 // 64 * K * V)


@pytest.mark.parametrize(
    ("capability", "triton", "reason"),
    [
        (9, "3.3.1", None),
        (9, "3.4.0", "wrong on Hopper"),
        (9, "3.7.0+git1", "wrong on Hopper"),
        (9, "3.7.1", None),
        (9, "main", "not known"),
        (8, "3.4.0", None),
        (12, "3.7.1", "Blackwell"),
    ],
)
def test_kernels_whose_gradients_are_known_to_be_wrong_are_not_run(capability, triton, reason, monkeypatch):
    monkeypatch.setattr(fla, "version", lambda _: triton)
    found = fla.wrong_on(capability)
    assert found is None if reason is None else reason in found


def test_kernels_are_for_cuda():
    assert fla.unsupported_reason(*draw(64), 64) == "it is for sequences on a CUDA device"
