"""The delta rule with decay by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has
HOPPER, BLACKWELL = 9, (10, 12)  # the major numbers of their compute capabilities
WRONG_ON_HOPPER = (3, 4), (3, 7, 1)  # from which Triton, and before which, gradients of the decay are wrong there


def unsupported_reason(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> str | None:
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[1] == 1:
        return "it is for sequences on a CUDA device"
    if erase is not write or erase.ndim > 3:
        return "it is for one strength for each head"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in HALF:
        return "it is for half precision"
    if k.shape[-1] > 256:
        return "it is for keys up to 256 wide"
    if not find_spec("fla"):
        return "flash-linear-attention is not installed: pip install lit-mixers[kernels]"
    return wrong_on(torch.cuda.get_device_capability(q.device)[0])


def fla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # slow to import
    from fla.ops.kda import chunk_kda

    run, repeats = chunk_gated_delta_rule, v.shape[2] // k.shape[2]
    if log_decay.ndim == 4:
        run, q, k = chunk_kda, q.repeat_interleave(repeats, 2), k.repeat_interleave(repeats, 2)
    output, state = run(q, k, v, log_decay, write, scale=1.0, initial_state=state, output_final_state=True)
    return output, state


def wrong_on(capability: int) -> str | None:
    """Why not to trust the kernels on devices of that major compute capability (fla issues 640 and 913)."""
    if capability in BLACKWELL:
        return "its gradients may be no numbers on Blackwell"
    if capability != HOPPER:
        return None
    try:
        triton = tuple(int(part) for part in version("triton").split("+")[0].split(".")[:3])
    except (PackageNotFoundError, ValueError):
        return "it is not known which Triton is installed"
    wrong = WRONG_ON_HOPPER[0] <= triton < WRONG_ON_HOPPER[1]
    return "its gradients are wrong on Hopper with Triton 3.4 to 3.7.0" if wrong else None
