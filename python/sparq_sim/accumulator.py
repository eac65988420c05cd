"""Accumulator: a matrix product in steps along K, with the state that the machine carries between them."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm
from typing import Any

import numpy as np

from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.arrays import Array
from sparq_sim.formats import find_element
from sparq_sim.machines import AnyDatapath, resolve_datapath
from sparq_sim.matmul import as_result, machine_for, result_of, start_of
from sparq_sim.operands import Operand, multiply, operand_of
from sparq_sim.variants import with_fields


def _unscaled_cut(path: Datapath) -> int | None:
    """Products after which sums may be cut, where no block scales say more; None if only all of K is one step."""
    if path.reduce == "align":
        return path.instruction or path.group
    if path.reduce == "fma":
        return 1
    if path.reduce == "integer" and path.output == "int32":
        return 1 if path.integer_overflow == "wrap" else path.integer_tree or None
    return path.group or None


class Accumulator:
    """The accumulators of a described machine for one [M, N] output: `init`, `step` as often as there are parts of K,
    `read`. The steps together give the very bits of one `matmul` over all of K.

    What is carried is what the machine carries: its accumulator, which may be narrower than the output, and where it
    promotes every ``chunk`` of K, the float32 total beside it and the place in the chunk.

    Args:
        datapath: a name, a `Datapath`, or a JSON file, as `matmul` takes it.
        shape: (M, N).
        a_format, b_format: elements of raw codes, as in `matmul`.
        result: ``"fp32"``, ``"fp16"`` or ``"int32"``, where the machine offers it.
        threads: threads to use.

    Raises:
        ValueError: a machine that rounds once after all of K, and so has no state between steps (``exact``); one that
            flushes what it starts with and not its results.

    Source of the rules: docs/numerics.md section 10.

    >>> import numpy as np, sparq_sim as sq
    >>> rng = np.random.default_rng(0)
    >>> a, b = (rng.standard_normal((4, 256)).astype(np.float16) for _ in range(2))
    >>> acc = sq.Accumulator("ampere_16", (4, 4))
    >>> for k in range(0, 256, 64):
    ...     acc.step(a[:, k : k + 64], b[:, k : k + 64])
    >>> bool((acc.read() == sq.matmul(a, b, datapath="ampere_16")).all()), acc.k
    (True, 256)
    """

    def __init__(
        self,
        datapath: AnyDatapath,
        shape: tuple[int, int],
        *,
        a_format: str | ElementFormat | None = None,
        b_format: str | ElementFormat | None = None,
        result: str | None = None,
        threads: int | None = None,
    ) -> None:
        record = resolve_datapath(datapath)
        self.result = result_of(record, result)
        self.datapath = machine_for(record, self.result)
        if self.datapath.reduce == "exact":
            raise ValueError("a machine with reduce='exact' rounds once after all of K: nothing can be carried")
        if self.datapath.flush_inputs and not self.datapath.flush_results:
            raise ValueError("flush_inputs without flush_results: a subnormal sum between steps would be lost")
        inner = with_fields(self.datapath, {"chunk": 0})
        assert inner is not None
        self._inner = inner
        # How chunks meet: one float32 addition, with this machine's NaN.
        self._joining = Datapath(reduce="fma", nan_bits=self.datapath.nan_bits)
        if len(shape) != 2 or not all(isinstance(x, int) and x > 0 for x in shape):
            raise ValueError(f"shape={shape}: needed (M, N), both at least 1")
        self.shape = shape
        self._formats = (a_format, b_format)
        self._threads = threads
        self.init()

    def init(self, c: object = None) -> None:
        """Begin anew, from c, [M, N] of the result's dtype, or from +0.

        Raises:
            ValueError, TypeError: c of another shape or dtype.
        """
        start = start_of(c, self.shape, self.result)
        self.k = 0
        self._ended = False
        chunked = self.datapath.chunk > 0
        self._total = start if chunked else None
        self._acc: Array | None = None if chunked else start

    def step(
        self, a: object, b: object, *, a_scales: object = None, b_scales: object = None, last: bool = False
    ) -> None:
        """The next elements of K: a is [M, part of K], b [N, part of K], both K-last, as `matmul` takes them.

        Args:
            a, b, a_scales, b_scales: as in `matmul`; float scales multiply whole sums, and are refused.
            last: no step follows, so that the part need be no multiple of what the machine adds at once.

        Raises:
            ValueError: a part that ends where the machine's sums cannot be cut (the message says where they can),
                a step after the last one, what `matmul` refuses.
        """
        if self._ended:
            raise ValueError("step after the last one; init begins anew")
        path = self._inner
        left = operand_of(a, self._formats[0], a_scales, None, path, "a")
        right = operand_of(b, self._formats[1], b_scales, None, path, "b")
        if left.k != right.k:
            raise ValueError(f"K does not match: a is [{left.rows}, {left.k}], b is [{right.rows}, {right.k}]")
        if (left.rows, right.rows) != self.shape:
            raise ValueError(f"a has {left.rows} rows and b {right.rows}; needed [M, N] = {self.shape}")
        for operand, what in ((left, "a"), (right, "b")):
            if operand.float_scales is not None or operand.tensor_scale is not None:
                raise ValueError(f"{what}: float scales multiply sums of all K; multiply what read() gives")
        if not last:
            self._check_cut(left, right)
        for first, end in self._pieces(left.k):
            piece = (left.columns(first, end), right.columns(first, end))
            self._acc = multiply(*piece, path, self._acc, threads=self._threads)
            self.k += end - first
            if self.datapath.chunk and self.k % self.datapath.chunk == 0:
                self._total, self._acc = self._joined(), None
        self._ended = last

    def read(self) -> Array:
        """[M, N] of the result: that of all steps so far. Reading changes nothing."""
        made = self._joined() if self.datapath.chunk else self._acc
        if made is None:
            made = np.zeros(self.shape, np.float32)
        return as_result(made.copy(), self.datapath, self.result)

    def _check_cut(self, a: Operand, b: Operand) -> None:
        plain = _unscaled_cut(self.datapath)
        # Blocks of the whole product are those of its parts only if none is cut.
        blocks = [x.segment_end[0] for x in (a, b) if x.segment_end]
        if self.datapath.reduce in ("blocks", "integer") and blocks:
            plain = 1
        if plain is None:
            raise ValueError("this machine's sums are cut nowhere but after all of K: give one step, with last=True")
        least = lcm(plain, *blocks)
        if a.k % least:
            raise ValueError(
                f"K of a step is {a.k}: this machine's sums are cut at multiples of {least}; last=True if none follows"
            )

    def _pieces(self, k: int) -> Iterator[tuple[int, int]]:
        """Parts of a step that lie in one chunk."""
        first = 0
        while first < k:
            left = self.datapath.chunk - self.k % self.datapath.chunk if self.datapath.chunk else k
            yield first, min(first + left, k)
            first = min(first + left, k)

    def _joined(self) -> Array | None:
        """The total with the chunk at hand."""
        if self._acc is None:
            return self._total
        m, n = self.shape
        word = find_element("fp32")
        columns = np.ascontiguousarray(self._acc.T).view(np.uint32).reshape(n * m, 1)
        ones = np.full((n, 1), np.float32(1).view(np.uint32))
        sides: tuple[Any, Any] = (Operand(columns, word), Operand(ones, word))
        return multiply(*sides, self._joining, self._total, groups=n, threads=self._threads)
