"""Rankings of formats, against the formulas written out over `emulate`."""

from __future__ import annotations

import json
import math
import sys
import warnings
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from safetensors.torch import save_file

import sparq_sim as sq
from commands import Done, sparq
from sparq_sim import files, measure, ranking_plot
from sparq_sim.ranking import RankRow

Array = np.ndarray[Any, Any]

#: What a row says about errors and counts.
NUMBERS = ("relative_l1", "relative_l2", "max_error", "bias", "saturated", "underflowed", "zeros")
COUNTS = ("max_error", "saturated", "underflowed", "zeros", "note", "refused", "name", "spec", "bits_per_element")


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def named(ranking: sq.Ranking, name: str) -> RankRow:
    return next(row for row in ranking.rows if row.name == name)


def witness(x: Array, made: sq.Spec) -> dict[str, float | None]:
    """The formulas over the whole tensor at once; errors over elements that are finite before and after."""
    events = sq.Events()
    y = sq.emulate(x, made, dtype="float64", events=events)
    wide = x.astype(np.float64)
    kept = np.isfinite(wide) & np.isfinite(y)
    error = y[kept] - wide[kept]
    whole = bool(np.isfinite(y[np.isfinite(wide)]).all())
    noise, power = (error**2).sum(), (wide[kept] ** 2).sum()
    return {
        "snr_db": None if not whole else math.inf if noise == 0 else float(10 * np.log10(power / noise)),
        "relative_l1": np.abs(error).sum() / np.abs(wide[kept]).sum(),
        "relative_l2": math.sqrt(noise / power),
        "max_error": np.abs(error).max(),
        "bias": error.mean(),
        "saturated": events.saturated / x.size,
        "underflowed": events.underflowed / x.size,
        "zeros": (y == 0).sum() / x.size,
    }


def close(got: float | None, wanted: float | None, absolute: float = 0.0) -> bool:
    """Sums in another order differ by roundings of float64; None is equal to None only."""
    if got is None or wanted is None:
        return got is wanted
    return math.isclose(got, wanted, rel_tol=1e-11, abs_tol=absolute)


def assert_is_witnessed(row: RankRow, wanted: dict[str, float | None]) -> None:
    for name, value in wanted.items():
        # The signed errors cancel, so the roundings of their sum are large beside it.
        assert close(getattr(row, name), value, 1e-13 if name == "bias" else 0.0), (row.name, name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_number_is_the_formula_over_emulate(dtype: Any, axis: int) -> None:
    x = (normal(5, 70, 6) * np.exp(normal(5, 1, 6, seed=1))).astype(dtype)
    ranking = sq.rank(x, axis=axis)
    assert {row.name for row in ranking.rows} == set(sq.formats())
    for row in ranking.rows:
        assert_is_witnessed(row, witness(x, sq.spec(row.name, axis=axis)))


@pytest.mark.parametrize("order", ["sparsify_first", "quantize_first"])
def test_errors_of_sparse_tensors_are_against_the_dense_one(order: str) -> None:
    x = normal(7, 90)
    ranking = sq.rank(x, ["mxfp4", "int8", "fp8_e4m3", "bf16"], sparsity="2:4", order=order)
    for row in ranking.rows:
        assert_is_witnessed(row, witness(x, sq.spec(row.name, sparsity="2:4", order=order)))
        assert row.zeros is not None and row.zeros >= 44 / 90
    assert ranking.given == ("sparsity=2:4", f"order={order}")
    assert "bits are those of the dense tensor" in str(ranking)
    assert named(ranking, "mxfp4").bits_per_element == sq.formats()["mxfp4"].bits_per_element(90)


def wide_and_narrow() -> list[sq.Spec]:
    """Scales of every extent, and groups that do and do not divide blocks."""
    made = [sq.spec(name) for name in ("mxfp4", "hbfp6", "int8", "fp8_e4m3", "bf16")]
    made += [sq.spec("mxfp4", block=extent) for extent in ("row", "tensor", 8)]
    made += [sq.spec("int8", block="tensor", sparsity="2:4"), sq.spec("int8", sparsity="1:3")]
    made += [sq.spec("mxfp4", block="tensor", sparsity="1:3", order="quantize_first"), sq.spec("fp8_e5m2", block=16)]
    return made


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("special", [None, np.nan, np.inf, -np.inf])
def test_cutting_into_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch, axis: int, special: float | None) -> None:
    x = normal(5, 7, 6)
    x = np.concatenate([x, 8 * x, x / 64] * 12, axis=axis)
    if special is not None:
        x[3, 4, 2] = special
    whole = sq.rank(x, wide_and_narrow(), axis=axis)
    monkeypatch.setattr(measure, "PIECE", 70)
    cut = sq.rank(x, wide_and_narrow(), axis=axis)
    assert cut.histogram == whole.histogram
    for row, other in zip(cut.rows, whole.rows, strict=True):
        for name in COUNTS:
            assert getattr(row, name) == getattr(other, name), (row.name, name)
        for name in ("snr_db", "relative_l1", "relative_l2", "bias"):
            assert close(getattr(row, name), getattr(other, name), absolute=1e-15), (row.name, name)
        made = next(s for s in wide_and_narrow() if str(sq.spec(s, axis=axis)) == row.spec)
        with np.errstate(all="ignore"):
            wanted = witness(x, sq.spec(made, axis=axis)) if row.max_error is not None else {}
        assert_is_witnessed(row, wanted)


@pytest.mark.parametrize("piece", [1, 70, 5000, 1 << 18])
@pytest.mark.parametrize("shape", [(4, 500, 3), (1, 2000, 1), (300, 2, 2), (2, 90, 200)])
def test_pieces_cover_every_element_once_and_cut_no_block(
    monkeypatch: pytest.MonkeyPatch, piece: int, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(measure, "PIECE", piece)
    specs = [sq.spec("mxfp4", sparsity="2:3"), sq.spec("hbfp4")]
    step = math.lcm(32, 64, 3)
    lines = measure.Lines(sq.arrays.source(np.zeros(shape, np.float32), "x"), 1, specs)
    seen = np.zeros(shape, int)
    for box in lines.boxes():
        seen[box] += 1
        assert box[1].start % step == 0
        assert seen[box].size <= max(piece, step)
    assert (seen == 1).all()


def test_threads_change_no_bit() -> None:
    x = normal(40, 10_000)
    assert sq.rank(x, threads=1) == sq.rank(x, threads=2) == sq.rank(x, threads=7)


def test_the_best_ratio_is_first_and_fewer_bits_break_ties() -> None:
    rows = sq.rank(normal(64, 128)).rows
    ratios = [row.snr_db for row in rows]
    assert ratios == sorted(ratios, reverse=True)
    # Integers up to 7 are exact in all of these.
    ranking = sq.rank(np.float32([[1, -2, 3, 4, 5, -6, 7, 0]]), ["mxint8", "bf16", "hbfp6", "hbfp8", "mxfp4"])
    assert [row.name for row in ranking.rows] == ["hbfp6", "mxint8", "hbfp8", "bf16", "mxfp4"]
    assert [row.snr_db == math.inf for row in ranking.rows] == [True] * 4 + [False]
    assert ranking.best is ranking.rows[0] and ranking.best.note == "no error"


def test_the_frontier_is_what_nothing_beats() -> None:
    ranking = sq.rank(normal(64, 128))
    front = {row.name for row in ranking.frontier}
    for row in ranking.rows:
        beaten = any(
            (o.snr_db >= row.snr_db and o.bits_per_element < row.bits_per_element)
            or (o.snr_db > row.snr_db and o.bits_per_element <= row.bits_per_element)
            for o in ranking.rows
        )
        assert (row.name in front) == (not beaten), row.name
    assert 1 < len(front) < len(ranking.rows)


def test_bits_count_scales_of_blocks_rows_and_tensors() -> None:
    ranking = sq.rank(normal(3, 5, 40), ["mxfp4", "int8", "fp8_e4m3", "fp16"], axis=1)
    bits = {row.name: row.bits_per_element for row in ranking.rows}
    assert bits == {"mxfp4": 4 + 8 / 5, "int8": 8 + 32 / 5, "fp8_e4m3": 8 + 32 / 600, "fp16": 16}


def test_formats_may_be_names_records_or_specs_and_names_say_what_differs() -> None:
    scale = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", specials="fn", zero=False)
    mine = sq.Format("mine", sq.ElementFormat(exponent_bits=3, bias=3), [sq.ScaleLevel(format=scale, along=8)])
    given = ["mxfp8", mine, sq.spec("mxfp4", block=16, axis=0), sq.spec("mxfp4", sparsity="2:4", ties="highest_index")]
    ranking = sq.rank(normal(4, 64), given, rounding="toward_zero")
    names = {row.name for row in ranking.rows}
    assert names == {"mxfp8_e4m3", "mine", "mxfp4 block=16", "mxfp4 sparsity=2:4 ties=highest_index"}
    assert all("rounding=toward_zero" in row.spec and row.spec.endswith("axis=-1") for row in ranking.rows)
    assert sq.rank(normal(4, 64), "mxfp4").rows == sq.rank(normal(4, 64), ["mxfp4"]).rows


def test_formats_that_do_not_take_the_choices_are_last_with_the_reason() -> None:
    ranking = sq.rank(normal(4, 64), ["bf16", "mxfp4", "int8"], scale_rule="rceil")
    assert [(row.name, row.refused) for row in ranking.rows] == [("mxfp4", False), ("bf16", True), ("int8", True)]
    assert ranking.rows[1].note == "scale_rule='rceil': bf16 has no scales"
    assert "chooses a power of two" in ranking.rows[2].note
    assert "bf16: refused: scale_rule='rceil': bf16 has no scales" in str(ranking)


def test_formats_that_refuse_the_data_are_last_with_the_reason() -> None:
    plain = sq.Format("plain", sq.elements()["e2m1"].record)
    x = normal(4, 64)
    assert not named(sq.rank(x, ["mxfp4", plain]), "plain").refused
    x[1, 1] = np.nan
    ranking = sq.rank(x, [plain, "mxfp8", "bf16"])
    assert [row.name for row in ranking.rows] == ["bf16", "mxfp8_e4m3", "plain"]
    assert [(row.snr_db is None, row.refused) for row in ranking.rows[1:]] == [(True, False), (True, True)]
    assert "plain has no code for it" in ranking.rows[2].note and ranking.rows[2].bits_per_element == 4
    # A scale of the tensor without a NaN refuses before the first piece.
    scale = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", specials="finite", zero=False)
    wide = sq.Format("wide", sq.elements()["e2m1"].record, [sq.ScaleLevel(format=scale, along=0, across=0)])
    assert named(sq.rank(x, [wide, "bf16"]), "wide").refused


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"formats": ["mxfp4", "mxfp5"]}, ValueError, "unknown format 'mxfp5'; known: mxfp8, "),
        ({"formats": []}, ValueError, "needed at least one"),
        ({"formats": [7]}, TypeError, "needed a name, a Format or a Spec"),
        ({"rounding": "upward"}, ValueError, "choose one of nearest_even"),
        ({"formats": ["bf16"], "scale_rule": "rceil"}, ValueError, "bf16 has no scales"),
        ({"colour": "red"}, TypeError, "unknown choice 'colour'"),
        ({"axis": 2}, ValueError, "axis=2: the array has 2 axes"),
        ({"sparsity": "5:4"}, ValueError, "1 <= N <= M"),
        ({"threads": 0}, ValueError, "threads=0"),
    ],
)
def test_wrong_arguments_are_errors_before_any_work(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked")

    monkeypatch.setattr(measure.Lines, "survey", work)
    monkeypatch.setattr(measure, "emulate", work)
    with pytest.raises(error, match=message):
        sq.rank(normal(4, 64), **arguments)


@pytest.mark.parametrize("x", [np.arange(4), [1.0, 2.0], 3.0, np.array(["a"])])
def test_what_is_no_float_tensor_is_refused(x: Any) -> None:
    with pytest.raises(TypeError, match="needed"):
        sq.rank(x)


def test_a_poisoned_block_leaves_no_ratio_and_says_how_much_it_took() -> None:
    x = normal(2, 64)
    x[0, 3] = np.inf
    ranking = sq.rank(x, ["mxfp8", "bf16", "int8"])
    assert [(row.name, row.snr_db is None) for row in ranking.rows] == [
        ("bf16", False), ("mxfp8_e4m3", True), ("int8", True)
    ]  # fmt: skip
    row = named(ranking, "mxfp8_e4m3")
    assert row.note == "31 finite elements became NaN or Inf; errors are those of the other 96"
    rest = np.delete(x.reshape(4, 32), 0, axis=0)
    assert row.max_error == witness(rest, sq.spec("mxfp8"))["max_error"]
    finite = x[np.isfinite(x)]
    assert named(ranking, "bf16").snr_db == pytest.approx(witness(finite, sq.spec("bf16"))["snr_db"], rel=1e-12)
    assert ranking.histogram.nonfinite == 1
    assert "NaN or Inf in the input: 1; errors leave them out" in str(ranking)


def test_a_finite_element_that_overflows_leaves_no_ratio() -> None:
    ranking = sq.rank(np.float32([1e6, 1.0, 1.001]), ["fp16", "bf16"])
    assert ranking.best is not None and ranking.best.name == "bf16"
    row = named(ranking, "fp16")
    assert row.snr_db is None and row.saturated == 1 / 3
    assert row.note == "1 finite elements became NaN or Inf; errors are those of the other 2"
    assert row.max_error == abs(float(np.float16(np.float32(1.001))) - float(np.float32(1.001)))


@pytest.mark.parametrize("name", ["mxfp4", "int8", "fp8_e4m3", "bf16"])
def test_nothing_but_nan_has_no_errors_and_no_best(name: str) -> None:
    ranking = sq.rank(np.full((2, 40), np.nan, np.float32), name)
    assert ranking.best is None and ranking.frontier == ()
    assert [getattr(ranking.rows[0], each) for each in ("snr_db", *NUMBERS)] == [None] * 5 + [0, 0, 0]
    assert ranking.rows[0].note.startswith("no element is finite before and after")
    assert ranking.histogram.exponents == () and ranking.histogram.nonfinite == 80


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 64), (2, 0, 5)])
def test_an_empty_tensor_gives_rows_without_numbers(shape: tuple[int, ...]) -> None:
    ranking = sq.rank(np.zeros(shape, np.float32))
    assert {row.name for row in ranking.rows} == set(sq.formats())
    for row in ranking.rows:
        assert [getattr(row, name) for name in ("snr_db", *NUMBERS)] == [None] * 8
        assert row.note == "no elements" and not row.refused
    assert ranking.best is None and ranking.elements == 0
    assert ranking.histogram.counts == () and ranking.histogram.zeros == 0


def test_a_tensor_of_zeros_is_without_error_everywhere() -> None:
    ranking = sq.rank(np.zeros((2, 40), np.float32))
    assert all(row.snr_db == math.inf and row.relative_l2 == 0 and row.zeros == 1 for row in ranking.rows)
    assert ranking.rows[0].name == "bfp2_b"  # of equals the one with the fewest bits


def test_a_scalar_is_a_line_of_one_element() -> None:
    ranking = sq.rank(np.array(1.3, np.float32), ["mxfp4", "int8"])
    assert named(ranking, "mxfp4").max_error == pytest.approx(1.5 - float(np.float32(1.3)), rel=1e-15)
    assert {row.name: row.bits_per_element for row in ranking.rows} == {"mxfp4": 12, "int8": 40}
    assert ranking.shape == () and ranking.title.startswith("scalar float32")


def without_sums(ranking: sq.Ranking) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, name) for name in COUNTS) for row in ranking.rows]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_strides_do_not_matter(axis: int) -> None:
    x = normal(12, 20, 10)
    views = [x.transpose(2, 0, 1), x[::2, 1::3], x[:, ::-1], x.astype(">f4"), np.asfortranarray(x)]
    for view in views:
        got, wanted = sq.rank(view, axis=axis), sq.rank(np.array(view, dtype=np.float32, order="C"), axis=axis)
        assert without_sums(got) == without_sums(wanted) and got.histogram == wanted.histogram
        for a, b in zip(got.rows, wanted.rows, strict=True):
            assert a.snr_db == pytest.approx(b.snr_db, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_tensors_are_ranked_as_arrays_are(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(normal(6, 70)).to(dtype).requires_grad_()
    array = tensor.detach().to(torch.float64).numpy()
    array = array.astype(ml_dtypes.bfloat16 if dtype == torch.bfloat16 else str(dtype).removeprefix("torch."))
    assert sq.rank(tensor, sparsity="2:4") == sq.rank(array, sparsity="2:4")
    assert sq.rank(tensor).dtype == str(dtype).removeprefix("torch.")


def test_ranking_leaves_its_input_alone() -> None:
    x = normal(6, 70)
    before = x.tobytes()
    x.flags.writeable = False
    sq.rank(x)
    assert x.tobytes() == before


@pytest.mark.parametrize("power", [-1000, -600, 600, 1000])
def test_squares_of_extreme_numbers_neither_overflow_nor_vanish(power: int) -> None:
    x = normal(4, 64, dtype=np.float64)
    got, plain = (named(sq.rank(np.ldexp(x, p), ["bf16", "mxfp8"]), "mxfp8_e4m3") for p in (power, 0))
    if power < 0:  # everything is below the smallest scale
        assert (got.snr_db, got.relative_l2, got.underflowed) == (0.0, 1.0, 1.0)
    else:  # everything saturates at 448 * 2^127
        largest = np.abs(np.ldexp(x, power)).max()
        assert got.saturated == 1.0 and got.max_error == pytest.approx(largest, rel=1e-12)
        assert got.snr_db == pytest.approx(0.0, abs=1e-12)
    assert plain.snr_db is not None and plain.snr_db > 20


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.float16, 16), (ml_dtypes.bfloat16, 16), (np.float32, 32), (np.float64, 64)]
)
def test_exponents_are_exact_down_to_the_smallest_subnormal(dtype: Any, bits: int) -> None:
    patterns = np.random.default_rng(0).integers(0, 2**63, 400).astype(f"u{bits // 8}")
    small = np.arange(20, dtype=patterns.dtype)
    sign = patterns.dtype.type(1 << (bits - 1))
    with np.errstate(invalid="ignore"):
        x = np.concatenate([patterns, small, small | sign]).view(dtype)
    counts: dict[int, int] = {}
    zeros = nonfinite = 0
    for value in x:
        number = float(value)
        if not math.isfinite(number):
            nonfinite += 1
        elif number == 0:
            zeros += 1
        else:
            exact = abs(Fraction(number))
            exponent = exact.numerator.bit_length() - exact.denominator.bit_length()
            exponent -= exact < Fraction(2) ** exponent
            counts[exponent] = counts.get(exponent, 0) + 1
    histogram = sq.rank(x, "bf16").histogram
    assert dict(zip(histogram.exponents, histogram.counts, strict=True)) == counts
    assert list(histogram.exponents) == sorted(counts)
    assert (histogram.zeros, histogram.nonfinite) == (zeros, nonfinite) and zeros == 2


def test_zeros_and_losses_are_those_of_the_numbers_themselves() -> None:
    """Sums of squares are taken of scaled numbers, which may lose what is far below the largest."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (row,) = sq.rank(np.float64([2.0**100, 2.0**-80]), ["bf16"]).rows
        assert row.zeros == 0 and row.snr_db == math.inf
        wide = sq.Format("wide", sq.ElementFormat(exponent_bits=3, bias=-256))
        (row,) = sq.rank(np.float64([2.0**-1000]), [wide], rounding="up").rows
        assert row.note == "errors too large to measure" and row.zeros == 0


def test_json_has_no_number_that_is_not_finite() -> None:
    ranking = sq.rank(np.float64([2.0**-1000]), ["fp16"], rounding="up")
    record = json.loads(ranking.to_json())
    assert record["rows"][0]["snr_db"] is None and "Infinity" not in ranking.to_json()


def test_stochastic_rounding_is_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="needs random bits"):
        sq.rank(np.ones(4, np.float32), ["mxfp4"], rounding="stochastic")


def test_json_says_what_the_record_says() -> None:
    x = normal(2, 64)
    x[0, 0] = np.nan
    for ranking in (sq.rank(x), sq.rank(np.zeros(4, np.float32)), sq.rank(x[:, :0]), sq.rank(x, scale_rule="ceil")):
        data = json.loads(ranking.to_json())
        assert data == ranking.to_dict()
        assert data["shape"] == list(ranking.shape or ()) and data["dtype"] == "float32"
        assert data["best"] == (ranking.best.name if ranking.best else None)
        assert data["histogram"]["counts"] == list(ranking.histogram.counts)
        for row, made in zip(data["rows"], ranking.rows, strict=True):
            assert row["snr_db"] == (None if made.snr_db == math.inf else made.snr_db)
            assert all(row[name] == getattr(made, name) for name in NUMBERS)


def test_the_table_has_a_line_per_row_and_percentages() -> None:
    ranking = sq.rank(np.float32([[7.5, 1.0, -0.25, 0.0]]), ["mxfp4", "mxfp8"])
    lines = str(ranking).splitlines()
    assert lines[0] == "1x4 float32, 4 elements, axis -1"
    cells = [cell.strip() for cell in next(line for line in lines if "mxfp4" in line).split("│")][1:-1]
    # 7.5 becomes 6 and -0.25 becomes -0: errors -1.5 and 0.25.
    snr = 10 * math.log10((7.5**2 + 1 + 0.25**2) / (1.5**2 + 0.25**2))
    assert cells == [
        "mxfp4", "*", "6", f"{snr:.2f}", "0.2", f"{10 ** (-snr / 20):.3g}", "1.5", "-0.31", "25%", "25%", "50%"
    ]  # fmt: skip
    assert ranking.table().row_count == 2
    assert lines[-2:] == ["exponents: -2 to 2, most often -2", "zeros in the input: 1"]


# Plots


SIGNATURES = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_a_plot_is_a_file_of_its_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plot{suffix}"
    sq.rank(normal(8, 64)).plot(str(path))
    assert path.read_bytes().startswith(SIGNATURES[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def crowded() -> list[sq.Spec]:
    return [sq.spec(name, block=b) for name in ("mxfp4", "mxfp6", "mxfp8", "hbfp4", "hbfp6") for b in (8, 16, 32, 64)]


@pytest.mark.parametrize(
    ("x", "formats"),
    [
        (normal(64, 256), None),
        (normal(64, 256), crowded()),
        (np.float32([[7.5, 1.0, -0.25, 0.0]]), None),
        (np.zeros((2, 64), np.float32), None),
    ],
)
def test_labels_name_every_point_and_do_not_overlap(x: Array, formats: Any) -> None:
    ranking = sq.rank(x, formats)
    figure = ranking_plot.figure_of(ranking)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    labels = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in labels) == sorted(row.name for row in ranking.rows)
    # Of the text alone: an annotation's own extent counts its line.
    boxes = [Text.get_window_extent(text) for text in labels]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.padded(-0.5).overlaps(b.padded(-0.5))]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 <= box.y1 <= frame.y1 for box in boxes)


@pytest.mark.parametrize("x", [np.zeros((0, 4), np.float32), np.full(4, np.nan, np.float32)])
def test_a_ranking_without_points_is_drawn_too(tmp_path: Path, x: Array) -> None:
    sq.rank(x).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(SIGNATURES[".png"])


def test_plots_without_matplotlib_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = sq.rank(normal(2, 64), "mxfp4")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sparq_sim\[plot\]'"):
        ranking.plot(tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"), [("plot.jpg", r"needed a file named \*.png"), ("no/plot.png", "cannot write there")]
)
def test_plots_that_cannot_be_written_are_errors(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sq.rank(normal(2, 64), "mxfp4").plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Figure, file: Any, **__: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "plot.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(ValueError, match=r"plot\.png: cannot be written \(disk full\)"):
        sq.rank(normal(2, 64), "mxfp4").plot(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


# The command line


def rank(*arguments: object, code: int = 0) -> Done:
    return sparq("rank", *arguments, code=code)


def test_the_command_prints_the_ranking_of_the_tensor(tmp_path: Path) -> None:
    x = normal(6, 80)
    np.save(tmp_path / "x.npy", x)
    arguments = [tmp_path / "x.npy", "-f", "mxfp4", "-f", "int8", "--sparsity", "2:4", "--axis", "0"]
    arguments += ["--choice", "rounding=toward_zero", "--threads", "1"]
    data = json.loads(rank(*arguments, "--json", "--plot", tmp_path / "x.png").stdout)
    wanted = sq.rank(x, ["mxfp4", "int8"], axis=0, sparsity="2:4", rounding="toward_zero").to_dict()
    assert data == {**wanted, "name": "x.npy"}
    assert (tmp_path / "x.png").read_bytes().startswith(SIGNATURES[".png"])
    assert "x.npy: 6x80 float32, 480 elements, axis 0, sparsity=2:4" in rank(*arguments).stdout


def test_tensors_of_a_file_are_ranked_as_one_or_each(tmp_path: Path) -> None:
    tensors = {
        "w": torch.from_numpy(normal(6, 80)),
        "h": torch.from_numpy(normal(4, 48, seed=1)).bfloat16(),
        "b": torch.from_numpy(normal(5, seed=2)).half(),
        "i": torch.arange(3),
    }
    save_file(tensors, tmp_path / "t.safetensors")
    whole = json.loads(rank(tmp_path / "t.safetensors", "--json").stdout)
    each = json.loads(rank(tmp_path / "t.safetensors", "--each", "--json").stdout)
    assert [ranking["name"] for ranking in each] == [f"t.safetensors {name}" for name in "bhw"]
    for ranking, name in zip(each, "bhw", strict=True):
        assert ranking == {**sq.rank(tensors[name]).to_dict(), "name": ranking["name"]}
    assert (whole["elements"], whole["tensors"], whole["shape"]) == (480 + 192 + 5, 3, None)
    assert whole["dtype"] == "bfloat16, float16, float32"
    for row in whole["rows"]:
        parts = [(tensors[n].double().numpy(), sq.emulate(tensors[n], row["spec"].split()[0], dtype="float64").numpy())
                 for n in "bhw"]  # fmt: skip
        x, y = (np.concatenate([part[i].ravel() for part in parts]) for i in (0, 1))
        assert row["snr_db"] == pytest.approx(10 * np.log10((x**2).sum() / ((y - x) ** 2).sum()), rel=1e-12)
        bits = sum(
            next(r for r in ranking["rows"] if r["spec"] == row["spec"])["bits_per_element"] * ranking["elements"]
            for ranking in each
        )
        assert row["bits_per_element"] == pytest.approx(bits / whole["elements"], rel=1e-14)
    one = json.loads(rank(tmp_path / "t.safetensors", "--tensor", "h", "--json").stdout)
    assert one == each[1]
    assert "left out, not floats: i" in rank(tmp_path / "t.safetensors", "-f", "mxfp4").stdout


def test_a_refusal_in_a_file_names_the_tensor() -> None:
    from sparq_sim.rank import rank_tensors

    plain = sq.Format("plain", sq.elements()["e2m1"].record)
    sources = {
        name: files.Named(x, "float32").source() for name, x in (("a", normal(4)), ("b", np.float32([np.nan, 1])))
    }
    row = named(rank_tensors(sources, [plain, "bf16"]), "plain")
    assert row.refused and row.note.startswith("b: x has NaN or Inf")


def test_bfloat16_files_of_numpy_are_read_as_such(tmp_path: Path) -> None:
    x = normal(6, 80).astype(ml_dtypes.bfloat16)
    files.write_tensors(tmp_path / "x.npz", {"x": files.Named(x.view(np.uint16), "bfloat16")}, {})
    data = json.loads(rank(tmp_path / "x.npz", "--json").stdout)
    assert data == {**sq.rank(x).to_dict(), "name": "x.npz x"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.npz", "-f", "mxfp5"], "unknown format 'mxfp5'; known: mxfp8, "),
        (["x.npz", "--tensor", "c"], "no tensor 'c'; there are: 'a', 'b', 'n'"),
        (["x.npz", "--tensor", "n"], "holds int64; needed a tensor of float16"),
        (["x.npz", "--choice", "rounding"], "needed name=word"),
        (["x.npz", "--choice", "rounding=upward"], "choose one of nearest_even"),
        (["x.npz", "--axis", "2"], "a: axis=2: the array has 2 axes"),
        (["x.npz", "--sparsity", "5:4"], "1 <= N <= M"),
        (["x.npz", "--threads", "0"], "threads=0: needed a positive integer"),
        (["x.npz", "--plot", "x.jpg"], "needed a file named *.png, *.svg, *.pdf"),
        (["x.npz", "--plot", "no/x.png"], "cannot write there"),
        (["x.npz", "--plot", "x.png", "--each"], "--plot draws one ranking"),
        (["cut.npz"], "not a readable npz file"),
        (["none.npz"], "no such file"),
        (["x.txt"], "needed a file named *.npy"),
    ],
)
def test_wrong_arguments_of_the_command_are_one_line_of_error(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    np.savez(tmp_path / "x.npz", a=normal(2, 64), b=normal(2, 3), n=np.arange(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
    given = [tmp_path / a if a.endswith((".npz", ".txt", ".png", ".jpg")) else a for a in arguments]
    stderr = rank(*given, code=2).stderr
    assert message in stderr and len(stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.npz", "x.npz"]


@pytest.mark.parametrize(
    ("nonfinite", "infinite"),
    [("poison", "same"), ("ignore", "same"), ("largest", "same"), ("zero", "same"), ("poison", "largest"),
     ("ignore", "largest")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["fp8_e4m3", "int8_affine_tensor", "nvfp4", "mxfp4"])
@pytest.mark.parametrize("special", [(np.nan,), (np.inf,), (-np.inf, np.nan)])
def test_scales_of_a_whole_tensor_see_what_is_no_number_as_emulate_does(
    name: str, nonfinite: str, infinite: str, special: tuple[float, ...]
) -> None:
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    x.flat[: len(special)] = special
    block = {"block": "tensor"} if name == "mxfp4" else {}
    spec = sq.spec(name, nonfinite=nonfinite, infinite=infinite, **block)
    (row,) = sq.rank(x, [spec]).rows
    if name == "int8_affine_tensor" and nonfinite == "largest" and len(special) == 2:
        assert row.refused  # from one end of float32 to the other
        return
    wanted = sq.emulate(x, spec, dtype="float64", inexact="round")
    assert not row.refused
    assert row.zeros == np.count_nonzero(wanted == 0) / x.size
