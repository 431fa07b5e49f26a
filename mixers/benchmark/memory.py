"""How much memory something takes, and a limit on it that is an error instead of the system's end of the program."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PROCESS = Path("/proc/self")  # Linux; elsewhere a CPU's memory is not measured
STATUS = PROCESS / "status"


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """The most memory in use during `run` beyond what was before: of a GPU, or of the process; None if unknown."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    if not PROCESS.is_dir():
        run()
        return None
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps freed memory for later
    (PROCESS / "clear_refs").write_text("5")  # resets the peak, proc(5)
    before = _field(STATUS, "VmRSS")
    run()
    return _field(STATUS, "VmHWM") - before


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Within it a CPU's allocations fail where memory ends, where Linux would kill the program later."""
    if device.type != "cpu" or not PROCESS.is_dir():
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_field(STATUS, "VmSize") + _available(), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _available() -> int:
    """Bytes that the system, or the container's limit, still has."""
    found = [_field(Path("/proc/meminfo"), "MemAvailable")]
    limit, usage = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and usage.is_file() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(usage.read_text()))
    return max(0, min(found))


def _field(file: Path, name: str) -> int:
    """In bytes; the files of /proc have kB."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
