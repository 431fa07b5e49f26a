"""Other people's layers and models, for comparison, where their packages are installed."""

import sys
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import torch

from mixers.benchmark import Case, Phase, Target, layer
from mixers.benchmark.work import PIECE, Unavailable, Workload, inferring, parameters, step

HEADS = 4  # of retention at width 1024, as in the paper
CHUNK = 512  # recurrent_chunk_size of the authors' configuration


def peers(whole_model: bool, device: torch.device) -> dict[str, Target]:
    """The peers that can be measured here, by name."""
    if whole_model:
        return {"Llama (transformers)": llama} if find_spec("transformers") else {}
    found: dict[str, Target] = {}
    if find_spec("torchscale"):
        found["authors, parallel"] = partial(authors, chunkwise=False)
        found["authors, chunkwise"] = partial(authors, chunkwise=True)
    if device.type == "cuda" and find_spec("fla"):
        found["retention (fla)"] = fla_layer
    return found


def llama(what: Phase, at: Case) -> Workload:
    """transformers' Llama with as many parameters in a block as our models have, 12·dim²."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=at.vocab_size,
        hidden_size=at.dim,
        intermediate_size=round(8 * at.dim / 3 / 8) * 8,  # 4·dim² in attention, 3 matrices for the other 8·dim²
        num_hidden_layers=at.depth,
        num_attention_heads=8,  # as many as our attention has
        max_position_embeddings=2 * at.length,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    model.to(at.device)
    ids = torch.randint(at.vocab_size, (at.batch_size, at.length), device=at.device)
    if what == "train":
        if at.compiled:
            model.compile()
        return Workload(step(model, lambda: model(ids, labels=ids, use_cache=False).loss, at), parameters(model))

    model.to(at.dtype).eval()
    if what == "prefill":
        return Workload(inferring(lambda: model(ids, use_cache=True, logits_to_keep=1)), parameters(model))
    cache: Any = DynamicCache()
    with torch.inference_mode():
        for piece in ids.split(PIECE, dim=1):
            model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
    size = sum(own.keys.nbytes + own.values.nbytes for own in cache.layers) // at.batch_size
    token = ids[:, -1:]
    return Workload(inferring(lambda: model(token, past_key_values=cache, use_cache=True)), parameters(model), size)


def authors(what: Phase, at: Case, *, chunkwise: bool) -> Workload:
    """The layer that the RetNet authors released, in its parallel or its chunkwise form."""
    if what != "train":
        raise Unavailable("only the training of the authors' layer is measured")
    if chunkwise and at.length % CHUNK:
        raise Unavailable(f"the authors' chunkwise form needs a multiple of {CHUNK} tokens")
    from torchscale.architecture.config import RetNetConfig

    layer_class, positions_class = authors_code()
    config = RetNetConfig(decoder_embed_dim=at.dim, decoder_retention_heads=HEADS, recurrent_chunk_size=CHUNK)
    theirs = layer_class(config, at.dim, 2 * at.dim, HEADS)
    positions = positions_class(config).to(at.device)
    form = {"chunkwise_recurrent": chunkwise}
    theirs.register_forward_pre_hook(lambda _, x, __: ((*x, positions(at.length, **form)), form), with_kwargs=True)
    return layer(lambda dim: theirs)(what, at)


def authors_code() -> tuple[Any, Any]:
    """The authors' classes MultiScaleRetention and RetNetRelPos.

    What their files import of two other packages is not used for these two, so empty modules stand in.
    """
    names = {"fairscale", "fairscale.nn", "timm", "timm.models", "timm.models.layers"} - sys.modules.keys()
    sys.modules |= {name: MagicMock() for name in names}
    try:
        from torchscale.architecture.retnet import RetNetRelPos
        from torchscale.component.multiscale_retention import MultiScaleRetention
    finally:
        for name in names:
            del sys.modules[name]
    return MultiScaleRetention, RetNetRelPos


def fla_layer(what: Phase, at: Case) -> Workload:
    """flash-linear-attention's retention layer, on CUDA."""
    from fla.layers import MultiScaleRetention

    if what != "train":
        raise Unavailable("only the training of flash-linear-attention's layer is measured")
    theirs = MultiScaleRetention(hidden_size=at.dim, num_heads=HEADS, expand_k=1.0, expand_v=2.0)
    theirs.register_forward_hook(lambda module, x, outputs: outputs[0])
    return layer(lambda dim: theirs)(what, at._replace(compiled=False))  # its kernels are already
