"""N:M sparsity on its own: which elements are kept."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from sparq_sim import _core
from sparq_sim.arrays import (
    Array,
    Source,
    bits_view,
    dtype_name,
    extents,
    float_name,
    is_torch,
    like,
    native,
    source,
    thread_argument,
    to_numpy,
)
from sparq_sim.events import Events
from sparq_sim.formats import parse_sparsity

T = TypeVar("T")

#: Bits of Inf and of the canonical NaN.
_INF_NAN = {
    "float16": (0x7C00, 0x7E00),
    "bfloat16": (0x7F80, 0x7FC0),
    "float32": (0x7F800000, 0x7FC00000),
    "float64": (0x7FF0000000000000, 0x7FF8000000000000),
}


def _prune(data: Source, keep: Array) -> Array:
    """+0 where pruned, the canonical NaN for kept NaNs."""
    dtype = np.dtype(f"uint{8 * data.data.dtype.itemsize}")
    bits = data.data.view(dtype) * keep
    infinity, nan = (dtype.type(pattern) for pattern in _INF_NAN[data.dtype])
    magnitude = bits & dtype.type((1 << (8 * dtype.itemsize - 1)) - 1)
    np.copyto(bits, nan, where=magnitude > infinity)
    return bits.view(data.data.dtype)


def sparsify(
    x: T,
    sparsity: str,
    *,
    axis: int = -1,
    score: object = None,
    ties: str | None = None,
    events: Events | None = None,
    threads: int | None = None,
) -> tuple[T, Any]:
    """N:M sparsity: every M consecutive elements along `axis` keep the N of largest magnitude (docs/numerics.md
    section 8).

    Args:
        x: as in `emulate`.
        sparsity: ``"N:M"``, 1 <= N <= M <= 32.
        axis: along which groups run.
        score: array shaped like x of a float dtype that replaces |x|: larger is kept, sign counts, NaN ranks highest.
        ties: which of equals is kept: ``"lowest_index"`` (default), ``"highest_index"``, or ``"topk"``: those of
            torch.topk on a CPU, so that the mask is that of ``x.abs().view(-1, M).topk(N)``.
        events: an `Events` to add ``ties`` to.
        threads: as in `emulate`.

    Returns:
        The pruned values (+0 where pruned) and the mask (bool, True where kept), both like x.

    Raises:
        ValueError, TypeError: as in `emulate`.

    >>> import numpy as np, sparq_sim as sq
    >>> values, mask = sq.sparsify(np.float32([1, -3, 2, 2]), "2:4")
    >>> values
    array([ 0., -3.,  2.,  0.], dtype=float32)
    >>> sq.sparsify(np.float32([1, 1, 1, 1]), "2:4", ties="topk")[1]
    array([False, False,  True,  True])
    """
    pattern = parse_sparsity(sparsity, ties)
    if pattern is None:
        raise TypeError("sparsity: needed a pattern such as '2:4', got None")
    data = source(x, "x")
    place = data.axis(axis)
    ranked = data
    if score is not None:
        float_name(getattr(score, "dtype", type(score).__name__), "score")
        array = bits_view(native(to_numpy(score, "score")))
        if array.shape != data.shape:
            raise ValueError(f"score: shape {array.shape}; needed the shape of x, {data.shape}")
        ranked = Source(data.from_user(array), dtype_name(score.dtype), data.shape, data.order)  # type: ignore[attr-defined]
    keep = np.empty(data.data.shape, dtype=np.uint8)
    counts = _core.sparsify(
        x=ranked.data,
        x_type=ranked.dtype,
        shape=extents(data.data.shape, place),
        sparsity=pattern,
        by_score=score is not None,
        mask_out=keep,
        count=events is not None,
        threads=thread_argument(threads),
    )
    if events is not None:
        events.add(counts)
    pruned = _prune(data, keep)
    mask: Any = data.to_user(keep.view(np.bool_))
    if is_torch(x):
        from sparq_sim.torch import bridge

        mask = bridge.from_numpy(mask, "bool", x)  # type: ignore[arg-type]
    return like(data.to_user(pruned), data.dtype, x), mask
