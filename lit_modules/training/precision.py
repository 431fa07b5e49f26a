"""The device that a run or a command uses, and the number format that is fast on it."""

from typing import TYPE_CHECKING, NamedTuple

import torch

from mixers.checks import UsageError

if TYPE_CHECKING:
    from pytorch_lightning.accelerators import Accelerator  # slow to import, and not every command needs Lightning


class Precision(NamedTuple):
    name: str  # as Lightning calls it
    reason: str


def best_precision(accelerator: "str | Accelerator") -> Precision:
    """bfloat16 with float32 weights where the hardware multiplies bfloat16 itself, else float32."""
    kind = device_kind(accelerator)
    if kind == "cuda":
        native, device = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    else:
        native, device = kind == "cpu" and cpu_multiplies_bfloat16(), "this processor" if kind == "cpu" else kind
    if native:
        return Precision("bf16-mixed", f"{device} multiplies bfloat16 natively")
    return Precision("32-true", f"{device} is not known to multiply bfloat16 natively")


def device_kind(accelerator: "str | Accelerator") -> str:
    """The kind of device that Lightning will choose: `cuda`, `mps`, `cpu` or another."""
    name = accelerator if isinstance(accelerator, str) else accelerator.name()
    if name not in ("auto", "gpu"):
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device(accelerator: str) -> torch.device:
    """The device of an `accelerator` of Lightning, or of a torch device as `cuda:1`; raises UsageError if not here."""
    try:
        found = torch.device(device_kind(accelerator))
        torch.zeros(1, device=found).item()  # which `meta` has not
    except (RuntimeError, AssertionError) as error:  # torch has no common exception for a device that is not there
        raise UsageError(f"accelerator={accelerator!r} cannot be used here: write auto, cpu, gpu or mps.") from error
    return found


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has AMX or AVX512_BF16 instructions, as far as this torch can tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    asks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(ask() for ask in asks if ask is not None)
