"""N:M sparsity against the oracle: patterns, ties, scores, NaN, zeros, tails, axes, masks and both orders."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle
import sparq_sim as sq
from conftest import (
    CARRIERS,
    ISAS,
    Array,
    assert_same_bits,
    assert_same_integers,
    bits_of,
    carrier_of,
    forced_isa,
    from_bits,
    oracle_quantize,
)
from oracle import BLOCK_FORMATS, ELEMENTS

PATTERNS = [
    *((n, m) for m in range(1, 9) for n in range(1, m + 1)),
    *(
        (1, 16),
        (4, 16),
        (7, 13),
        (8, 16),
        (11, 17),
        (16, 16),
        (2, 31),
        (30, 31),
        (1, 32),
        (16, 32),
        (31, 32),
        (32, 32),
    ),
]


def palette(carrier: str) -> list[int]:
    """Few patterns, so that ties abound: zeros, ones, subnormals, the largest, Inf and NaNs of both signs."""
    element = ELEMENTS[carrier]
    m = element.mantissa_bits
    one = element.bias << m
    infinity = element.infinity_code
    assert infinity is not None
    found = [
        0,
        1,
        2,
        (1 << m) - 1,
        1 << m,
        one,
        one + 1,
        one + (1 << m),
        infinity - 1,
        infinity,
        infinity + 1,
    ]
    found += [infinity | (1 << (m - 1)), infinity | ((1 << m) - 1)]
    return [*found, *(bits | (1 << (element.width - 1)) for bits in found)]


def tied_array(rng: np.random.Generator, carrier: str, shape: tuple[int, ...]) -> Array:
    choices = palette(carrier)
    # Per array a few of the palette only, so that ties of every kind and number occur.
    some = rng.choice(choices, int(rng.integers(1, 8)))
    return from_bits(rng.choice(some, shape), carrier)


def numbers_of(x: Array) -> list[oracle.Number]:
    element = ELEMENTS[carrier_of(x)]
    return [oracle.decode(element, int(bits)) for bits in bits_of(x).ravel()]


def wanted_lines(
    x: Array, pattern: tuple[int, int], ties: str, score: Array | None, axis: int
) -> tuple[Array, Array, int]:
    """Mask, value bits and ties of an array, line by line."""
    n, m = pattern
    moved, moved_score = np.moveaxis(x, axis, -1), None if score is None else np.moveaxis(score, axis, -1)
    mask = np.zeros(moved.shape, bool)
    values = np.zeros(moved.shape, bits_of(x).dtype)
    count = 0
    for place in np.ndindex(moved.shape[:-1]):
        line = numbers_of(moved[place])
        ranked = None if moved_score is None else numbers_of(moved_score[place])
        keep = oracle.sparsify(line, n, m, ties, ranked)
        mask[place] = keep
        values[place] = oracle.apply_mask(bits_of(moved[place]).tolist(), carrier_of(x), keep)
        ranks = [oracle.rank(v) for v in (ranked or map(oracle.absolute, line))]
        count += oracle.tied_groups(ranks, keep, m)
    return np.moveaxis(mask, -1, axis), np.moveaxis(values, -1, axis), count


@pytest.mark.parametrize("ties", oracle.TIES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: f"{p[0]}:{p[1]}")
def test_the_kept_elements_are_the_oracle_s(pattern: tuple[int, int], ties: str, isa: str) -> None:
    n, m = pattern
    rng = np.random.default_rng(m * 33 + n)
    for number, carrier in enumerate(CARRIERS):
        length = int(rng.integers(1, 3 * m + 2))
        shape, axis = [((5, length), 1), ((length, 5), 0), ((2, length, 2), 1), ((length,), 0)][number]
        x = tied_array(rng, carrier, shape)
        score = tied_array(rng, ["fp64", "bf16", "fp32", "fp16"][number], shape) if (n + m) % 2 else None
        mask, values, count = wanted_lines(x, pattern, ties, score, axis)
        events = sq.Events()
        got, kept = sq.sparsify(x, f"{n}:{m}", axis=axis, ties=ties, score=score, events=events)
        assert kept.dtype == bool and np.array_equal(kept, mask)
        assert_same_integers(bits_of(got), values, "values")
        assert events == sq.Events(ties=count)


@settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_pattern_keeps_what_the_oracle_keeps(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    m = data.draw(st.integers(1, 32))
    pattern = (data.draw(st.integers(1, m)), m)
    shape = (*data.draw(st.lists(st.integers(1, 3), max_size=2)), data.draw(st.integers(1, 70)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    carrier = data.draw(st.sampled_from(sorted(CARRIERS)))
    ties = data.draw(st.sampled_from(oracle.TIES))
    if data.draw(st.booleans()):
        x = tied_array(rng, carrier, shape)
    else:
        x = from_bits(rng.integers(0, 1 << 16, shape, dtype=np.uint64) << (ELEMENTS[carrier].width - 16), carrier)
    mask, values, count = wanted_lines(x, pattern, ties, None, axis)
    for name in ISAS:
        with forced_isa(name):
            events = sq.Events()
            threads = int(rng.integers(1, 5))
            got, kept = sq.sparsify(
                np.asfortranarray(x),
                "{}:{}".format(*pattern),
                axis=axis,
                ties=ties,
                events=events,
                threads=threads,
            )
            assert np.array_equal(kept, mask)
            assert_same_integers(bits_of(got), values, "values")
            assert events == sq.Events(ties=count)


def test_every_arrangement_of_a_small_group_is_pruned_as_the_oracle_does(isa: str) -> None:
    values = np.float32([0.0, -0.0, 1.0, -1.0, np.inf, np.nan])
    grid = np.array(np.meshgrid(*[values] * 4)).reshape(4, -1).T.copy()
    if isa == "reference":
        grid = grid[::7]
    for ties in oracle.TIES:
        for n in (1, 2, 3):
            _, kept = sq.sparsify(grid, f"{n}:4", ties=ties)
            for row, keep in zip(grid, kept, strict=True):
                assert keep.tolist() == oracle.sparsify(numbers_of(row), n, 4, ties), (row, n, ties)


def test_neighbouring_magnitudes_are_told_apart(isa: str) -> None:
    for carrier in CARRIERS:
        element = ELEMENTS[carrier]
        infinity = element.infinity_code
        assert infinity is not None
        rng = np.random.default_rng(3)
        bits = np.arange(0, infinity, max(1, infinity // 400), dtype=np.uint64)
        sign = np.uint64(1 << (element.width - 1))
        pairs = np.stack([bits | sign * rng.integers(0, 2, bits.size, dtype=np.uint64), bits + np.uint64(1)], axis=1)
        _, kept = sq.sparsify(from_bits(pairs, carrier), "1:2")
        assert (kept == [False, True]).all()


def test_a_ragged_tail_keeps_as_many_as_fit(isa: str) -> None:
    x = np.float32([5, 4, 3, 2, 1])
    for n, kept in ((1, [1, 0, 0, 0, 1]), (2, [1, 1, 0, 0, 1]), (3, [1, 1, 1, 0, 1])):
        assert sq.sparsify(x, f"{n}:4")[1].astype(int).tolist() == kept
    assert sq.sparsify(x[:3], "4:4")[1].all() and sq.sparsify(x[:3], "5:8")[1].all()


def test_groups_start_anew_at_each_line(isa: str) -> None:
    x = np.float32([[1, 2, 3], [4, 5, 6]])
    assert sq.sparsify(x, "1:2")[1].astype(int).tolist() == [[0, 1, 1], [0, 1, 1]]
    assert sq.sparsify(x, "1:2", axis=0)[1].astype(int).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_score_counts_its_sign_and_its_own_dtype(isa: str) -> None:
    x = np.float32([9, 1, 1, 1])
    for dtype in (np.float16, np.float32, np.float64):
        score = np.array([-5, 0, -0.0, -np.inf], dtype)
        assert sq.sparsify(x, "1:4", score=score)[0].tolist() == [0, 1, 0, 0]
        assert sq.sparsify(x, "1:4", score=score, ties="highest_index")[1].tolist() == [
            False,
            False,
            True,
            False,
        ]
        assert sq.sparsify(x, "3:4", score=score)[0].tolist() == [9, 1, 1, 0]
    fine = np.array([1 + 2.0**-50, 1, 1 - 2.0**-50, 1 + 2.0**-51])
    assert sq.sparsify(x, "1:4", score=fine)[1].tolist() == [True, False, False, False]
    nan = np.array([1, np.nan, -np.nan, np.inf], np.float32)
    assert sq.sparsify(x, "2:4", score=nan)[1].tolist() == [False, True, True, False]


@pytest.mark.parametrize("layout", ["fortran", "reversed", "byte order", "unaligned", "broadcast"])
def test_the_layout_of_a_score_changes_nothing(layout: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 8)).astype(np.float32)
    score = rng.standard_normal((6, 8)).astype(np.float32)
    if layout == "broadcast":
        score = np.broadcast_to(score[0], score.shape).copy()
    other = {
        "fortran": np.asfortranarray(score),
        "reversed": score[::-1, ::-1].copy()[::-1, ::-1],
        "byte order": score.astype(">f4"),
        "unaligned": np.frombuffer(b"x" + score.tobytes(), np.uint8)[1:].view(np.float32).reshape(6, 8),
        "broadcast": np.broadcast_to(score[0], score.shape),
    }[layout]
    for source in (x, np.asfortranarray(x)):
        wanted = sq.sparsify(source, "2:4", score=score)
        got = sq.sparsify(source, "2:4", score=other)
        assert np.array_equal(got[1], wanted[1])
        assert_same_bits(got[0], wanted[0])


def test_a_score_may_be_a_tensor_of_another_dtype() -> None:
    x = torch.tensor([1.0, 2, 3, 4])
    score = torch.tensor([4.0, 3, 2, 1], dtype=torch.bfloat16)
    values, mask = sq.sparsify(x, "2:4", score=score)
    assert values.tolist() == [1, 2, 0, 0] and mask.tolist() == [True, True, False, False]


def test_pruned_elements_are_positive_zeros_and_the_input_stays(isa: str) -> None:
    for carrier in CARRIERS:
        x = from_bits(palette(carrier), carrier)
        before = bits_of(x).copy()
        values, mask = sq.sparsify(x, "1:3")
        assert not bits_of(values)[~mask].any()
        assert np.array_equal(bits_of(x), before)


# Ties as torch.topk has them


def kept_by_torch(x: Any, n: int) -> Array:
    """The mask of the indices that torch.topk gives, of magnitudes or scores."""
    mask = torch.zeros(x.shape, dtype=torch.bool)
    return mask.scatter_(-1, x.topk(n, dim=-1).indices, True).numpy()


def assert_kept_as_by_torch(rows: Array, n: int) -> None:
    """Rows of one group each, of small numbers, which every dtype holds."""
    m = rows.shape[-1]
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        x = torch.from_numpy(rows).to(dtype)
        _, mask = sq.sparsify(x, f"{n}:{m}", ties="topk")
        assert np.array_equal(mask.numpy(), kept_by_torch(x.abs(), n)), (dtype, n, m)


@pytest.mark.parametrize(
    ("values", "m"),
    [
        ([0.0, 1.0, -1.0, 2.0, np.inf, np.nan], 4),
        ([0.0, -0.0, 1.0, 2.0, -3.0], 4),
        ([1.0, -2.0, 3.0], 5),
        ([1.0, 2.0, 3.0], 6),
        ([1.0, 2.0], 8),
    ],
)
def test_every_small_group_keeps_what_torch_keeps(values: list[float], m: int, isa: str) -> None:
    grid = np.array(np.meshgrid(*[np.float32(values)] * m)).reshape(m, -1).T.copy()
    for n in range(1, m + 1):
        assert_kept_as_by_torch(grid[:: 5 if isa == "reference" else 1], n)


def test_groups_full_of_ties_keep_what_torch_keeps_in_every_pattern(isa: str) -> None:
    rng = np.random.default_rng(11)
    for m in range(1, 33):
        for n in range(1, m + 1):
            rows = rng.integers(0, rng.integers(1, 7), (6 if isa == "reference" else 40, m)).astype(np.float32)
            rows[rng.random(rows.shape) < 0.02] = np.nan
            assert_kept_as_by_torch(rows * rng.choice([-1, 1], rows.shape), n)


class Undecided:
    """A rank above all decided ones, until a comparison with another such rank decides it or the other, as McIlroy's
    "A killer adversary for quicksort" does: pivots become the lowest that are left."""

    decided = 0
    candidate: Undecided | None = None

    def __init__(self) -> None:
        self.rank: int | None = None

    def __lt__(self, other: Undecided) -> bool:
        if self.rank is None and other.rank is None:
            chosen = self if self is Undecided.candidate else other
            chosen.rank = Undecided.decided
            Undecided.decided += 1
        if self.rank is None or other.rank is None:
            Undecided.candidate = self if self.rank is None else other
            return other.rank is None
        return self.rank < other.rank


class Descending(Undecided):
    """The same, the other way up."""

    def __lt__(self, other: Undecided) -> bool:
        return Undecided.__lt__(other, self)


def badly_split(m: int, n: int, kind: type[Undecided]) -> list[int]:
    """Ranks whose every split cuts off as little as can be."""
    Undecided.decided, Undecided.candidate = 0, None
    ranks = [kind() for _ in range(m)]
    oracle.topk(ranks, n)
    sign = 1 if kind is Undecided else -1
    return [sign * (m if one.rank is None else one.rank) for one in ranks]


@cache
def bad_rows() -> dict[tuple[int, int], Array]:
    """By pattern, rows that end in the heap and in which it decides, as they are and with neighbouring ranks made
    equal."""
    rng = np.random.default_rng(8)
    sizes: list[tuple[int, int]] = []
    heap = oracle.topk_heap

    def noted(ranks: Any, stretch: list[int], kept: int) -> list[int]:
        sizes.append((len(stretch), kept))
        return heap(ranks, stretch, kept)

    found: dict[tuple[int, int], list[list[int]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "topk_heap", noted)
        for n, m in [(kept, group) for group in range(15, 33) for kept in range(1, group)]:
            for kind in (Undecided, Descending):
                ranks = np.array(badly_split(m, n, kind))
                levels = np.unique(ranks)
                for share in (1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4):
                    level = np.cumsum(rng.random(levels.size) < share)[np.searchsorted(levels, ranks)]
                    sizes.clear()
                    oracle.topk(level.tolist(), n)
                    if sizes and sizes[0][1] < sizes[0][0]:
                        found.setdefault((n, m), []).append(level.tolist())
    return {pattern: np.array(rows, np.float32) for pattern, rows in found.items()}


def boundaries_tied(rows: Array, n: int) -> Array:
    ranked = np.sort(rows, axis=-1)[:, ::-1]
    return ranked[:, n - 1] == ranked[:, n]


def test_groups_that_split_badly_keep_what_torch_keeps(isa: str) -> None:
    for (n, _), rows in bad_rows().items():
        assert_kept_as_by_torch(rows, n)


def test_the_groups_that_split_badly_are_many_and_have_ties() -> None:
    rows = bad_rows()
    assert min(m for _, m in rows) == 15 and max(m for _, m in rows) == 32
    assert sum(map(len, rows.values())) > 1000
    assert sum(int(boundaries_tied(found, n).sum()) for (n, _), found in rows.items()) > 100


def test_ties_of_scores_tails_and_units_are_those_of_torch(isa: str) -> None:
    rng = np.random.default_rng(12)
    x = rng.integers(-2, 3, (20, 8)).astype(np.float32)
    score = torch.from_numpy(rng.integers(-2, 3, (20, 8)).astype(np.float32))
    for n in range(1, 8):
        assert np.array_equal(sq.sparsify(x, f"{n}:8", score=score, ties="topk")[1], kept_by_torch(score, n))
        # A tail of five after a group of eight.
        both = np.concatenate([x, x[::-1, :5]], axis=1)
        _, mask = sq.sparsify(both, f"{n}:8", ties="topk")
        assert np.array_equal(mask[:, :8], kept_by_torch(torch.from_numpy(np.abs(x)), n))
        assert np.array_equal(mask[:, 8:], kept_by_torch(torch.from_numpy(np.abs(both[:, 8:])), min(n, 5)))
    for n in (1, 2, 3):
        units = torch.from_numpy(np.abs(x)).reshape(20, 4, 2).amax(-1)
        wanted = kept_by_torch(units, n).repeat(2, axis=-1)
        assert np.array_equal(sq.sparsify(x, f"{2 * n}:8/2", ties="topk")[1], wanted)


def test_a_mask_of_topk_is_what_a_tensor_is_encoded_by(isa: str) -> None:
    x = np.random.default_rng(13).integers(-3, 4, (16, 64)).astype(np.float32)
    mask = kept_by_torch(torch.from_numpy(np.abs(x)).view(-1, 4), 2).reshape(x.shape)
    events = sq.Events()
    own, given = sq.encode(x, "mxfp4", sparsity="2:4", ties="topk", events=events), sq.encode(x, "mxfp4", mask=mask)
    assert np.array_equal(own.mask, mask) and own.codes.tobytes() == given.codes.tobytes()
    groups = np.sort(np.abs(x).reshape(-1, 4), axis=-1)
    assert events.ties == (groups[:, 1] == groups[:, 2]).sum()
    # Ties of values that are made first are those of torch too.
    values = torch.from_numpy(sq.emulate(x / 7, "mxfp4"))
    last = sq.encode(x / 7, "mxfp4", sparsity="2:4", ties="topk", order="quantize_first")
    assert np.array_equal(last.mask, kept_by_torch(values.abs().view(-1, 4), 2).reshape(x.shape))


# With a format


@pytest.mark.parametrize("order", oracle.ORDERS)
@pytest.mark.parametrize(
    "name", ["mxfp4", "mxfp8_e5m2", "mxint8", "hbfp6", "int8", "fp8_e4m3", "fp16", "msfp13", "int4_g128"]
)
def test_patterns_and_masks_in_both_orders_are_the_oracle_s(name: str, order: str, isa: str) -> None:
    rng = np.random.default_rng(len(name))
    fmt = BLOCK_FORMATS[name]
    for carrier in CARRIERS:
        x = (rng.standard_normal((3, 37)) * 2.0 ** rng.integers(-4, 5, (3, 37))).astype(CARRIERS[carrier][0])
        x[rng.random(x.shape) < 0.1] = 0
        mask = rng.random(x.shape) < 0.5
        for axis in (0, 1):
            ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
                ({"sparsity": (2, 4), "ties": "highest_index"}, {"sparsity": "2:4", "ties": "highest_index"}),
                ({"sparsity": (3, 7)}, {"sparsity": "3:7"}),
                ({"mask": mask}, {"mask": mask}),
                ({"mask": mask}, {"mask": mask.astype(np.uint8)}),
                ({"mask": mask}, {"mask": np.asfortranarray(mask)}),
            ]
            for theirs, ours in ways:
                wanted = oracle_quantize(x, fmt, axis=axis, order=order, inexact="round", **theirs)
                events = sq.Events()
                got = sq.encode(x, name, axis=axis, order=order, events=events, **ours)
                assert got.mask is not None and np.array_equal(got.mask, wanted.mask)
                assert_same_integers(got.codes, wanted.codes, name)
                assert_same_integers(bits_of(got.decode(inexact="round")), wanted.values, name)
                assert vars(events) == wanted.events


def test_a_mask_of_torch_serves_a_tensor_and_an_array() -> None:
    x = np.float32([1, 2, 3, 4])
    mask = np.array([True, False, True, False])
    wanted = sq.emulate(x, "mxfp4", mask=mask)
    assert wanted.tolist() == [1, 0, 3, 0]
    for source in (x, torch.from_numpy(x)):
        assert_same_bits(sq.emulate(source, "mxfp4", mask=torch.from_numpy(mask)), wanted)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("order", oracle.ORDERS)
def test_a_mask_may_keep_all_or_nothing(keep: bool, order: str, isa: str) -> None:
    x = np.float32([1.3, -7.5, np.nan, 0.1, 2, 3])
    got = sq.encode(x, "mxfp4", block=3, mask=np.full(6, keep), order=order)
    if keep:
        assert_same_bits(got.decode(), sq.emulate(x, "mxfp4", block=3))
    else:
        assert not got.codes.any()
        poisoned = order == "quantize_first"
        assert np.isnan(got.decode()).tolist() == [poisoned] * 3 + [False] * 3


def test_a_pruned_element_is_seen_by_no_scale_when_pruning_comes_first(isa: str) -> None:
    x = np.float32([100, np.inf, 0.5, 0.25])
    mask = np.array([False, False, True, True])
    events = sq.Events()
    got = sq.encode(x, "mxfp4", mask=mask, events=events)
    assert got.scales is not None and got.scales.tolist() == [127 - 1 - 2]
    assert got.decode().tolist() == [0, 0, 0.5, 0.25]
    assert events == sq.Events()


def test_a_poisoned_block_stays_poisoned_when_quantizing_comes_first(isa: str) -> None:
    x = np.float32([100, np.inf, 0.5, 0.25, 1, 2, 3, 4])
    events = sq.Events()
    got = sq.encode(x, "mxfp4", block=4, sparsity="2:4", order="quantize_first", events=events)
    assert got.mask is not None and got.mask.tolist() == [True, True, False, False, False, False, True, True]
    assert np.isnan(got.decode()[:4]).all() and got.decode()[4:].tolist() == [0, 0, 3, 4]
    assert events == sq.Events(nonfinite=1, ties=1)
