"""The diagonal-plus-rank-one rule in chunks against its loop, and what the rule itself promises."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers.ops.decay import decayed_linear_attention
from mixers.ops.dplr import dplr
from mixers.ops.dplr.reference import reference

FORMS = ["blocked", "chunkwise"]


def arguments(length, *, k=6, v=4, decay=0.6, batch=2, heads=2, dtype=torch.float64, seed=0):
    """Arguments without a state; keys to remove are of length one, decays down to e^-decay."""
    torch.manual_seed(seed)
    q, key, a, rate, share = (torch.randn(batch, length, heads, k, dtype=dtype) for _ in range(5))
    a = F.normalize(a, dim=-1)
    inputs = q, key, torch.randn(batch, length, heads, v, dtype=dtype), -a, a * rate.sigmoid(), -decay * share.sigmoid()
    return [x.requires_grad_() for x in inputs]


def start(*, k=6, v=4, batch=2, heads=2, dtype=torch.float64):
    return torch.randn(batch, heads, k, v, dtype=dtype, requires_grad=True)


def results(run, inputs, *rest):
    """The output, the state, and the gradients of all inputs."""
    outputs = run(*inputs, *rest)
    directions = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view_as(y) for y in outputs]
    wanted = [x for x in (*inputs, *rest) if isinstance(x, torch.Tensor)]
    return *outputs, *torch.autograd.grad(outputs, wanted, directions)


@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("length", [1, 2, 3, 16, 37, 64])
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 16, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_chunks_of_any_size_are_the_loop(form, chunk_size, length, begins):
    inputs, state = arguments(length), None if begins else start()
    actual = results(dplr[form].run, inputs, state, chunk_size)
    assert_close(actual, results(reference, inputs, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [5, 100, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_any_decay_gives_the_loops_outputs_and_gradients(form, decay):
    inputs, state = arguments(70, decay=decay), start()
    actual = results(dplr[form].run, inputs, state, 32)
    assert_close(actual, results(reference, inputs, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [0, 0.6, 100])
@pytest.mark.parametrize("form", FORMS)
def test_float32_is_near_float64(form, decay):
    exact = results(reference, arguments(300, k=64, v=64, decay=decay), None)
    inputs = [x.detach().float().requires_grad_() for x in arguments(300, k=64, v=64, decay=decay)]
    for one, other in zip(results(dplr[form].run, inputs, None, 64), exact, strict=True):
        assert one.isfinite().all()
        assert (one - other).abs().max() < 2e-5 * other.abs().max()


@pytest.mark.parametrize("form", ["reference", *FORMS])
def test_going_on_from_a_state_is_going_on(form):
    inputs = arguments(50)
    run = dplr[form].run
    whole, end = run(*inputs, None, 16)
    first, state = run(*(x[:, :21] for x in inputs), None, 16)
    second, state = run(*(x[:, 21:] for x in inputs), state, 16)
    assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-9)
    assert_close(state, end, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("used", [0, 1], ids=["output", "state"])
def test_what_nobody_uses_has_no_gradient(used):
    inputs, state = arguments(40), start()

    def gradients(run, *rest):
        y = run(*inputs, state, *rest)[used]
        return torch.autograd.grad(y.square().sum(), [*inputs, state], materialize_grads=True, allow_unused=True)

    assert_close(gradients(dplr["blocked"].run, 16), gradients(reference), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["reference", *FORMS])
def test_with_nothing_to_remove_it_is_linear_attention_with_decay(form):
    q, k, v, a, b, log_decay = arguments(40)
    expected = decayed_linear_attention["reference"].run(q, k, v, log_decay, None)
    assert_close(dplr[form].run(q, k, v, 0 * a, b, log_decay, None, 16), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["reference", *FORMS])
def test_a_key_that_is_removed_before_it_is_stored_gives_its_value(form):
    _, _, v, a, _, log_decay = arguments(40)
    y, _ = dplr[form].run(a, a, v, -a, a, 0 * log_decay, start(), 16)
    assert_close(y, v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_for_the_gradients_only_the_inputs_and_a_state_for_each_chunk_are_kept(form):
    inputs, kept = arguments(64, k=8, v=8), {}

    def pack(x):
        kept[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = dplr[form].run(*inputs, None, 16)
    states = 64 // 16 * 2 * 2 * 8 * 8
    assert sum(kept.values()) <= sum(x.numel() for x in inputs) + states
    torch.autograd.grad(outputs[0].sum(), inputs)


def test_a_kernel_is_only_for_decays_that_are_bounded_and_a_gpu():
    inputs = arguments(40)
    assert dplr["fla"].unsupported_reason(*inputs, None, 16) == "it is for sequences on a CUDA device"
    assert dplr.choose(*inputs, None, 16).name == "blocked"
    assert dplr.choose(*(x[:, :1] for x in inputs), None, 16).name == "reference"
