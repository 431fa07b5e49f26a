"""Processes that encode groups side by side; `loky` starts them without running the caller's script again."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import loky

from lit_modules.data.encode import encode_group
from lit_modules.data.errors import usage_error
from lit_modules.data.splits import Part
from lit_modules.data.tokenizer import Tokenizer

Group = tuple[Sequence[Part], Path]  # what to encode, and where the facts about it go
CHECK = 0.5  # seconds between looks whether the process that started this one is still there

_tokenizer: Tokenizer  # of a process of the pool, set when it starts


def processes(groups: int) -> int:
    """How many processes encode so many groups: as many as there are cores that this one may use."""
    return min(loky.cpu_count(), groups)


def encode_in_pool(groups: Sequence[Group], tokenizer: Tokenizer) -> Iterator[int]:
    """Encodes groups in as many processes as there are cores; yields the index of each when it is done.

    Raises:
        ValueError: If the system kills one of the processes; what is finished is kept.
    """
    pool = loky.ProcessPoolExecutor(
        processes(len(groups)), initializer=_start, initargs=(tokenizer.to_json(), os.getpid())
    )
    try:
        futures = {pool.submit(_encode, *group): index for index, group in enumerate(groups)}
        for future in loky.as_completed(futures):
            future.result()
            yield futures[future]
    except loky.process_executor.TerminatedWorkerError as error:
        raise usage_error(
            "a process that tokenises was killed, perhaps since memory ran out: start again, which goes on with what "
            "is finished, with fewer cores (LOKY_MAX_CPU_COUNT=1) if memory is short."
        ) from error
    finally:
        pool.shutdown(kill_workers=True)


def _encode(parts: Sequence[Part], path: Path) -> None:
    encode_group(parts, path, _tokenizer)


def _start(tokenizer: str, parent: int) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are parallel already
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _tokenizer = Tokenizer.from_json(tokenizer)


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it has ended, even if it was killed."""
    while os.getppid() == parent:
        time.sleep(CHECK)
    os._exit(1)
