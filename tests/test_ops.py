"""Each implementation of an op against its reference, outputs and gradients."""

import pytest
import torch
from torch.testing import assert_close

from mixers.ops.decay import Memory, chunkwise, parallel, recurrent
from mixers.ops.long_conv import direct, long_conv
from mixers.parts.growing import append
from mixers.parts.short_conv import ShortConv

LENGTHS = [1, 7, 63, 64, 65, 500]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def assert_same_with_gradients(run, reference, inputs):
    """The same outputs, and the same gradients of every input."""
    outputs, expected = run(*inputs), reference(*inputs)
    assert_close(outputs, expected, rtol=1e-9, atol=1e-9)
    directions = [torch.randn_like(output) for output in outputs]
    gradients = torch.autograd.grad(outputs, inputs, directions)
    assert_close(gradients, torch.autograd.grad(expected, inputs, directions), rtol=1e-9, atol=1e-9)


@pytest.fixture(params=[0.0, -0.03], ids=["no decay", "decay"])
def log_decay(request):
    return torch.tensor([request.param, 2 * request.param], dtype=torch.float64)


@pytest.fixture(params=LENGTHS)
def decay_inputs(request):
    torch.manual_seed(request.param)
    t = request.param
    return randn(2, 2, t, 4), randn(2, 2, t, 4), randn(2, 2, t, 6), randn(2, 2, 4, 6), randn(2, 2, 4)


@pytest.mark.parametrize("chunk_size", [1, 16, 64, 1000])
def test_chunkwise_is_recurrent(decay_inputs, log_decay, chunk_size):
    def flat(output, weight, memory):
        return output, weight, *memory

    assert_same_with_gradients(
        lambda q, k, v, kv, z: flat(*chunkwise(q, k, v, log_decay, Memory(kv, z), chunk_size)),
        lambda q, k, v, kv, z: flat(*recurrent(q, k, v, log_decay, Memory(kv, z))),
        decay_inputs,
    )


def test_parallel_is_recurrent_from_nothing(decay_inputs, log_decay):
    *inputs, kv, z = decay_inputs
    nothing = Memory(torch.zeros_like(kv), torch.zeros_like(z))
    assert_same_with_gradients(
        lambda q, k, v: parallel(q, k, v, log_decay),
        lambda q, k, v: recurrent(q, k, v, log_decay, nothing)[:2],
        inputs,
    )


def test_a_decay_over_thousands_of_tokens_stays_finite():
    q, k, v = (torch.randn(1, 1, 4096, 4) for _ in range(3))
    output, weight = parallel(q, k, v, torch.tensor([-0.5]))
    assert output.isfinite().all()
    assert weight.isfinite().all()


@pytest.mark.parametrize("past", [0, 1, 30])
@pytest.mark.parametrize("taps", [1, 8, 600])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_long_convolution_is_its_definition(length, taps, past):
    torch.manual_seed(length)
    inputs = (randn(2, length, 3), randn(taps, 3), randn(2, past, 3))
    if taps > length + past:
        inputs = (inputs[0], inputs[1][: length + past].detach().requires_grad_(), inputs[2])
    assert_same_with_gradients(lambda *i: (long_conv(*i),), lambda *i: (direct(*i),), inputs)


@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_short_convolution_is_its_definition(width):
    torch.manual_seed(0)
    conv, x = ShortConv(5, width=width).double(), torch.randn(2, 9, 5, dtype=torch.float64)
    y, past = conv.extend(x, conv.initial_state(2))
    for n in range(9):
        expected = conv.bias + sum(conv.weight[:, 0, -1 - i] * x[:, n - i] for i in range(min(width, n + 1)))
        assert_close(y[:, n], expected)
    assert_close(past, x[:, 9 - (width - 1) :])


class TestAppend:
    """`append` is `torch.cat` that does not copy the past."""

    def test_many_tokens_are_copied_few_times(self):
        past, addresses = torch.zeros(1, 2, 0, 4), set()
        with torch.no_grad():
            for _ in range(1000):
                past = append(past, torch.randn(1, 2, 1, 4))
                addresses.add(past.data_ptr())
        assert past.shape[2] == 1000
        assert len(addresses) <= 10

    def test_continuing_twice_gives_two_futures(self):
        with torch.no_grad():
            past = append(torch.zeros(1, 1, 0, 2), torch.ones(1, 1, 3, 2))
            first = append(past, torch.full((1, 1, 1, 2), 2.0))
            second = append(past, torch.full((1, 1, 1, 2), 3.0))
        assert first[0, 0, :, 0].tolist() == [1, 1, 1, 2]
        assert second[0, 0, :, 0].tolist() == [1, 1, 1, 3]
        assert past[0, 0, :, 0].tolist() == [1, 1, 1]

    def test_a_past_from_inference_mode_can_be_continued_outside_it(self):
        with torch.inference_mode():
            past = append(torch.zeros(1, 1, 0, 2), torch.ones(1, 1, 3, 2))
        with torch.no_grad():
            assert append(past, torch.ones(1, 1, 1, 2)).sum() == 8

    def test_gradients_flow_through_it(self):
        past, new = randn(1, 1, 3, 2), randn(1, 1, 2, 2)
        append(past, new).sum().backward()
        assert past.grad is not None
        assert new.grad is not None
