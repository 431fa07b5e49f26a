"""The language model made of mixers: training loss, states, decoding and generation."""

from mixers.model.block import BLOCK_PARAMETERS, Block, MixerFactory
from mixers.model.language_model import LanguageModel

__all__ = ["BLOCK_PARAMETERS", "Block", "LanguageModel", "MixerFactory"]
