"""The delta rule with decay by the kernels of flash-linear-attention, where that package and a CUDA device are."""

from torch import Tensor

from mixers.ops.fla_kernels import no_kernel, not_trusted


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
    if reason := no_kernel(q, q.dtype):
        return reason
    if erase is not write or erase.ndim > 3:
        return "it is for one strength for each head"
    if not q.dtype == k.dtype == v.dtype:
        return "it is for inputs of one dtype"
    return not_trusted(q)


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
