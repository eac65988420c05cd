"""probe: outputs that add differently by place are told apart, and one place can be looked into."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import sparq_sim as sq

Products = np.ndarray[Any, np.dtype[np.float32]]


def forward(p: Products) -> Products:
    """Sums along the last axis in float32, one after the other."""
    total = p[..., 0]
    for place in range(1, p.shape[-1]):
        total = total + p[..., place]
    return total


def backward(p: Products) -> Products:
    return forward(p[..., ::-1])


def pairwise(p: Products) -> Products:
    half = p.shape[-1] // 2
    return pairwise(p[..., :half]) + pairwise(p[..., half:]) if half else p[..., 0]


def multiplied(a: Any, b: Any) -> Products:
    """[M, N, K]; products of float16 are float32 numbers."""
    made: Products = np.float32(a)[:, None, :] * np.float32(b)[None, :, :]
    return made


def mixed(a: Any, b: Any) -> Products:
    """Odd columns in pairs; of the others the first eight rows forward, the others backward."""
    p = multiplied(a, b)
    made = np.concatenate([forward(p[:8]), backward(p[8:])])
    made[:, 1::2] = pairwise(p)[:, 1::2]
    return made


def tree_line(found: sq.Probe) -> str:
    return found.lines()[-2]


def test_places_that_add_in_other_orders_are_named_with_those_that_agree_with_them() -> None:
    found = sq.probe(mixed, 16)
    assert found.ways is not None
    wanted = np.zeros((16, 16), np.int64)
    wanted[:8, ::2], wanted[8:, ::2] = 1, 2
    assert np.array_equal(found.ways.numbers, wanted)
    shown = str(found)
    assert "places     outputs of the same terms differ by place, in 3 ways; way 0 is described here" in shown
    assert "way 0      rows 0..15 x columns 1, 3, 5, 7, 9, ..., 15 (128 places)" in shown
    assert "way 2      rows 8..15 x columns 0, 2, 4, 6, 8, ..., 14 (64 places)" in shown
    # Most places add in pairs, and that is what is described.
    assert "in pairs, as a tree" in shown
    with pytest.raises(
        ValueError, match=r"no record: .* differ by place, in 3 ways; at=\(row, column\) asks one place"
    ):
        found.datapath()
    assert "no record  outputs of the same terms differ by place, in 3 ways" in shown
    assert json.loads(json.dumps(found.to_dict()))["ways"]["numbers"] == wanted.tolist()


def test_two_places_that_differ_are_shown_by_terms_that_tell_them_apart() -> None:
    found = sq.probe(mixed, 16)
    assert found.ways is not None and len(found.ways.examples) == 2
    for number, (example, places) in enumerate(zip(found.ways.examples, ([0, 0], [8, 0]), strict=True), 1):
        a, b = (np.tile(np.uint16(codes), (16, 1)).view(np.float16) for codes in (example.a, example.b))
        bits = mixed(a, b).view(np.uint32)
        other = tuple(places)
        assert found.ways.numbers[other[0]][other[1]] == number
        assert (example.first, example.second) == ("(0, 1)", str(other))
        assert (example.first_bits, example.second_bits) == (f"0x{bits[0, 1]:08X}", f"0x{bits[other]:08X}")
        assert bits[0, 1] != bits[other]


@pytest.mark.parametrize(
    ("at", "adds"),
    [
        ((0, 0), " then ".join(["0..1", *map(str, range(2, 16))])),
        ((8, 0), " then ".join(["14..15", *map(str, range(13, -1, -1))])),
        ((9, 3), None),
    ],
)
def test_one_place_shows_its_own_order(at: tuple[int, int], adds: str | None) -> None:
    found = sq.probe(mixed, 16, at=at)
    assert f"K = 16, fp16 x fp16 -> float32, at {at}" in str(found)
    assert found.ways is not None and found.ways.numbers[at[0]][at[1]] == 0
    if adds is None:
        assert "in pairs, as a tree" in str(found) and found.datapath().reduce == "tree"
        assert found.equal == found.total == 1024
    else:
        assert tree_line(found) == adds
    if at == (0, 0):
        assert found.datapath().reduce == "fma"
    if at == (8, 0):
        with pytest.raises(ValueError, match="sums of pairs in an order that no record has"):
            found.datapath()


@pytest.mark.parametrize(
    "where",
    [
        lambda i, j: (i + j) % 2 == 0,
        lambda i, j: j < 5,
        lambda i, j: (i == 15) & (j == 15),
        lambda i, j: i == j,
    ],
)
def test_every_pattern_of_places_is_found(where: Callable[[Any, Any], Any]) -> None:
    inside = where(*np.indices((16, 16)))

    def box(a: Any, b: Any) -> Products:
        p = multiplied(a, b)
        return np.where(inside, backward(p), pairwise(p))

    found = sq.probe(box, 16)
    assert found.ways is not None
    most = inside if inside.sum() > 128 or (inside.sum() == 128 and inside[0, 0]) else ~inside
    assert np.array_equal(found.ways.numbers, (~most).astype(int))
    assert ("in pairs" in str(found)) == bool((most == ~inside).all())


@pytest.mark.parametrize("at", [None, (0, 1)])
def test_places_that_differ_in_two_neighbours_alone_are_found_by_the_tree(at: tuple[int, int] | None) -> None:
    """Few sums show it: without more of them the answers of both kinds were read as one tree, which neither has."""
    swapped = [0, 2, 1, *range(3, 16)]

    def box(a: Any, b: Any) -> Products:
        p = multiplied(a, b)
        made = forward(p)
        made[:, 1::2] = forward(p[..., swapped])[:, 1::2]
        return made

    found = sq.probe(box, 16, at=at)
    first = "0..1 then 2" if at is None else "0, 2 then 1"
    assert tree_line(found) == " then ".join([first, *map(str, range(3, 16))])
    assert found.ways is not None
    assert np.array_equal(found.ways.numbers, np.indices((16, 16))[1] % 2 ^ (at is not None))


@pytest.mark.parametrize(("machine", "before", "nodes"), [("ampere_16", 154, 8), ("fma32", 141, 63)])
def test_places_that_agree_cost_few_calls_and_no_line(machine: str, before: int, nodes: int) -> None:
    calls = 0

    def box(a: Any, b: Any) -> Any:
        nonlocal calls
        calls += 1
        return sq.matmul(a, b, datapath=machine)

    found = sq.probe(box, 64)
    assert found.ways is None and "places" not in str(found)
    assert calls == found.calls
    # 2016 pairs of terms are asked 16 at a time, and a quarter as many nodes at most; one call asks what sums hold.
    assert calls == before + 21 + min(nodes, 2016 // 16 // 4)


def test_places_may_be_masked_out() -> None:
    """As those above the diagonal of causal attention are."""

    def box(a: Any, b: Any) -> Products:
        return np.tril(forward(multiplied(a, b)))

    found = sq.probe(box, 16)
    assert found.ways is not None
    assert np.array_equal(found.ways.numbers, 1 - np.tril(np.ones((16, 16), int)))
    assert sq.probe(box, 16, at=(15, 0)).datapath().reduce == "fma"
    with pytest.raises(ValueError, match="gives 0 where the only product is 1"):
        sq.probe(box, 16, at=(0, 15))


def test_one_place_of_many_that_agree_has_the_record_of_all() -> None:
    def box(a: Any, b: Any, c: Any) -> Any:
        return sq.matmul(a, b, c=c, datapath="hopper_16")

    found = sq.probe(box, 32, c_dtype="float32", at=(2, 13), dots=100)
    assert found.ways is None and found.at == (2, 13)
    assert found.datapath().group == 16 and found.equal == found.total == 100


def test_a_function_that_answers_otherwise_when_asked_again_is_refused() -> None:
    rng = np.random.default_rng(1)

    def box(a: Any, b: Any) -> Products:
        p = multiplied(a, b)
        made = forward(p)
        made[4:, 7] = np.where(rng.random(12) < 0.5, made[4:, 7], backward(p)[4:, 7])
        return made

    with pytest.raises(ValueError, match=r"function: called again with the same operands, gives .* at \(\d+, 7\)"):
        sq.probe(box, 16)


@pytest.mark.parametrize("at", [(16, 0), (0, -1), (0,), 3, (True, 0), (0.0, 1)])
def test_a_place_outside_is_refused(at: Any) -> None:
    with pytest.raises(ValueError, match=r"at=.*: needed a row and a column, each from 0 to 15"):
        sq.probe(mixed, 16, at=at)
