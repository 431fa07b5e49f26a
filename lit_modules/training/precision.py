"""The number format that is fast on this machine."""

from typing import NamedTuple

import torch
from pytorch_lightning.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator


class Precision(NamedTuple):
    name: str  # as Lightning calls it
    reason: str


def best_precision(accelerator: str | Accelerator) -> Precision:
    """bfloat16 with float32 weights where the hardware multiplies bfloat16 itself, else float32."""
    kind = device_kind(accelerator)
    if kind == "cuda":
        native, device = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    else:
        native, device = kind == "cpu" and cpu_multiplies_bfloat16(), "this processor" if kind == "cpu" else kind
    if native:
        return Precision("bf16-mixed", f"{device} multiplies bfloat16 natively")
    return Precision("32-true", f"{device} is not known to multiply bfloat16 natively")


def device_kind(accelerator: str | Accelerator) -> str:
    """The kind of device that Lightning will choose: `cuda`, `mps`, `cpu` or another."""
    if isinstance(accelerator, (CUDAAccelerator, CPUAccelerator)):
        return "cuda" if isinstance(accelerator, CUDAAccelerator) else "cpu"
    if accelerator not in ("auto", "gpu"):
        return str(accelerator)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has AMX or AVX512_BF16 instructions, as far as this torch can tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask() for ask in asks if ask is not None)
