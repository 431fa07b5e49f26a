"""What every kernel of flash-linear-attention needs, and where its kernels are known to be wrong."""

from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

PACKAGE = "fla-core"  # the part of flash-linear-attention with the kernels
HALF = (torch.bfloat16, torch.float16)  # float32 would be multiplied in fewer bits than it has
WIDEST = 256  # of the keys of a head
HOPPER, BLACKWELL = 9, (10, 12)  # the major numbers of their compute capabilities
WRONG_ON_HOPPER = (3, 4), (3, 7, 1)  # from which Triton, and before which, gradients of the decay are wrong there


def no_kernel(q: Tensor, dtype: torch.dtype, *, oldest: tuple[int, ...] = (0,)) -> str | None:
    """Why none of its kernels can run on q (b, t, h, k), to end a sentence; None if they can.

    Args:
        q: Queries.
        dtype: What the inputs are multiplied in.
        oldest: The version of the package that is needed.
    """
    if torch.compiler.is_compiling():
        return "the compiler does not look into it"
    if q.device.type != "cuda" or q.shape[1] == 1:
        return "it is for sequences on a CUDA device"
    if dtype not in HALF:
        return "it is for half precision"
    if (installed := installed_version(PACKAGE)) is None or installed < oldest:
        return "flash-linear-attention is not installed, or too old: pip install lit-mixers[kernels]"
    return None


def not_trusted(q: Tensor) -> str | None:
    """Why its gradients of decays that vary are not to be trusted on q's device and for its keys; None if they are."""
    if q.shape[-1] > WIDEST:
        return f"it is for keys of up to {WIDEST} channels"
    return wrong_on(torch.cuda.get_device_capability(q.device)[0])


def wrong_on(capability: int) -> str | None:
    """Why not to trust the kernels on devices of that major compute capability (fla's issues 640 and 913)."""
    if capability in BLACKWELL:
        return "its gradients may be no numbers on Blackwell"
    if capability != HOPPER:
        return None
    if (triton := installed_version("triton")) is None:
        return "it is not known which Triton is installed"
    wrong = WRONG_ON_HOPPER[0] <= triton < WRONG_ON_HOPPER[1]
    return "its gradients are wrong on Hopper with Triton 3.4 to 3.7.0" if wrong else None


def installed_version(package: str) -> tuple[int, ...] | None:
    """The version of a package in numbers; None if it is not installed, or has none."""
    try:
        return tuple(int(part) for part in version(package).split("+")[0].split(".")[:3])
    except (PackageNotFoundError, ValueError):
        return None
