"""Stochastic rounding: equal to its definition given the bits, bits that depend on place alone, no bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gfloat import RoundMode, round_float
from gfloat.formats import format_info_ocp_e2m1, format_info_ocp_e3m2, format_info_ocp_e4m3

import oracle
import sparq_sim as sq
from conftest import (
    CARRIERS,
    Array,
    assert_same_bits,
    assert_same_integers,
    forced_isa,
    from_bits,
    oracle_quantize,
    plain_format,
    scale_bits,
    user_format,
)
from oracle import BLOCK_FORMATS, ELEMENTS, BlockFormat, Element

VARIANTS = ("a", "b", "c")
STOCHASTIC: dict[str, Any] = {"rounding": "stochastic"}


# Philox


@pytest.mark.parametrize(
    ("seed", "stream", "index", "words"),
    [
        (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((1 << 64) - 1, (1 << 64) - 1, (1 << 66) - 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            0x299F31D0A4093822, 0x0370734413198A2E, 4 * 0x85A308D3243F6A88,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)  # fmt: skip
def test_the_oracle_s_philox_gives_the_known_answers_of_random123(
    seed: int, stream: int, index: int, words: list[int]
) -> None:
    assert [oracle.philox(seed, stream, index + i) for i in range(4)] == words


def test_a_shift_register_follows_its_taps() -> None:
    state, words = 0x12345678, sq.ShiftRegister(0x12345678).words(3000)
    for word in words.tolist():
        # Bits 31, 21, 1 and 0, counted; an even number shifts in a one.
        ones = sum(state >> place & 1 for place in (31, 21, 1, 0))
        state = (ones % 2 == 0) << 31 | state >> 1
        assert word == state
    assert len(set(words.tolist())) == 3000


def test_a_shift_register_hands_its_lowest_bits_to_the_elements_in_order(isa: str) -> None:
    x = np.random.default_rng(1).standard_normal((6, 40)).astype(np.float32)
    register = sq.ShiftRegister(77)
    for bits in (1, 7, 22):
        data = (register.words(x.size) & ((1 << bits) - 1)).reshape(x.shape)
        wanted = sq.emulate(x, "mxfp4", random=data, random_bits=bits, **STOCHASTIC)
        assert_same_bits(sq.emulate(x, "mxfp4", random=register, random_bits=bits, **STOCHASTIC), wanted)
        turned = sq.emulate(x.T, "mxfp4", axis=0, random=register, random_bits=bits, **STOCHASTIC)
        assert not np.array_equal(turned.T, wanted) or bits == 1


@pytest.mark.parametrize("state", [-1, 2**32 - 1, 2**40])
def test_a_state_that_no_register_has_is_refused(state: int) -> None:
    with pytest.raises(ValueError, match="needed 0 to 2\\^32 - 2"):
        sq.ShiftRegister(state)
    with pytest.raises(TypeError, match="needed an integer"):
        sq.ShiftRegister(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 2**34 - 2, 2**63 + 5])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (7, 3), ((1 << 64) - 1, 1 << 40)])
def test_words_are_the_oracle_s(seed: int, stream: int, offset: int) -> None:
    words = sq.Philox(seed, stream, offset).words(1100)
    places = [*range(12), 1021, 1022, 1023, 1024, 1025, 1099]
    assert [int(words[i]) for i in places] == [oracle.philox(seed, stream, offset + i) for i in places]


@pytest.mark.parametrize("shape", [(7, 75), (3, 4100), (1, 1), (5,), (2, 3, 64)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_philox_rounds_like_its_words_as_data(shape: tuple[int, ...], axis: int, isa: str) -> None:
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    for offset in (0, 3, 4098):
        generator = sq.Philox(5, 2, offset)
        data = (generator.words(x.size) >> (32 - 16)).reshape(shape)
        for threads in (1, 3):
            got = sq.emulate(x, "mxfp4", axis=axis, random=generator, threads=threads, **STOCHASTIC)
            assert_same_bits(got, sq.emulate(x, "mxfp4", axis=axis, random=data, **STOCHASTIC))


def test_bits_belong_to_places_of_x_however_it_lies_in_memory(isa: str) -> None:
    x = np.random.default_rng(2).standard_normal((6, 64), dtype=np.float32)
    wanted = sq.emulate(x, "mxfp6", random=sq.Philox(9), **STOCHASTIC)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], torch.from_numpy(x).T.contiguous().T):
        got = sq.emulate(other, "mxfp6", random=sq.Philox(9), **STOCHASTIC)
        assert_same_bits(np.asarray(got), wanted)
    out = np.asfortranarray(np.empty_like(x))
    sq.emulate(x, "mxfp6", random=sq.Philox(9), out=out, **STOCHASTIC)
    assert_same_bits(out, wanted)
    data = (sq.Philox(9).words(x.size) >> 16).reshape(x.shape)
    assert_same_bits(sq.emulate(x, "mxfp6", random=np.asfortranarray(data), **STOCHASTIC), wanted)


def test_a_stream_ends_with_its_last_word(isa: str) -> None:
    x = np.random.default_rng(5).standard_normal((4, 9), dtype=np.float32)
    for axis in (0, 1):
        last = sq.Philox(3, 1, 2**64 - 36)
        data = np.array([oracle.philox(3, 1, last.offset + i) >> 16 for i in range(36)]).reshape(x.shape)
        got = sq.emulate(x, "mxfp4", axis=axis, random=last, **STOCHASTIC)
        assert_same_bits(got, sq.emulate(x, "mxfp4", axis=axis, random=data, **STOCHASTIC))
        with pytest.raises(ValueError, match="reach beyond 2\\^64"):
            sq.emulate(x, "mxfp4", axis=axis, random=sq.Philox(3, 1, 2**64 - 35), **STOCHASTIC)
    with pytest.raises(ValueError, match="reach beyond 2\\^64"):
        sq.Philox(0, 0, 2**64 - 1).words(2)


def test_a_tensor_in_two_parts_rounds_as_in_one(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal((9, 96), dtype=np.float32)
    whole = sq.emulate(x, "mxfp4", random=sq.Philox(1, offset=10), **STOCHASTIC)
    parts = [
        sq.emulate(x[:4], "mxfp4", random=sq.Philox(1, offset=10), **STOCHASTIC),
        sq.emulate(x[4:], "mxfp4", random=sq.Philox(1, offset=10 + 4 * 96), **STOCHASTIC),
    ]
    assert_same_bits(np.concatenate(parts), whole)
    assert not np.array_equal(whole, sq.emulate(x, "mxfp4", random=sq.Philox(1, 1, 10), **STOCHASTIC))


# The definition


FORMATS: dict[str, BlockFormat] = {
    "mxfp4": BLOCK_FORMATS["mxfp4"],
    "mxfp8_e4m3": BLOCK_FORMATS["mxfp8_e4m3"],
    "mxint8": BLOCK_FORMATS["mxint8"],
    "hbfp4": BLOCK_FORMATS["hbfp4"],
    "int8": BLOCK_FORMATS["int8"],
    "fp8_e5m2": BLOCK_FORMATS["fp8_e5m2"],
    "bf16": BLOCK_FORMATS["bf16"],
    "fp16": BLOCK_FORMATS["fp16"],
    "e4m3 alone": BlockFormat(ELEMENTS["e4m3"], overflow="special"),
    "e3m0": BlockFormat(Element(3, 0, 3)),
    "fp32": BlockFormat(ELEMENTS["fp32"], overflow="special"),
}


def tensor(carrier: str, kind: str, rng: np.random.Generator) -> Array:
    """Two lines of numbers of a kind."""
    element = ELEMENTS[carrier]
    if kind == "any bits":
        patterns = rng.integers(0, 1 << element.width, 2 * 70, dtype=np.uint64)
        x = from_bits(patterns.astype(CARRIERS[carrier][1]), carrier)
        with np.errstate(invalid="ignore"):
            x = np.where(np.isfinite(x.astype(np.float64)), x, np.ones((), x.dtype))
        return x.reshape(2, 70)
    spread = {"near one": 1, "tiny": 40, "wide": 12}[kind]
    low = {"near one": 0, "tiny": -130, "wide": -6}[kind]
    values = rng.standard_normal((2, 70)) * 2.0 ** rng.integers(low, low + spread, (2, 70))
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(CARRIERS[carrier][0])


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("name", FORMATS)
def test_given_the_bits_every_element_is_the_oracle_s(name: str, carrier: str, isa: str) -> None:
    fmt = FORMATS[name]
    rng = np.random.default_rng(len(name) + len(carrier))
    for number, kind in enumerate(("near one", "tiny", "wide", "any bits")):
        for variant in VARIANTS:
            bits = (1, 2, 5, 8, 16, 22)[(number + VARIANTS.index(variant) + len(name)) % 6]
            x = tensor(carrier, kind, rng)
            random = rng.integers(0, 1 << bits, x.shape, dtype=np.uint32)
            random[0, :8] = (1 << bits) - 1
            random[1, :8] = 0
            words: dict[str, Any] = {"stochastic": variant, "random_bits": bits, **STOCHASTIC}
            wanted = oracle_quantize(x, fmt, random=random, result="fp64", **words)
            format_ = user_format(fmt) if fmt.scale else plain_format(fmt.element, overflow=fmt.overflow)
            events = sq.Events()
            got = sq.encode(x, format_, random=random, events=events, **words)
            what = f"{name} {kind} {variant} {bits}"
            assert_same_integers(got.codes, wanted.codes, what)
            assert_same_integers(scale_bits(got), wanted.scales, what)
            assert vars(events) == wanted.events, what
            values = sq.emulate(x, format_, random=random, dtype="float64", inexact="round", **words)
            assert_same_bits(values, wanted.values.view(np.float64), what)


def test_each_fraction_goes_up_for_as_many_random_numbers_as_its_variant_says() -> None:
    steps, bits = 64, 4
    fractions = np.arange(steps) / steps
    x = np.repeat((1 + fractions / 8)[:, None], 1 << bits, axis=1).astype(np.float32)
    random = np.broadcast_to(np.arange(1 << bits), x.shape)
    unit = 1 << bits
    # floor, floor of halves rounded up, and nearest even of the fraction in units of 2^-bits
    wanted = {
        "a": np.floor(fractions * unit),
        "b": np.floor((np.floor(fractions * 2 * unit) + 1) / 2),
        "c": np.round(fractions * unit),
    }
    e4m3 = plain_format(ELEMENTS["e4m3"])
    for variant in VARIANTS:
        y = sq.emulate(x, e4m3, random=random, random_bits=bits, stochastic=variant, **STOCHASTIC)
        assert set(np.unique(y)) == {1.0, 1.125}
        assert (y == 1.125).sum(axis=1).tolist() == wanted[variant].tolist(), variant


#: gfloat's names for the three variants of P3109.
GFLOAT = {"a": RoundMode.StochasticFastest, "b": RoundMode.StochasticFast, "c": RoundMode.Stochastic}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["e2m1", "e4m3", "e3m2"])
def test_gfloat_rounds_by_the_same_variants(name: str, variant: str) -> None:
    info = {"e2m1": format_info_ocp_e2m1, "e4m3": format_info_ocp_e4m3, "e3m2": format_info_ocp_e3m2}[name]
    rng = np.random.default_rng(6)
    x = (rng.standard_normal(300) * 2.0 ** rng.integers(-6, 4, 300)).astype(np.float32)
    for bits in (1, 3, 8):
        random = rng.integers(0, 1 << bits, x.shape)
        wanted = [
            round_float(info, float(v), GFLOAT[variant], True, srbits=int(r), srnumbits=bits)
            for v, r in zip(x, random, strict=True)
        ]
        words: dict[str, Any] = {"stochastic": variant, "random_bits": bits, **STOCHASTIC}
        got = sq.emulate(x, plain_format(ELEMENTS[name]), random=random, **words)
        assert_same_bits(got, np.float32(wanted), f"{name} {variant} {bits}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_mean_of_many_roundings_is_the_number(variant: str) -> None:
    """Within five standard deviations of the mean of independent draws, beside the variant's own error."""
    numbers = np.float32([1.03, -1.4, 2.71, -5.2, 0.1, 0.9])
    draws = 1 << 16
    x = np.repeat(numbers[:, None], draws, axis=1)
    scales = np.full((len(numbers), draws // 32), 127, np.uint8)
    y = sq.emulate(x, "mxfp4", scales=scales, random=sq.Philox(11), stochastic=variant, **STOCHASTIC)
    for number, row in zip(numbers, y.astype(np.float64), strict=True):
        assert len(np.unique(row)) == 2
        quantum = float(np.ptp(row))
        limit = 5 * row.std() / draws**0.5 + quantum * 2.0**-16
        assert abs(row.mean() - float(number)) <= limit


def test_exact_values_stay_and_saturation_holds(isa: str) -> None:
    x = np.float32([0, -0.0, 0.5, -1.5, 6, -4, 6.1, 100])
    random = np.full(x.shape, (1 << 16) - 1)
    y = sq.emulate(x, "mxfp4", scales=np.uint8([127]), random=random, **STOCHASTIC)
    assert_same_bits(y, np.float32([0, -0.0, 0.5, -1.5, 6, -4, 6, 6]))


def test_results_are_the_same_on_every_implementation() -> None:
    x = np.random.default_rng(4).standard_normal((3, 5000), dtype=np.float32)
    for variant in VARIANTS:
        made = []
        for isa in sq.available_isas():
            with forced_isa(isa):
                made.append(sq.encode(x, "mxfp6", random=sq.Philox(8), stochastic=variant, **STOCHASTIC).codes)
        assert all(np.array_equal(made[0], other) for other in made)


# Bad input


X = np.float32([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("kind", "match", "named"),
    [
        (ValueError, "needs random=", {"rounding": "stochastic"}),
        (ValueError, "needs rounding='stochastic'", {"random": sq.Philox(1)}),
        (ValueError, "random_bits=4 needs rounding='stochastic'", {"random_bits": 4}),
        (ValueError, "stochastic='c' needs rounding='stochastic'", {"stochastic": "c"}),
        (ValueError, "choose one of a, b, c", {"stochastic": "d", **STOCHASTIC}),
        (ValueError, "random_bits must be 1 to 22", {"random_bits": 23, **STOCHASTIC}),
        (ValueError, "random_bits must be 1 to 22", {"random_bits": 0, **STOCHASTIC}),
        (ValueError, "random: shape", {"random": np.zeros(3, int), **STOCHASTIC}),
        (
            ValueError,
            "random: holds 0 to 65536; needed 0 to 65535",
            {"random": np.arange(4) * 2**16 // 3, **STOCHASTIC},
        ),
        (ValueError, "random: holds -1", {"random": np.arange(4) - 1, **STOCHASTIC}),
        (TypeError, "random: dtype float64", {"random": np.zeros(4), **STOCHASTIC}),
        (TypeError, "random", {"random": 7, **STOCHASTIC}),
    ],
)
def test_random_bits_that_do_not_fit_are_refused(kind: type[Exception], match: str, named: dict[str, Any]) -> None:
    for call in (sq.emulate, sq.encode):
        with pytest.raises(kind, match=match):
            call(X, "mxfp4", **named)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ValueError, (-1,)),
        (ValueError, (1 << 64,)),
        (TypeError, (1.0,)),
        (TypeError, (True,)),
        (ValueError, (0, 0, -1)),
    ],
)
def test_a_philox_of_no_such_numbers_is_refused(kind: type[Exception], arguments: tuple[Any, ...]) -> None:
    with pytest.raises(kind):
        sq.Philox(*arguments)


def test_an_accelerator_has_no_random_bits_to_give() -> None:
    with pytest.raises(ValueError, match="needs random bits at every call"):
        sq.Accelerator(rules={"rounding": "stochastic"})


def test_a_spec_names_the_variant_only_where_it_matters() -> None:
    assert "random_bits" not in str(sq.spec("mxfp4"))
    made = sq.spec("mxfp4", rounding="stochastic", stochastic="b", random_bits=8)
    assert "rounding=stochastic" in str(made) and "stochastic=b random_bits=8" in str(made)
    assert sq.Spec.from_json(made.to_json()) == made
