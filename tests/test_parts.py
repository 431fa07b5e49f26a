"""What decoding keeps of the past: grown in place, and convolved ahead."""

import pytest
import torch
from torch.testing import assert_close

from mixers import Hyena
from mixers.hyena import HyenaState
from mixers.parts.ahead import OUTPUTS
from mixers.parts.growing import append, prepend


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
        past, new = torch.randn(1, 1, 3, 2, requires_grad=True), torch.randn(1, 1, 2, 2, requires_grad=True)
        append(past, new).sum().backward()
        assert past.grad is not None
        assert new.grad is not None


class TestPrepend:
    """`prepend` is `torch.cat` that does not copy the past, and forgets what is too old."""

    def test_many_tokens_are_copied_few_times(self):
        past, expected, buffers = torch.zeros(1, 0, 2), torch.zeros(1, 0, 2), set()
        with torch.no_grad():
            for _ in range(300):
                new = torch.randn(1, 1, 2)
                past, expected = prepend(new, past, 100), torch.cat([new, expected], 1)[:, :100]
                buffers.add(past.untyped_storage().data_ptr())
                assert past.equal(expected)
        assert len(buffers) <= 10

    def test_continuing_twice_gives_two_futures(self):
        with torch.no_grad():
            past = prepend(torch.ones(1, 3, 1), torch.zeros(1, 0, 1), 10)
            first, second = (prepend(torch.full((1, 1, 1), n), past, 10) for n in (2.0, 3.0))
        assert first.flatten().tolist() == [2, 1, 1, 1]
        assert second.flatten().tolist() == [3, 1, 1, 1]
        assert past.flatten().tolist() == [1, 1, 1]


class TestLookingAhead:
    """A long convolution one token at a time."""

    @pytest.mark.parametrize("max_length", [60, 1000])
    def test_it_is_the_whole_convolution(self, max_length):
        torch.manual_seed(0)
        mixer = Hyena(8, order=3, max_length=max_length).double()
        x, state, outputs = torch.randn(2, 3 * OUTPUTS, 8, dtype=torch.float64), mixer.initial_state(2), []
        with torch.no_grad():
            for x_n in x.split([5] + [1] * (x.shape[1] - 5), 1):
                y, state = mixer.extend(x_n, state)
                outputs.append(y)
            assert_close(torch.cat(outputs, 1), mixer(x), rtol=1e-9, atol=1e-9)

    def test_a_token_is_not_summed_with_its_whole_past(self, monkeypatch):
        transforms, rfft = [], torch.fft.rfft
        monkeypatch.setattr(torch.fft, "rfft", lambda *args, **options: transforms.append(1) or rfft(*args, **options))
        mixer, tokens = Hyena(8, max_length=1000), 3 * OUTPUTS
        state = mixer.initial_state(1)
        with torch.no_grad():
            for _ in range(tokens):
                state = mixer.extend(torch.randn(1, 1, 8), state)[1]
        assert len(transforms) <= 2 * tokens / OUTPUTS

    def test_two_mixers_do_not_share_what_they_know(self):
        one, other = Hyena(8, max_length=100), Hyena(8, max_length=100)
        with torch.no_grad():
            _, state = one.extend(torch.randn(1, 1, 8), one.extend(torch.randn(1, 9, 8), one.initial_state(1))[1])
            x, copied = torch.randn(1, 1, 8), HyenaState(*(leaf.clone() for leaf in state))
            assert_close(other.extend(x, state)[0], other.extend(x, copied)[0])
