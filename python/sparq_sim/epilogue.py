"""Epilogue: what is done to a product before it is written, each step one IEEE rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparq_sim.arrays import Array, as_float32_exactly, bfloat16_values, dtype_name, to_numpy
from sparq_sim.steps import NOTHING, ONE, checked_precision, fused_step, rounded_to

#: What an epilogue adds up.
TERMS = ("alpha", "beta", "bias")


@dataclass(frozen=True, eq=False)
class Epilogue:
    """alpha · d + beta · source + bias of a product d, in a stated order and precision.

    Args:
        alpha, beta: finite numbers that `precision` holds. With beta = 0 the source is not read.
        source: float16, bfloat16 or float32, of a shape that broadcasts to that of the result, [..., M, N]. (``c`` of
            `matmul` is what the accumulator starts with, which is another thing.)
        bias: likewise; [N] is one number per column.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``: what operands and every step are rounded to.
        order: ``"alpha"``, ``"beta"`` and ``"bias"`` in the order in which their terms are added up. CUTLASS 2 has
            beta, alpha; CUTLASS 3 alpha, beta, and bias, alpha, beta.
        fused: whether a product and the addition that follows it are one rounding.

    Raises:
        ValueError, TypeError: what means nothing.

    Source of the rules: docs/numerics.md section 10; IEEE 754-2019, 5.4.1.

    >>> import numpy as np, sparq_sim as sq
    >>> x = np.float32([[1, 2, 3]])
    >>> sq.matmul(x, x, epilogue=sq.Epilogue(alpha=0.5, bias=np.float32([10])))
    array([[17.]], dtype=float32)
    """

    alpha: float = 1.0
    beta: float = 0.0
    source: Any = None
    bias: Any = None
    precision: str = "fp32"
    order: tuple[str, ...] = TERMS
    fused: bool = True

    def __post_init__(self) -> None:
        checked_precision(self.precision)
        order = tuple(self.order) if isinstance(self.order, (list, tuple)) else (self.order,)
        if sorted(map(str, order)) != sorted(TERMS):
            raise ValueError(f"order={self.order!r}: needed {', '.join(TERMS)} in some order")
        object.__setattr__(self, "order", order)
        if not isinstance(self.fused, bool):
            raise TypeError(f"fused={self.fused!r}: needed True or False")
        for name in ("alpha", "beta"):
            self._factor(name)
        if self.beta != 0 and self.source is None:
            raise ValueError(f"beta={self.beta!r} without a source: there is nothing to multiply")
        for name in ("source", "bias"):
            if getattr(self, name) is not None:
                _widened(getattr(self, name), name)

    def _key(self) -> tuple[object, ...]:
        return (self.alpha, self.beta, id(self.source), id(self.bias), self.precision, self.order, self.fused)

    def __eq__(self, other: object) -> bool:
        """Equal numbers and words, and the very same arrays."""
        return isinstance(other, Epilogue) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        usual = {"alpha": 1.0, "beta": 0.0, "precision": "fp32", "order": TERMS, "fused": True}
        words = [f"{name}={getattr(self, name)}" for name, word in usual.items() if getattr(self, name) != word]
        return " ".join(["epilogue", *words])

    def _factor(self, name: str) -> Array:
        """alpha or beta as float32 [1, 1]."""
        value = getattr(self, name)
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        exact = as_float32_exactly(np.array([[value]], np.float64)) if number else None
        held = exact is not None and bool(np.isfinite(exact).all())
        if exact is None or not held or rounded_to(exact.copy(), self.precision).tobytes() != exact.tobytes():
            raise ValueError(f"{name}={value!r}: needed a finite number that {self.precision} holds exactly")
        return exact

    def _term(self, name: str, shape: tuple[int, ...]) -> Array:
        """A source or bias in the precision, [m or 1, n or 1]."""
        given = _widened(getattr(self, name), name)
        try:
            np.broadcast_to(given, shape)
        except ValueError:
            raise ValueError(
                f"{name}: shape {given.shape}; needed one that broadcasts to [..., M, N] = {shape}"
            ) from None
        if given.ndim < 2 or all(extent == 1 for extent in given.shape[:-1]):
            flat = given.reshape(1, given.size)
        else:
            columns = given.shape[-1]
            flat = np.broadcast_to(given, (*shape[:-1], columns)).reshape(math.prod(shape[:-1]), columns)
        return rounded_to(np.array(flat, order="C"), self.precision)

    def check(self, shape: tuple[int, ...]) -> None:
        """ValueError unless source and bias fit a result of that shape."""
        for name in ("source", "bias"):
            if getattr(self, name) is not None:
                self._term(name, shape)

    def magnitudes(self, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """|source| and |bias| as they were given, float64 that broadcasts to a result of that shape; 0 for none."""
        self.check(shape)
        named = (("source", self.source if self.beta != 0 else None), ("bias", self.bias))
        zero = np.zeros((1, 1))
        first, second = (zero if x is None else np.abs(_widened(x, n).astype(np.float64)) for n, x in named)
        return first, second

    def pairs(self, product: float) -> dict[str, tuple[float, float]]:
        """Factor and operand of each term of one product, in order."""
        terms = {"alpha": (float(self.alpha), product)}
        if self.source is not None and self.beta != 0:
            terms["beta"] = (float(self.beta), float(self._term("source", (1, 1))[0, 0]))
        if self.bias is not None:
            terms["bias"] = (1.0, float(self._term("bias", (1, 1))[0, 0]))
        return {name: terms[name] for name in self.order if name in terms}

    def apply(self, sums: Array, nan_bits: int, threads: int | None = None) -> Array:
        """float32 sums [..., M, N], which are written over, after the epilogue; NaN has those bits."""
        shape = sums.shape
        count, columns = math.prod(shape[:-1]), shape[-1]
        product = rounded_to(sums.reshape(count, columns), self.precision)
        terms: dict[str, tuple[Array, Array]] = {"alpha": (self._factor("alpha"), product)}
        if self.source is not None and self.beta != 0:
            terms["beta"] = (self._factor("beta"), self._term("source", shape))
        if self.bias is not None:
            terms["bias"] = (ONE, self._term("bias", shape))
        total: Array | None = None
        how: dict[str, Any] = {"nan_bits": nan_bits, "precision": self.precision, "threads": threads}
        for name in self.order:
            if name not in terms:
                continue
            factor, values = terms[name]
            if total is None or not self.fused:
                own = fused_step(factor, values, NOTHING, np.empty((count, columns), np.float32), **how)
                if total is None:
                    total = own
                    continue
                factor, values = ONE, own
            fused_step(factor, values, total, total, **how)
        assert total is not None
        return total.reshape(shape)


def _widened(values: object, what: str) -> Array:
    """float16, bfloat16 or float32 as contiguous float32, exactly."""
    array = to_numpy(values, what)
    name = dtype_name(values.dtype)  # type: ignore[attr-defined]
    if name not in ("float16", "bfloat16", "float32"):
        raise TypeError(f"{what}: dtype {name}; needed float16, bfloat16 or float32")
    if name == "bfloat16":
        return np.ascontiguousarray(bfloat16_values(np.ascontiguousarray(array)))
    exact = as_float32_exactly(array)
    assert exact is not None
    return exact.reshape(array.shape)
