"""Static scales from sample tensors: what a deployment freezes before it sees its inputs."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from sparq_sim.arrays import Array, bfloat16_values, source, widened
from sparq_sim.formats import Format, Spec, spec
from sparq_sim.quantize import emulate, encode

METHODS = ("max", "percentile", "mse", "moving_average", "delayed")

#: Fractions of the largest magnitude that `mse` tries.
_CANDIDATES = 80


class Calibrator:
    """The scale of a tensor from the tensors seen so far.

    Args:
        format: a name, `Format` or `Spec` whose outermost level is one float32 scale of the tensor: ``"fp8_e4m3"``,
            ``"nvfp4"``, ``"int8"`` with ``block="tensor"``.
        method: how the largest magnitude that counts, amax, is chosen:

            - ``"max"``: of everything seen.
            - ``"percentile"``: the given percentile of all magnitudes (linear between neighbours, as NumPy has it).
            - ``"mse"``: among the fractions 1/80, 2/80, ... 1 of the largest magnitude the one whose scale leaves the
              smallest sum of squared errors over everything seen; the larger one of equals. Not for formats with
              levels under the tensor scale.
            - ``"moving_average"``: of the maxima of the tensors: a_1 = m_1, a_t = a_{t-1} + momentum * (m_t - a_{t-1}).
            - ``"delayed"``: of the last `history` tensors, as in FP8 training recipes: the scale for the next tensor
              comes from those before it.

            Arithmetic is float64; amax is then rounded to float32 (nearest even), and the scale is what `encode` makes
            of a tensor with that maximum.
        percentile: 0 to 100.
        momentum: 0 to 1.
        history: tensors that count.

    Raises:
        ValueError: an unknown method, numbers out of range, a format without such a scale or with zero points.

    NaN and Inf do not count. `percentile` and `mse` keep a copy of what they see.

    >>> import numpy as np, sparq_sim as sq
    >>> calibrator = sq.Calibrator("fp8_e4m3", "delayed", history=2)
    >>> for batch in ([1.0, -3.0], [2.0], [7.0]):
    ...     calibrator.observe(np.float32(batch))
    >>> calibrator.amax, calibrator.scale == 7 / 448
    (7.0, True)
    >>> sq.emulate(np.float32([9.0, 0.1]), "fp8_e4m3", tensor_scale=calibrator.scale)
    array([7.      , 0.1015625], dtype=float32)
    """

    def __init__(
        self,
        format: str | Format | Spec,
        method: str = "max",
        *,
        percentile: float = 99.99,
        momentum: float = 0.1,
        history: int = 16,
        **choices: Any,
    ) -> None:
        self.spec = spec(format, **choices)
        levels = self.spec.format.levels
        if not levels or levels[0].across != 0 or levels[0].format.code_bytes != 4:
            raise ValueError(
                f"{self.spec.format.name}: needed a format whose outermost scale is a float32 of the tensor"
            )
        if self.spec.format.has_zero_points:
            raise ValueError(
                f"{self.spec.format.name}: zero points depend on the least and the largest element, and a calibrator "
                "knows the largest magnitude alone; give scales=[scale, zero point]"
            )
        if method not in METHODS:
            raise ValueError(f"method={method!r}: choose one of {', '.join(METHODS)}")
        if method == "mse" and len(levels) > 1:
            raise ValueError(f"method='mse': {self.spec.format.name} has scales under that of the tensor")
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile={percentile!r}: needed 0 to 100")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum!r}: needed more than 0, at most 1")
        if isinstance(history, bool) or not isinstance(history, int) or history < 1:
            raise ValueError(f"history={history!r}: needed a positive integer")
        self.method = method
        self.percentile = float(percentile)
        self.momentum = float(momentum)
        self._recent: deque[float] = deque(maxlen=history)
        self._kept: list[Array] = []
        self._value = 0.0
        self.observed = 0
        """Tensors seen."""

    def observe(self, x: object) -> None:
        """Takes a float array or tensor into account.

        Raises:
            TypeError: a dtype that is no float.
        """
        data = source(x, "x")
        floats = bfloat16_values(data.data) if data.dtype == "bfloat16" else data.data.view(data.dtype)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            magnitudes = np.abs(widened(floats)).ravel()
        magnitudes = magnitudes[np.isfinite(magnitudes)]
        top = float(magnitudes.max(initial=0.0))
        self.observed += 1
        self._recent.append(top)
        if self.method in ("percentile", "mse"):
            self._kept.append(magnitudes)
        if self.method == "moving_average" and self.observed > 1:
            self._value += self.momentum * (top - self._value)
        else:
            self._value = top if self.method == "moving_average" else max(self._value, top)

    @property
    def amax(self) -> float:
        """The largest magnitude that counts, a float32 number.

        Raises:
            ValueError: before any tensor was seen.
        """
        if not self.observed:
            raise ValueError("amax: no tensor was observed")
        value = self._value
        if self.method == "delayed":
            value = float(max(self._recent))
        elif self.method == "percentile":
            seen = np.concatenate(self._kept)
            value = float(np.percentile(seen, self.percentile)) if seen.size else 0.0
        elif self.method == "mse":
            value = self._least_error()
        return float(np.float32(value).astype(np.float64))

    @property
    def scale(self) -> float:
        """What ``tensor_scale=`` takes."""
        return self._scale_of(self.amax)

    def _scale_of(self, amax: float) -> float:
        tensor_scale = encode(np.array([amax], np.float32), self.spec, axis=-1).tensor_scale
        assert tensor_scale is not None
        return tensor_scale

    def _least_error(self) -> float:
        top = self._value
        if top == 0:
            return 0.0
        best, least = top, np.inf
        for step in range(_CANDIDATES, 0, -1):
            amax = float(np.float32(top * step / _CANDIDATES).astype(np.float64))
            scale, error = self._scale_of(amax), 0.0
            for seen in self._kept:
                made = emulate(seen, self.spec, axis=-1, tensor_scale=scale, dtype="float64", inexact="round")
                error += float(np.sum((made - seen) ** 2))
            if error < least:
                best, least = amax, error
        return best
