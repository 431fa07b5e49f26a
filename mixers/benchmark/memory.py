"""How much memory something takes, and a limit on it that is an error instead of the system's end of the program."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # Linux; elsewhere a CPU's memory is not measured
CGROUP = Path("/sys/fs/cgroup")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
RESET_PEAK = "5"  # what clear_refs takes for it, proc(5)


class Peak:
    """The most memory that was in use within it, in bytes, beyond what was before: of a GPU, or of the process.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif PROCESS.is_dir():
            give_back_freed()
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
            self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._before
        elif PROCESS.is_dir():
            self.bytes = _status("VmHWM") - self._before


def give_back_freed() -> None:
    """Returns freed memory to the system, which C's library keeps for later (glibc only)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Within it a CPU's allocations fail where memory ends, where Linux would kill the program later."""
    if device.type != "cpu" or not PROCESS.is_dir():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _available(), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _available() -> int:
    """Bytes that the system, or the container's limit, still has."""
    found = [_field(Path("/proc/meminfo").read_text(), "MemAvailable")]
    limit, usage = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and usage.is_file() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(usage.read_text()))
    return max(0, min(found))


def _status(name: str) -> int:
    return _field((PROCESS / "status").read_text(), name)


def _field(text: str, name: str) -> int:
    """A field of /proc in bytes; they are printed in kB."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
