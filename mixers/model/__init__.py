"""The language model made of mixers: training loss, states, decoding and generation."""

from mixers.model.language_model import BLOCK_PARAMETERS, Block, LanguageModel, MixerFactory, matched_width

__all__ = ["BLOCK_PARAMETERS", "Block", "LanguageModel", "MixerFactory", "matched_width"]
