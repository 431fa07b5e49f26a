"""The language model: sizes, hybrids, and the law of its mixers."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

import mixers
from mixers import H3, S4D, Attention, Hyena, LanguageModel, LinearAttention, Retention

PAPER_BLOCKS = 16 * 12 * 1024**2


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("name", mixers.available())
def test_every_mixer_makes_a_model_of_the_papers_size(name, device, ffn):
    depth = 16 if device == "meta" else 1
    with torch.device(device):
        model = LanguageModel(mixers.get(name), vocab_size=50257, depth=depth, ffn=ffn)
    outside = sum(p.numel() for p in model.parameters()) - model.embed.weight.numel()
    assert abs(outside - PAPER_BLOCKS * depth / 16) < 0.01 * PAPER_BLOCKS * depth / 16


def test_parameters_are_counted_by_purpose():
    model = LanguageModel(Retention, vocab_size=100, dim=64, depth=2, tie_embeddings=False)
    counts = model.parameter_counts()
    assert counts == {"mixer": 2 * 8 * 64**2, "feed_forward": 2 * 4 * 64**2, "embedding": 2 * 6400, "norm": 5 * 128}
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_a_mixer_larger_than_a_block_gets_the_smallest_feed_forward_layer_and_a_warning():
    with pytest.warns(UserWarning, match=r"Retention alone has 106,496 parameters, more than the 12·dim² = 49,152"):
        model = LanguageModel(partial(Retention, expand_v=8.0), vocab_size=10, dim=64, depth=1)
    assert model.blocks[0].ffn.up.out_features == 8


def test_a_given_feed_forward_width_is_taken():
    assert LanguageModel(Retention, vocab_size=10, dim=64, depth=1, ffn_dim=32).blocks[0].ffn.up.out_features == 32


def test_mixers_are_given_by_name_too():
    model = LanguageModel("retention", overrides={1: "attention"}, vocab_size=10, dim=32, depth=2)
    assert [type(block.mixer) for block in model.blocks] == [Retention, Attention]


def test_an_override_makes_a_hybrid():
    overrides = {1: partial(Attention, window=4)}
    model = LanguageModel(Retention, overrides=overrides, vocab_size=10, dim=64, depth=3)
    assert [type(block.mixer) for block in model.blocks] == [Retention, Attention, Retention]
    sizes = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    assert max(sizes) - min(sizes) < 0.01 * max(sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {3: Attention}}, r"overrides names block 3; with depth=3 there are blocks 0 to 2\."),
        ({"dropout": 1.0}, r"dropout=1\.0 is out of range"),
        ({"depth": 0}, r"depth=0 is too small"),
        ({"norm": "batch"}, r"norm='batch' is not one of: layer, rms"),
        ({"ffn": "relu"}, r"ffn='relu' is not one of: gelu, swiglu"),
        ({"mixer": "retentoin"}, r"No mixer is named 'retentoin'; did you mean 'retention'\?"),
        ({"mixer": Retention(64)}, r"mixer is a Retention, built already: write Retention or partial\(Retention"),
        ({"overrides": {1: Attention(64)}}, r"mixer is a Attention, built already"),
        ({"mixer": partial(Retention, num_heads=7)}, r"num_heads=7 does not fit dim=64.*try num_heads=8"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(**{"vocab_size": 10, "dim": 64, "depth": 3, **options})


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False, "norm": "rms", "ffn": "swiglu"}], ids=str)
@pytest.mark.parametrize("mixer", [Retention, Attention, LinearAttention, partial(Hyena, max_length=30), H3, S4D])
@pytest.mark.filterwarnings("ignore:Hyena alone has")
def test_extending_over_any_split_is_forward(mixer, options):
    torch.manual_seed(0)
    overrides = {1: Attention}
    model = LanguageModel(mixer, overrides=overrides, vocab_size=50, dim=32, depth=2, **options).double()
    ids = torch.randint(50, (2, 40))
    state, outputs = model.initial_state(2), []
    for piece in ids.split([3, 30, 1, 6], 1):
        logits, state = model.extend(piece, state)
        outputs.append(logits)
    assert_close(torch.cat(outputs, 1), model(ids), rtol=1e-9, atol=1e-9)


def test_the_loss_is_the_mean_over_targets_that_count():
    torch.manual_seed(0)
    model = LanguageModel(Retention, vocab_size=50, dim=32, depth=1).double()
    ids, targets = torch.randint(50, (2, 9)), torch.randint(50, (2, 9))
    targets[0, 3:] = -100
    expected = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    assert_close(model.loss(ids, targets), expected)


def test_the_initial_loss_is_that_of_a_guess():
    torch.manual_seed(0)
    model = LanguageModel(Retention, vocab_size=1000, dim=128, depth=4)
    ids = torch.randint(1000, (4, 65))
    assert abs(model.loss(ids[:, :-1], ids[:, 1:]).item() - 6.9) < 0.7  # ln 1000 = 6.9


def test_dropout_drops_only_in_training():
    torch.manual_seed(0)
    model = LanguageModel(Retention, vocab_size=50, dim=32, depth=1, dropout=0.5)
    ids = torch.randint(50, (1, 9))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_a_mixer_is_told_its_block_and_the_depth():
    class Placed(Retention):
        def init_weights(self, layer, depth):
            self.told = layer, depth

    model = LanguageModel(Placed, vocab_size=10, dim=32, depth=3)
    assert [block.mixer.told for block in model.blocks] == [(0, 3), (1, 3), (2, 3)]


def test_recomputing_blocks_changes_nothing_and_keeps_less():
    ids, results = torch.randint(50, (2, 40)), {}
    for recompute in (False, True):
        torch.manual_seed(0)
        model = LanguageModel(Retention, vocab_size=50, dim=32, depth=3, dropout=0.1, recompute=recompute).double()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # noqa: B023
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        results[recompute] = [loss.detach(), *(p.grad for p in model.parameters())], sum(kept)
    assert_close(results[True][0], results[False][0], rtol=0, atol=0)
    assert results[True][1] < results[False][1] / 2
