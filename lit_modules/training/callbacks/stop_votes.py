"""Processes that agree to stop at the same step, without waiting for each other."""

import torch
from torch import Tensor
from torch import distributed as dist


class StopVotes:
    """Collects from all processes whether one was asked to stop.

    Each asks at the end of every step, and gets the answer at the end of the next: by then it has arrived, and neither
    the processor nor a GPU waits for it. Flags pass through the processors, beside the gradients of the GPUs.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if several else None
        self._sent: tuple[dist.Work, Tensor] | None = None

    def any_stops(self, stop: bool) -> bool:
        """Whether any process said so when this was called before; of a single process, whether it says so now.

        All processes call it equally often.
        """
        if self._group is None:
            return stop
        answer = self._answer()
        flag = torch.tensor(int(stop))
        work = dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._sent = work, flag
        return answer

    def _answer(self) -> bool:
        if self._sent is None:
            return False
        work, flag = self._sent
        work.wait()
        return bool(flag)
