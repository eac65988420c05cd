"""Static scales: each method beside its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import sparq_sim as sq
from conftest import Array


def batches() -> list[Array]:
    rng = np.random.default_rng(0)
    made = [(rng.standard_normal((7, 33)) * size).astype(np.float32) for size in (1, 5, 2, 0.5, 3)]
    made[1][0, 0] = np.inf
    made[2][3, 3] = np.nan
    return made


def observed(format: Any, method: str, **choices: Any) -> sq.Calibrator:
    calibrator = sq.Calibrator(format, method, **choices)
    for batch in batches():
        calibrator.observe(batch)
    return calibrator


def maxima() -> list[float]:
    return [float(np.abs(batch[np.isfinite(batch)]).max()) for batch in batches()]


def test_max_is_of_all_finite_numbers_seen() -> None:
    got = observed("fp8_e4m3", "max")
    assert got.amax == max(maxima()) and got.observed == 5
    assert got.scale == float(np.float32(got.amax) / np.float32(448))


def test_delayed_scaling_looks_at_the_last_tensors_only() -> None:
    assert observed("fp8_e4m3", "delayed", history=3).amax == max(maxima()[2:])
    assert observed("fp8_e4m3", "delayed", history=1).amax == maxima()[-1]


def test_a_moving_average_starts_at_the_first_maximum() -> None:
    average = maxima()[0]
    for top in maxima()[1:]:
        average = average + 0.25 * (top - average)
    assert observed("int8", "moving_average", momentum=0.25, block="tensor").amax == float(np.float32(average))


def test_a_percentile_is_that_of_all_magnitudes() -> None:
    seen = np.concatenate([np.abs(b[np.isfinite(b)]).astype(np.float64) for b in batches()])
    got = observed("int8", "percentile", percentile=99, block="tensor")
    assert got.amax == float(np.float32(np.percentile(seen, 99))) < max(maxima())


def test_mse_is_the_least_squared_error_among_its_candidates() -> None:
    got = observed("int4", "mse", block="tensor")
    seen = [b[np.isfinite(b)] for b in batches()]

    def error(amax: float) -> float:
        scale = np.float32(amax) / np.float32(7)
        total = 0.0
        for x in seen:
            made = np.clip(np.rint(x / scale), -7, 7) * scale
            total += float(((made.astype(np.float64) - x) ** 2).sum())
        return total

    candidates = [float(np.float32(max(maxima()) * k / 80)) for k in range(1, 81)]
    errors = [error(amax) for amax in candidates]
    assert got.amax in candidates and got.amax < max(maxima())
    assert error(got.amax) == pytest.approx(min(errors), rel=1e-12)


def test_the_scale_goes_straight_into_emulate() -> None:
    x = batches()[0]
    for format in ("fp8_e4m3", "nvfp4"):
        calibrator = sq.Calibrator(format)
        calibrator.observe(torch.from_numpy(x).bfloat16())
        calibrator.observe(x.astype(np.float64))
        assert np.array_equal(sq.emulate(x, format, tensor_scale=calibrator.scale), sq.emulate(x, format))


def test_zeros_and_nothing_give_the_scale_of_zeros() -> None:
    for method in ("max", "percentile", "mse", "moving_average", "delayed"):
        calibrator = sq.Calibrator("fp8_e4m3", method)
        with pytest.raises(ValueError, match="no tensor was observed"):
            _ = calibrator.scale
        calibrator.observe(np.zeros((0, 4), np.float32))
        calibrator.observe(np.float32([0.0, -0.0]))
        assert (calibrator.amax, calibrator.scale) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mxfp4",), "needed a format whose outermost scale is a float32 of the tensor"),
        (("int8",), "needed a format whose outermost scale is a float32 of the tensor"),
        (("bf16",), "needed a format whose outermost scale is a float32 of the tensor"),
        (("fp8_e4m3", "median"), "choose one of max, percentile, mse"),
        (("nvfp4", "mse"), "nvfp4 has scales under that of the tensor"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sq.Calibrator(*arguments)


@pytest.mark.parametrize("numbers", [{"percentile": 101}, {"momentum": 0}, {"history": 0}, {"history": True}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(numbers))):
        sq.Calibrator("fp8_e4m3", **numbers)


def test_integers_are_no_tensor() -> None:
    with pytest.raises(TypeError, match="x: dtype int64"):
        sq.Calibrator("fp8_e4m3").observe(np.arange(3))
