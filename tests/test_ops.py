"""Each implementation of each op against its reference, outputs and gradients, and the references' own laws."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from mixers.ops import OPS
from mixers.ops.decay import decayed_linear_attention_with_weights
from mixers.ops.decay.blocked import blocked
from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState, reference
from mixers.ops.long_conv import long_conv
from mixers.ops.op import Implementation, Op
from mixers.ops.state_space import state_space, state_space_attention
from mixers.ops.wkv import LOG_ZERO, WKVState, wkv
from mixers.parts.short_conv import ShortConv

LENGTHS = [1, 7, 63, 64, 65, 500]
CPU = torch.device("cpu")


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same_with_gradients(run, reference, inputs, tolerance=1e-9):
    """The same outputs, and the same gradients of every input that wants one."""
    outputs, expected = (pytree.tree_leaves(f(*inputs)) for f in (run, reference))
    assert_close(outputs, expected, rtol=tolerance, atol=tolerance)
    wanted = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    directions = [torch.randn_like(output) for output in outputs]

    def gradients(results):
        return torch.autograd.grad(results, wanted, directions, allow_unused=True, materialize_grads=True)

    assert_close(gradients(outputs), gradients(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("op", "implementation"), [(name, i.name) for name, op in OPS.items() for i in op.faster])
def test_every_implementation_is_the_reference(op, implementation, length):
    torch.manual_seed(length)
    chosen, arguments = OPS[op][implementation], OPS[op].examples(length, 24, torch.float64, CPU)
    if reason := chosen.unsupported_reason(*arguments):
        pytest.skip(reason)
    assert_same_with_gradients(chosen.run, OPS[op]["reference"].run, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", OPS)
def test_a_call_in_less_precision_stays_near_the_reference_in_double(op, dtype):
    if (op, dtype) == ("long_conv", torch.bfloat16):
        pytest.skip("Fourier transforms know nothing below float32")
    torch.manual_seed(0)
    arguments = OPS[op].examples(100, 24, dtype, CPU)
    double = pytree.tree_map(lambda x: x.double() if isinstance(x, torch.Tensor) else x, arguments)
    actual, exact = (pytree.tree_leaves(result) for result in (OPS[op](*arguments), OPS[op]["reference"].run(*double)))
    for one, other in zip(actual, exact, strict=True):
        error = (one - other).square().mean().sqrt() / other.std()
        assert error < {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]


@pytest.mark.parametrize(
    ("op", "implementation"), [(name, i.name) for name, op in OPS.items() for i in op.implementations]
)
def test_no_rows_give_no_rows(op, implementation):
    def without_rows(x):
        return x[:0].detach().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) and len(x) == 2 else x

    chosen, arguments = OPS[op][implementation], OPS[op].examples(40, 24, torch.float64, CPU)
    expected = pytree.tree_leaves(OPS[op]["reference"].run(*arguments))
    arguments = pytree.tree_map(without_rows, arguments)
    if reason := chosen.unsupported_reason(*arguments):
        pytest.skip(reason)
    outputs = pytree.tree_leaves(chosen.run(*arguments))
    assert [y.shape for y in outputs] == [(0, *y.shape[1:]) for y in expected]
    sum(y.sum() for y in outputs).backward()


EVEN = Implementation("even", lambda x: "even", lambda x: None if x % 2 == 0 else "x is odd")


class TestTheTable:
    def test_a_call_runs_the_first_implementation_that_takes_its_arguments(self):
        large = Implementation("large", lambda x: "large", lambda x: None if x > 10 else "x is small")
        op = Op(lambda x: "reference", [large, EVEN], lambda *_: None)
        assert [op(3), op(4), op(12)] == ["reference", "even", "large"]

    def test_an_implementation_has_a_name(self):
        op = Op(lambda x: "reference", [EVEN], lambda *_: None)
        assert op["reference"].run(4) == "reference"
        with pytest.raises(KeyError, match="There are: even, reference"):
            op["odd"]


@pytest.fixture(params=[0.0, -0.03], ids=["no decay", "decay"])
def log_decay(request):
    return torch.tensor([request.param, 2 * request.param], dtype=torch.float64)


@pytest.fixture(params=LENGTHS[1:])
def decay_inputs(request):
    torch.manual_seed(request.param)
    t = request.param
    return randn(2, t, 2, 4), randn(2, t, 2, 4), randn(2, t, 2, 6), DecayState(randn(2, 2, 4, 6), randn(2, 2, 4))


@pytest.mark.parametrize("chunk_size", [1, 16, 64, 1000])
@pytest.mark.parametrize("form", [chunkwise, blocked])
def test_chunks_of_any_size_are_reference(decay_inputs, log_decay, chunk_size, form):
    assert_same_with_gradients(
        lambda q, k, v, state: form(q, k, v, log_decay, state, chunk_size),
        lambda q, k, v, state: reference(q, k, v, log_decay, state),
        decay_inputs,
    )


@pytest.mark.parametrize("form", [chunkwise, blocked])
def test_chunks_from_nothing_are_reference(decay_inputs, log_decay, form):
    assert_same_with_gradients(
        lambda q, k, v: form(q, k, v, log_decay, None, 64),
        lambda q, k, v: reference(q, k, v, log_decay, None),
        decay_inputs[:3],
    )


def test_outputs_that_nobody_uses_have_no_gradient(decay_inputs, log_decay):
    assert_same_with_gradients(
        lambda q, k, v, state: blocked(q, k, v, log_decay, state, 16)[0],
        lambda q, k, v, state: reference(q, k, v, log_decay, state)[0] + 0 * state.k.sum(),
        decay_inputs,
    )


def test_a_learned_decay_gets_its_gradient(decay_inputs):
    *inputs, state = decay_inputs
    log_decay = torch.tensor([-0.1, -0.01], dtype=torch.float64, requires_grad=True)
    assert_same_with_gradients(
        lambda *inputs: decayed_linear_attention_with_weights(*inputs, state, 16),
        lambda *inputs: reference(*inputs, state),
        (*inputs, log_decay),
    )


def test_parallel_is_recurrent_from_nothing(decay_inputs, log_decay):
    assert_same_with_gradients(
        lambda q, k, v: chunkwise(q, k, v, log_decay, None, q.shape[1])[:2],
        lambda q, k, v: reference(q, k, v, log_decay, None)[:2],
        decay_inputs[:3],
    )


def test_a_decay_over_thousands_of_tokens_stays_finite():
    q, k, v = (torch.randn(1, 4096, 1, 4) for _ in range(3))
    output, weight, _ = chunkwise(q, k, v, torch.tensor([-0.5]), None, 4096)
    assert output.isfinite().all()
    assert weight.isfinite().all()


@pytest.mark.parametrize("implementation", [i.name for i in long_conv.faster])
@pytest.mark.parametrize("past", [0, 1, 30])
@pytest.mark.parametrize("taps", [1, 8, 600])
@pytest.mark.parametrize("length", LENGTHS[1:])
def test_a_long_convolution_takes_any_number_of_taps(length, taps, past, implementation):
    torch.manual_seed(length)
    inputs = (randn(2, length, 3), randn(min(taps, length + past), 3), randn(2, past, 3))
    assert_same_with_gradients(long_conv[implementation].run, long_conv["reference"].run, inputs)


@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("chunk_size", [1, 16, 1000])
@pytest.mark.parametrize(
    ("op", "form"), [(op, i.name) for op in (state_space, state_space_attention) for i in op.faster]
)
def test_a_state_space_in_chunks_of_any_size_is_its_recurrence(op, form, chunk_size, begins):
    torch.manual_seed(0)
    *inputs, state, _ = op.examples(40, 8, torch.float64, CPU)
    inputs = (*inputs, None if begins else state)
    assert_same_with_gradients(
        lambda *inputs: op[form].run(*inputs, chunk_size), lambda *inputs: op["reference"].run(*inputs), inputs
    )


def test_the_state_of_a_state_space_that_nobody_uses_has_no_gradient():
    torch.manual_seed(0)
    arguments = state_space_attention.examples(40, 8, torch.float64, CPU)
    for used in (0, 1):
        assert_same_with_gradients(
            lambda *arguments: state_space_attention["blocked"].run(*arguments)[used],  # noqa: B023
            lambda *arguments: state_space_attention["reference"].run(*arguments)[used],  # noqa: B023
            arguments,
        )


@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_short_convolution_is_its_definition(width):
    torch.manual_seed(0)
    conv, x = ShortConv(5, width=width).double(), torch.randn(2, 9, 5, dtype=torch.float64)
    y, past = conv.extend(x, conv.initial_state(2))
    for n in range(9):
        expected = conv.bias + sum(conv.weight[:, 0, -1 - i] * x[:, n - i] for i in range(min(width, n + 1)))
        assert_close(y[:, n], expected)
    assert_close(past, x[:, 9 - (width - 1) :])


@pytest.mark.parametrize("implementation", [i.name for i in wkv.implementations])
def test_keys_of_hundreds_and_any_decay_stay_finite(implementation):
    torch.manual_seed(0)
    k, v, _, time_first, _ = wkv.examples(100, 24, torch.float32, CPU)
    time_decay = torch.linspace(-20, 10, 24).requires_grad_()
    k = (200 * k.detach().sign()).requires_grad_()
    past = WKVState(torch.zeros(2, 24), torch.full((2, 24), LOG_ZERO))
    y, after = wkv[implementation].run(k, v, time_decay, time_first, past)
    inputs = (k, v, time_decay, time_first)
    gradients = torch.autograd.grad((y.sum() + after.mean.sum() + after.log_weight.sum()), inputs)
    assert all(tensor.isfinite().all() for tensor in (y, *after, *gradients))
    assert_close(y[:, 0], v[:, 0])


@pytest.mark.parametrize("used", [0, 1, 2], ids=["outputs", "mean", "weight"])
@pytest.mark.parametrize("length", [16, 23])
def test_a_fading_mean_of_which_only_part_is_used_has_its_gradients(length, used):
    torch.manual_seed(0)
    arguments = wkv.examples(length, 5, torch.float64, CPU)
    assert_same_with_gradients(
        lambda *inputs: pytree.tree_leaves(wkv["blocked"].run(*inputs))[used],
        lambda *inputs: pytree.tree_leaves(wkv["reference"].run(*inputs))[used],
        arguments,
    )
