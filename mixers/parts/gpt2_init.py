"""The initialisation of the language models that Hyena's and H3's authors trained, which is GPT-2's."""

import math

from torch import nn

STD = 0.02


def gpt2_init(mixer: nn.Module, out_proj: nn.Linear | None, depth: int) -> None:
    """Draws the weights of all linear layers within a mixer anew, normal with standard deviation 0.02; biases are zero.

    Convolutions and parameters outside of linear layers stay as they are, as in `_init_weights` of the authors' code.

    Args:
        mixer: The mixer.
        out_proj: The layer within it that adds to the residual stream, whose weights are divided by √(2 depth); None
            where the authors' rule, which goes by the name of that layer, does not find it.
        depth: Number of blocks of the model.
    """
    for module in mixer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=STD / math.sqrt(2 * depth) if module is out_proj else STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
