"""Documents packed into rows are mixed as if alone."""

import pytest
import torch
from torch.testing import assert_close

import mixers
from mixers import LanguageModel, packed

ROWS = [[3, 1, 16], [20], [1] * 20, [7, 9, 4]]


@pytest.mark.parametrize("name", mixers.available())
def test_each_document_is_mixed_alone(name):
    torch.manual_seed(0)
    mixer, x = mixers.get(name)(32).double(), torch.randn(4, 20, 32, dtype=torch.float64, requires_grad=True)
    starts = torch.zeros(4, 20, dtype=torch.bool)
    for row, lengths in enumerate(ROWS):
        starts[row, torch.tensor([0, *lengths]).cumsum(0)[1:-1]] = True  # the first of a row is understood
    alone = torch.stack([torch.cat([mixer(d[None])[0] for d in row.split(n)]) for row, n in zip(x, ROWS, strict=True)])
    y = packed(mixer, x, starts)
    assert_close(y, alone, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(y)
    assert_close(*(torch.autograd.grad(z, x, direction) for z in (y, alone)), rtol=1e-9, atol=1e-9)


def test_starts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"starts is torch.bool \(2, 4\); write torch.bool \(2, 5\)"):
        packed(mixers.Retention(32), torch.randn(2, 5, 32), torch.zeros(2, 4, dtype=torch.bool))


class TestModel:
    """A language model with a start token."""

    @pytest.fixture(params=mixers.available())
    def model(self, request):
        torch.manual_seed(0)
        options = {"vocab_size": 20, "dim": 32, "depth": 2, "start_token": 0}
        return LanguageModel(request.param, overrides={1: "attention"}, **options).double()

    @pytest.fixture
    def ids(self):
        ids = torch.randint(1, 20, (3, 24), generator=torch.Generator().manual_seed(0))
        ids[0, 0], ids[0, 5], ids[1, 5], ids[1, 6], ids[2, 23] = 0, 0, 0, 0, 0
        return ids

    def test_documents_of_a_row_are_mixed_as_if_alone(self, model, ids):
        logits = model(ids)
        for row, own in zip(ids, logits, strict=True):
            documents = row.tensor_split([place for place in row.eq(0).nonzero().flatten().tolist() if place])
            alone = torch.cat([model(document[None])[0] for document in documents])
            assert_close(own, alone, rtol=1e-9, atol=1e-9)

    def test_extending_over_any_split_is_forward(self, model, ids):
        whole = model(ids)
        for split in ([24], [1] * 24, [5, 1, 18], [3, 9, 12]):
            states, outputs = model.initial_state(3), []
            for piece in ids.split(split, 1):
                logits, states = model.extend(piece, states)
                outputs.append(logits)
            assert_close(torch.cat(outputs, 1), whole, rtol=1e-9, atol=1e-9)

    def test_losses_see_documents_alone_also_where_blocks_are_recomputed(self, model, ids):
        targets, results = torch.randint(20, ids.shape), []
        expected = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        assert_close(model.losses(ids, targets).mean(), expected.detach())
        assert_close(model.scores(ids, targets)[0].mean(), expected.detach())
        for model.recompute in (False, True):
            loss = model.loss(ids, targets)
            assert_close(loss, expected)
            results.append(torch.autograd.grad(loss, list(model.parameters())))
        assert_close(*results)


def test_a_start_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"start_token=20 is out of range: write an id from 0 to 19\."):
        LanguageModel(vocab_size=20, dim=32, depth=1, start_token=20)


def test_a_batch_without_rows_has_no_documents():
    mixer = mixers.Retention(32)
    assert packed(mixer, torch.randn(0, 5, 32), torch.zeros(0, 5, dtype=torch.bool)).shape == (0, 5, 32)
