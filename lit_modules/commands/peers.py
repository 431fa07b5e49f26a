"""Other people's layers and models, for comparison, where their packages are installed."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from mixers.benchmark.work import (
    PIECE,
    Case,
    Phase,
    Target,
    Unavailable,
    Workload,
    forward_and_backward,
    inferring,
    parameters,
    step,
)

HEADS = 4  # of retention at width 1024, as in the paper
LLAMA_HEADS = 8  # as many as our attention has
CHUNK = 512  # recurrent_chunk_size of the authors' configuration


def peers(whole_model: bool, device: torch.device) -> dict[str, Target]:
    """The peers that can be measured here, by name."""
    found: dict[str, Target] = {}
    if whole_model and find_spec("transformers"):
        found["Llama (transformers)"] = llama
    if not whole_model and find_spec("torchscale"):
        found |= {"authors, parallel": authors(chunkwise=False), "authors, chunkwise": authors(chunkwise=True)}
    if not whole_model and device.type == "cuda" and find_spec("fla"):
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
        num_attention_heads=LLAMA_HEADS,
        max_position_embeddings=2 * at.length,
        tie_word_embeddings=True,
    )
    model: Any = LlamaForCausalLM(config)
    model = model.to(at.device)

    def draw(length: int) -> Tensor:
        return torch.randint(at.vocab_size, (at.batch_size, length), device=at.device)

    if what == "train":
        ids = draw(at.length)
        if at.compiled:
            model.compile()
        return Workload(step(model, lambda: model(ids, labels=ids, use_cache=False).loss, at), parameters(model))

    cache: Any = DynamicCache()
    model, token = model.to(at.dtype).eval(), draw(1)
    if what == "prefill":
        prompt = draw(at.length)
        return Workload(inferring(lambda: model(prompt, use_cache=True, logits_to_keep=1)), parameters(model))
    with torch.inference_mode():
        for start in range(0, at.length, PIECE):
            model(draw(min(PIECE, at.length - start)), past_key_values=cache, use_cache=True, logits_to_keep=1)
    size = sum(x.numel() * x.element_size() for own in cache.layers for x in (own.keys, own.values)) // at.batch_size
    return Workload(inferring(lambda: model(token, past_key_values=cache, use_cache=True)), parameters(model), size)


def authors(*, chunkwise: bool) -> Target:
    """The layer that the RetNet authors released, in its parallel or its chunkwise form."""

    def prepare(what: Phase, at: Case) -> Workload:
        if what != "train":
            raise Unavailable("only the training of the authors' layer is measured")
        if chunkwise and at.length % CHUNK:
            raise Unavailable(f"the authors' chunkwise form needs a multiple of {CHUNK} tokens")
        layer_class, positions_class = authors_code()
        args = SimpleNamespace(
            decoder_embed_dim=at.dim,
            decoder_retention_heads=HEADS,
            recurrent_chunk_size=CHUNK,
            layernorm_eps=1e-6,
            multiway=False,
        )
        layer = layer_class(args, at.dim, 2 * at.dim, HEADS).to(at.device)
        positions = positions_class(args).to(at.device)
        options = {"chunkwise_recurrent": True} if chunkwise else {}

        def arguments(layer: nn.Module, args: tuple[Tensor], _: object) -> tuple[tuple[Any, ...], dict[str, bool]]:
            return (args[0], positions(args[0].shape[1], **options)), options

        layer.register_forward_pre_hook(arguments, with_kwargs=True)
        x = torch.randn(at.batch_size, at.length, at.dim, device=at.device)
        if at.compiled:
            layer.compile()
        return Workload(forward_and_backward(layer, x, at), parameters(layer))

    return prepare


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
    layer = MultiScaleRetention(hidden_size=at.dim, num_heads=HEADS, expand_k=1.0, expand_v=2.0).to(at.device)
    layer.register_forward_hook(lambda module, x, outputs: outputs[0])
    x = torch.randn(at.batch_size, at.length, at.dim, device=at.device)
    return Workload(forward_and_backward(layer, x, at), parameters(layer))
