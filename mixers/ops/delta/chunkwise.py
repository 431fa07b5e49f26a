"""The delta rule with decay by chunks: parallel within them, all of them at once, and recurrent between them.

With G_i = Σ_{s≤i} g_s within a chunk, S the state before it and (x, y)_ij = Σ x_i y_j e^{G_i - G_j}, what its tokens
write, u_i, solves the triangular system u_i + Σ_{j<i} (b_i ∘ k_i, k_j) u_j = w_i ∘ v_i - Sᵀ(b_i ∘ k_i ∘ e^{G_i})
(arXiv:2406.06484, section 3.2, with the decays of arXiv:2412.06464). Then o_i = Sᵀ(q_i ∘ e^{G_i}) + Σ_{j≤i} (q_i, k_j)
u_j, and the next state is Diag(e^{G_c}) S + Σ_j (k_j ∘ e^{G_c - G_j}) u_jᵀ; scores.py has how it stays precise.

Axes: as in reference.py, heads before time: (b, h, n, c, ·), n chunks. Both b ∘ k and q meet keys and the state, so
they go as one tensor of two kinds, (b, h, n, c, 2, k).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.ops.chunks import by_chunks
from mixers.ops.delta.reference import for_channels, zero_state
from mixers.ops.delta.scores import Decays, decayed_scores
from mixers.ops.precision import full_precision


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    erase: Tensor,
    write: Tensor,
    state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The output and the state after it; the last chunk may be shorter."""
    heads, precise = v.shape[2], log_decay.dtype
    state = zero_state(k, v, precise) if state is None else state

    def run(state: Tensor, *chunks: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, g, b, w = (x.permute(0, 3, 1, 2, 4) for x in chunks)
        output, state = _equal_chunks(q, k, v * w, g, b * k, state)
        return output.permute(0, 2, 3, 1, 4), state

    with full_precision(q.device):
        q, k = (x.to(precise).repeat_interleave(heads // x.shape[2], 2) for x in (q, k))
        gates = (for_channels(x).to(precise) for x in (log_decay, erase, write))
        output, state = by_chunks(run, chunk_size, [q, k, v.to(precise), *gates], state)
    return output.to(v.dtype), state


def _equal_chunks(
    q: Tensor, k: Tensor, written: Tensor, log_decay: Tensor, erased: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs (b, h, n, c, v) and the state after the last of n chunks."""
    c, pad = q.shape[-2], padding(q.shape[-2], log_decay)
    q, k, written, log_decay, erased = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, written, log_decay, erased))
    decays = Decays.of(log_decay)
    rows = torch.stack([erased, q], -2)
    systems, scores = decayed_scores(rows, k, decays).unbind(-2)
    far_erased, far_q = (rows * decays.since[..., None, :]).unbind(-2)
    near, through = (k * decays.until).mT, decays.since[..., -1:, :].mT
    right = torch.cat([written, far_erased], -1)
    own, of_state = solve(systems, right).split([written.shape[-1], k.shape[-1]], -1)

    before, corrections = [], []
    for own_n, of_state_n, near_n, through_n in zip(
        *(x.unbind(2) for x in (own, of_state, near, through)), strict=True
    ):
        before.append(state)
        corrections.append(own_n - of_state_n @ state)
        state = through_n * state + near_n @ corrections[-1]
    output = scores @ torch.stack(corrections, 2) + far_q @ torch.stack(before, 2)
    return output[..., :c, :], state


def solve(systems: Tensor, right: Tensor) -> Tensor:
    """X of (I + A) X = R, A being what the systems (..., c, c) have below their diagonal."""
    return torch.linalg.solve_triangular(systems, right, upper=False, unitriangular=True)


def padding(c: int, log_decay: Tensor) -> int:
    """Tokens to add, of zeros, which change nothing, to a chunk of c for `decayed_scores`."""
    return 0 if log_decay.shape[-1] == 1 else (1 << (c - 1).bit_length()) - c
