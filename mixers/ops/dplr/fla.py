"""The diagonal-plus-rank-one rule by the kernels of flash-linear-attention, where they and a CUDA device are."""

from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has
OLDEST = (0, 6)  # from which the package takes a bound of the decay
STRONGEST = -2.5  # bound of the logarithm for which its powers, over half a chunk of 64, stay within float32
HOPPER = 9  # the major number of its compute capability
UNTRUSTED_TRITON = (3, 4), (3, 7, 1)  # on Hopper: from the first on, and before the second


def unsupported_reason(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int = 1,
    lower_bound: float = -torch.inf,
) -> str | None:
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[1] == 1:
        return "it is for sequences on a CUDA device"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in HALF:
        return "it is for half precision"
    if lower_bound < STRONGEST:
        return f"it is for log_decay of at least {STRONGEST}, of which it takes quotients"
    if k.shape[-1] > 256:
        return "it is for keys up to 256 wide"
    if (installed := _version("fla-core")) is None or installed < OLDEST:
        return "flash-linear-attention 0.6 is not installed: pip install lit-mixers[kernels]"
    if torch.cuda.get_device_capability(q.device)[0] == HOPPER and not _trusted(_version("triton")):
        return "Triton 3.4 to 3.7.0 gives wrong gradients of kernels like it on Hopper"
    return None


def fla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    state: Tensor | None,
    chunk_size: int,
    lower_bound: float,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it."""
    from fla.ops.rwkv7 import chunk_rwkv7  # slow to import

    inputs = q, log_decay, k, v, a.to(q.dtype), b.to(q.dtype)
    output, state = chunk_rwkv7(
        *inputs, scale=1.0, initial_state=state, output_final_state=True, lower_bound=lower_bound
    )
    return output, state


def _version(package: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in version(package).split("+")[0].split(".")[:3])
    except (PackageNotFoundError, ValueError):
        return None


def _trusted(triton: tuple[int, ...] | None) -> bool:
    return triton is not None and not UNTRUSTED_TRITON[0] <= triton < UNTRUSTED_TRITON[1]
