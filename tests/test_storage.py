"""What memory holds of encoded tensors: stored codes, positions and layouts, against an oracle and other libraries."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparq_sim as sq
import storage_oracle as so
from conftest import Array, assert_same_bits
from sparq_sim import _core
from sparq_sim.layouts import parse_order
from sparq_sim.positions import ENCODINGS, FILLS, encoded_items, position_bits

GOLDEN = Path(__file__).parent / "golden" / "quant"

PATTERNS = ("2:4", "1:2", "1:4", "4:8", "4:8/2", "8:16", "3:5", "1:1", "5:32", "16:32", "6:12/3", "2:8", "4:4/2")


def pattern_of(text: str) -> tuple[int, int, int]:
    numbers, _, unit = text.partition("/")
    n, m = map(int, numbers.split(":"))
    return n, m, int(unit or 1)


def random_mask(rng: np.random.Generator, pattern: str, shape: tuple[int, int], full: bool) -> Array:
    """A mask that is N:M: every group keeps N, or fewer too."""
    n, m, unit = pattern_of(pattern)
    mask = np.zeros(shape, bool)
    for line in mask:
        for start in range(0, len(line), m):
            units = range(start, min(start + m, len(line)), unit)
            count = n // unit if full else int(rng.integers(0, n // unit + 1))
            for first in rng.permutation(list(units))[:count]:
                line[first : min(first + unit, start + m)] = True
    return mask


def sparse_tensor(
    rng: np.random.Generator, format_: str, pattern: str, shape: tuple[int, ...], axis: int = -1, **choices: Any
) -> sq.BlockTensor:
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 4, shape)).astype(np.float32)
    return sq.encode(x, format_, axis=axis, sparsity=pattern, **choices)


# Stored codes and positions


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_stored_is_the_oracle_s(pattern: str, fill: str, isa: str) -> None:
    n, m, unit = pattern_of(pattern)
    rng = np.random.default_rng(n * 100 + m)
    record = sq.spec("mxfp4", sparsity=pattern).sparsity
    four = (n // unit, m // unit)
    if fill.startswith("cutlass") and four != (2, 4) and not (four == (1, 2) and fill == "cutlass2"):
        with pytest.raises(ValueError, match=f"fill='{fill}' says nothing of {pattern}"):
            _core.check_fill(record, fill)
        return
    for dtype in (np.uint8, np.uint16, np.uint32):
        length = int(rng.integers(1, 3 * m + 2))
        mask = random_mask(rng, pattern, (7, length), full=False)
        codes = rng.integers(1, np.iinfo(dtype).max, mask.shape, dtype=dtype) * mask.astype(dtype)
        wanted = [so.store_line(c, k, n, m, unit, fill) for c, k in zip(codes.tolist(), mask.tolist(), strict=True)]
        groups = -(-length // m)
        stored, places = np.empty((7, groups * n), dtype), np.empty((7, groups * n // unit), np.uint8)
        _core.compress(
            sparsity=record,
            fill=fill,
            codes=codes,
            mask=mask.view(np.uint8),
            stored=stored,
            positions=places,
            threads=2,
        )
        assert stored.tolist() == [line[0] for line in wanted]
        assert places.tolist() == [line[1] for line in wanted]
        back, kept = np.empty_like(codes), np.empty(codes.shape, np.uint8)
        _core.expand(
            sparsity=record,
            repeats=fill == "cutlass3",
            stored=stored,
            positions=places,
            codes=back,
            mask=kept,
            threads=1,
        )
        assert back.tolist() == codes.tolist()
        assert bool((kept >= mask).all())
        for line, row in zip(wanted, kept.tolist(), strict=True):
            assert sum(row) <= len(line[0])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_positions_are_coded_as_the_oracle_says(encoding: str, pattern: str) -> None:
    n, m, unit = pattern_of(pattern)
    rng = np.random.default_rng(m)
    if math.comb(m // unit, n // unit) > 100_000:
        n, pattern = unit, f"{unit}:{m}" + (f"/{unit}" if unit > 1 else "")
    tensor = sparse_tensor(rng, "int8", pattern, (3, 4 * m + 1))
    packed = tensor.pack(encoding=encoding)
    for line, row in zip(tensor.positions.tolist(), packed.planes["positions"], strict=True):
        fields = so.position_fields(line, n // unit, m // unit, encoding)
        assert row.tobytes() == so.stream(fields), (pattern, encoding)
        per_group = sum(bits for _, bits in fields) / (
            len(fields) / encoded_items(tensor.spec.sparsity, encoding).per_group
        )
        assert position_bits(tensor.spec.sparsity, encoding) == per_group / m
    assert sq.unpack(packed) == tensor


def test_ranks_of_the_widest_pattern_count_up() -> None:
    pattern = sq.spec("int8", sparsity="16:32").sparsity
    from sparq_sim.positions import decode_positions, encode_positions

    ranks = np.array([[0, 1, 2, 300_540_195, 601_080_389]], np.uint32)
    places = decode_positions(ranks, pattern, "rank")
    assert places[0, :16].tolist() == list(range(16))
    assert places[0, -16:].tolist() == list(range(16, 32))
    assert encode_positions(places, pattern, "rank").tolist() == ranks.tolist()
    as_numbers = [sum(1 << p for p in places[0, i : i + 16].tolist()) for i in range(0, 80, 16)]
    assert as_numbers == sorted(as_numbers)  # colexicographic order is that of bitmasks as numbers
    with pytest.raises(ValueError, match="ranks must be below 601080390"):
        decode_positions(ranks + np.uint32(1), pattern, "rank")


def test_positions_come_from_the_mask_and_not_from_codes() -> None:
    # 2^-20 underflows to zero beside 6, and is stored nevertheless.
    x = np.float32([6, 2.0**-20, 0, 0, 0, 0, 1, 2])
    tensor = sq.encode(x, "mxfp4", sparsity="2:4")
    assert tensor.codes.tolist() == [7, 0, 0, 0, 0, 0, 2, 4]
    assert tensor.positions.tolist() == [0, 1, 2, 3]
    stored, _ = tensor.compressed()
    assert stored.tolist() == [7, 0, 2, 4]
    assert sq.unpack(tensor.pack()) == tensor


def test_what_is_not_n_of_m_is_refused_and_never_cut() -> None:
    x = np.float32([[1, 2, 3, 0, 0, 0, 0, 0]])
    tensor = sq.encode(x, "mxfp4", mask=x != 0)
    with pytest.raises(ValueError, match=r"structured\('2:4'\): the mask is not 2:4 in 1 group"):
        tensor.structured("2:4")
    with pytest.raises(ValueError, match=r"the mask is not 4:8/2 in 1 group\(s\): more are kept, or parts of a unit"):
        tensor.structured("4:8/2")
    with pytest.raises(ValueError, match="mask and no N:M pattern"):
        tensor.pack()
    assert tensor.structured("3:8").positions.tolist() == [[0, 1, 2]]
    dense = sq.encode(x, "mxfp4")
    assert dense.positions is None
    with pytest.raises(ValueError, match="the tensor is dense"):
        dense.compressed()
    with pytest.raises(ValueError, match="the mask is not 2:4 in 2 group"):
        dense.structured("2:4")
    assert_same_bits(sq.encode(x, "mxfp4", sparsity="2:4").dense().decode(), sq.emulate(x, "mxfp4", sparsity="2:4"))


def test_positions_that_are_none_are_refused() -> None:
    tensor = sq.encode(np.float32([[1, 2, 3, 4, 5, 6]]), "mxfp4", sparsity="2:4")
    packed = tensor.pack()
    planes = dict(packed.planes)
    for byte, good in (
        (0b1110_1110, False),
        (0b0100_1110, True),
        (0b0100_0100, True),
        (0b0100_0000, False),
        (0b0100_0001, False),
    ):
        planes["positions"] = np.array([[byte]], np.uint8)
        if good:
            sq.unpack(planes, spec=tensor.spec, shape=tensor.shape, layout="row_major")
            continue
        with pytest.raises(ValueError, match="positions: 1 group"):
            sq.unpack(planes, spec=tensor.spec, shape=tensor.shape, layout="row_major")


@pytest.mark.parametrize("ties", ("lowest_index", "highest_index", "topk"))
@pytest.mark.parametrize("pattern", ("4:8/2", "2:4/2", "3:9/3", "8:32/4", "4:4/4"))
def test_units_are_kept_together_and_rank_as_their_highest(pattern: str, ties: str, isa: str) -> None:
    import oracle
    from test_sparsity import numbers_of, tied_array

    n, m, unit = pattern_of(pattern)
    rng = np.random.default_rng(n + m)
    for carrier in ("fp32", "fp64", "bf16", "fp16"):
        for length in (m, 3 * m + unit + 1, 257):
            x = tied_array(rng, carrier, (4, length))
            score = tied_array(rng, "fp32", (4, length)) if length == m else None
            count = 0
            events = sq.Events()
            _, mask = sq.sparsify(x, pattern, ties=ties, score=score, events=events)
            for i, row in enumerate(mask):
                line, ranked = numbers_of(x[i]), None if score is None else numbers_of(score[i])
                keep = oracle.sparsify(line, n, m, ties, ranked, unit)
                assert row.tolist() == keep
                ranks = oracle.unit_ranks([oracle.rank(v) for v in (ranked or map(oracle.absolute, line))], unit)
                count += oracle.tied_groups(ranks, keep[::unit], m // unit)
            assert events.ties == count
            if score is None:
                given = sq.encode(x, "mxfp4", mask=mask) if carrier == "fp32" else None
                own = sq.encode(x, "mxfp4", sparsity=pattern, ties=ties) if carrier == "fp32" else None
                if given is not None and own is not None:
                    assert given.codes.tobytes() == own.codes.tobytes()
                    assert given.scales.tobytes() == own.scales.tobytes()


# Where scale blocks are counted


def test_scales_counted_along_stored_k_are_blocks_of_more_dense_elements() -> None:
    stored = sq.spec("mxfp4", sparsity="2:4", scale_space="stored")
    assert stored.format.block == 64 and stored.scale_space == "stored"
    assert "scale_space=stored" in str(stored)
    assert sq.Spec.from_json(stored.to_json()) == stored
    assert sq.spec(stored).format.block == 64  # not twice
    assert stored.digest != sq.spec("mxfp4", sparsity="2:4", block=64).digest
    assert sq.spec("nvfp4", sparsity="4:8/2", scale_space="stored").format.block == 32
    x = np.random.default_rng(0).standard_normal((4, 256), dtype=np.float32)
    assert_same_bits(sq.emulate(x, stored), sq.emulate(x, "mxfp4", block=64, sparsity="2:4"))
    tensor = sq.encode(x, stored)
    # A scale for every 32 stored codes of a line.
    assert tensor.compressed()[0].shape == (4, 128) and tensor.scales.shape == (4, 4)
    with pytest.raises(ValueError, match="a block of 32 stored elements cuts a group of 3 of them"):
        sq.spec("mxfp4", sparsity="3:4", scale_space="stored")
    with pytest.raises(ValueError, match="without a sparsity pattern means nothing"):
        sq.spec("mxfp4", scale_space="stored")
    with pytest.raises(ValueError, match="give block= with it"):
        sq.spec(stored, scale_space="dense")
    with pytest.raises(ValueError, match="known: dense, stored"):
        sq.spec("mxfp4", sparsity="2:4", scale_space="both")


# Bits into bytes


def test_bits_are_packed_as_the_oracle_packs_them(isa: str) -> None:
    rng = np.random.default_rng(5)
    for item_bits in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 19, 24, 32):
        item_bytes = 1 if item_bits <= 8 else 2 if item_bits <= 16 else 4
        for length in (0, 1, 7, 16, 65):
            items = rng.integers(0, 1 << item_bits, (3, length), dtype=np.uint64).astype(f"u{item_bytes}")
            for container, shift in ((item_bits, 0), (item_bits + 1, 1), (32, 32 - item_bits), (8, 0), (4, 0)):
                for run, extra in ((max(1, length), 0), (4, 0), (5, 3)):
                    if container > 32 or shift + item_bits > container:
                        continue
                    run_bytes = (run * container + 7) // 8 + extra
                    made = np.empty((3, -(-length // run) * run_bytes), np.uint8)
                    how = {
                        "item_bits": item_bits, "container_bits": container, "shift": shift, "from_top": False,
                        "run": run, "run_bytes": run_bytes, "threads": 1,
                    }  # fmt: skip
                    _core.pack(items=items, bytes=made, **how)
                    for line, row in zip(items.tolist(), made, strict=True):
                        assert row.tobytes() == so.in_runs([v << shift for v in line], container, run, run_bytes)
                    back = np.full_like(items, 1)
                    _core.unpack(bytes=made, items=back, **how)
                    assert back.tolist() == items.tolist()


@pytest.mark.parametrize("bits", (1, 2, 4, 8))
def test_the_first_item_of_a_byte_may_lie_on_top(bits: int, isa: str) -> None:
    rng = np.random.default_rng(bits)
    for length in (1, 3, 8, 33):
        items = rng.integers(0, 1 << bits, (2, length)).astype(np.uint8)
        made = np.empty((2, -(-length * bits // 8)), np.uint8)
        how = {
            "item_bits": bits, "container_bits": bits, "shift": 0, "from_top": True, "run": length,
            "run_bytes": made.shape[1], "threads": 1,
        }  # fmt: skip
        _core.pack(items=items, bytes=made, **how)
        assert [row.tobytes() for row in made] == [so.from_top([(v, bits) for v in line]) for line in items.tolist()]
        back = np.empty_like(items)
        _core.unpack(bytes=made, items=back, **how)
        assert back.tolist() == items.tolist()


def test_padding_that_is_not_zero_is_refused(isa: str) -> None:
    rng = np.random.default_rng(6)
    for item_bits, container, shift, length, run, run_bytes, top in (
        (6, 6, 0, 5, 5, 4, False), (4, 8, 2, 3, 3, 3, False), (6, 6, 0, 16, 16, 16, False), (4, 4, 0, 3, 3, 2, True),
        (3, 4, 0, 8, 8, 4, False), (7, 8, 0, 4, 4, 4, False), (2, 2, 0, 3, 3, 1, True),
    ):  # fmt: skip
        items = rng.integers(0, 1 << item_bits, (1, length)).astype(np.uint8)
        made = np.empty((1, -(-length // run) * run_bytes), np.uint8)
        how = {
            "item_bits": item_bits, "container_bits": container, "shift": shift, "from_top": top, "run": run,
            "run_bytes": run_bytes, "threads": 1,
        }  # fmt: skip
        _core.pack(items=items, bytes=made, **how)
        used = np.empty_like(made)
        _core.pack(items=np.full_like(items, (1 << item_bits) - 1), bytes=used, **how)
        for bit in range(8 * made.size):
            flipped = made.copy()
            flipped[0, bit // 8] ^= 1 << (bit % 8)
            back = np.empty_like(items)
            if used[0, bit // 8] >> (bit % 8) & 1:
                _core.unpack(bytes=flipped, items=back, **how)
                assert back.tolist() != items.tolist()
                continue
            with pytest.raises(ValueError, match="padding that is not zero in 1 run"):
                _core.unpack(bytes=flipped, items=back, **how)


# Layouts


def random_codes(rng: np.random.Generator, format_: sq.Format, shape: tuple[int, int]) -> sq.BlockTensor:
    """Codes and scales of any bits that the format has, whether or not anything encodes to them."""
    from sparq_sim.formats import scale_bits
    from sparq_sim.scales import level_dtype, scale_shape

    bits = format_.element.code_bits
    codes = rng.integers(0, 1 << bits, shape, dtype=np.uint64).astype(f"uint{8 * format_.element.code_bytes}")
    planes = []
    for level in format_.levels:
        extents = scale_shape(level, shape, len(shape) - 1)
        if level.format.code_bytes == 4:
            planes.append((2.0 ** rng.integers(-4, 4, extents)).astype(np.float32))
        else:
            planes.append(rng.integers(0, 1 << scale_bits(level), extents).astype(level_dtype(level)))
    scales = None if not planes else planes[0] if len(planes) == 1 else tuple(planes)
    return sq.BlockTensor(codes, scales, None, sq.Spec(format_), "float32", "numpy")


def packed_bytes(tensor: sq.BlockTensor, layout: str) -> dict[str, bytes]:
    packed = tensor.pack(layout)
    assert sq.unpack(packed) == tensor
    return {name: plane.tobytes() for name, plane in packed.planes.items()}


def test_scale_tiles_are_those_of_the_makers_formulas() -> None:
    rng = np.random.default_rng(7)
    for shape in ((1, 32), (128, 128), (130, 160), (300, 512)):
        tensor = random_codes(rng, sq.formats()["mxfp8_e4m3"], shape)
        scales = tensor.scales.tolist()
        assert packed_bytes(tensor, "nvidia_128x4")["scales"] == so.nvidia_128x4(scales)
        assert packed_bytes(tensor, "amd_32x8")["scales"] == so.amd_32x8(scales)


def test_tiles_of_tenstorrent_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(8)
    for name, bits in (("bfp8_b", 8), ("bfp4_b", 4), ("bfp2_b", 2)):
        for shape in ((32, 32), (40, 96), (1, 16), (64, 80)):
            tensor = random_codes(rng, sq.formats()[name], shape)
            got = packed_bytes(tensor, "tenstorrent_tile")["elements"]
            assert got == so.tenstorrent_tile(tensor.codes.tolist(), tensor.scales.tolist(), bits)
    assert len(got) == 2 * 3 * (64 + 1024 * 2 // 8)


def test_blocks_of_xdna_are_those_of_the_formula() -> None:
    tensor = random_codes(np.random.default_rng(9), sq.formats()["bfp16"], (16, 40))
    codes, scales = tensor.codes.tolist(), tensor.scales.tolist()
    assert packed_bytes(tensor, "xdna_bfp16")["elements"] == so.xdna(codes, scales, False)
    assert packed_bytes(tensor, "xdna_bfp16_shuffled")["elements"] == so.xdna(codes, scales, True)


def test_containers_and_runs_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(10)
    fp4, fp6 = (random_codes(rng, sq.formats()[name], (3, 64)) for name in ("mxfp4", "mxfp6_e2m3"))
    rows4, rows6 = fp4.codes.tolist(), fp6.codes.tolist()
    assert packed_bytes(fp4, "row_major")["elements"] == b"".join(map(so.nibbles, rows4))
    assert packed_bytes(fp6, "bytes")["elements"] == fp6.codes.tobytes()
    assert packed_bytes(fp6, "bytes_high")["elements"] == (fp6.codes << 2).tobytes()
    assert packed_bytes(fp4, "nvidia_byte_fp4")["elements"] == (fp4.codes << 2).tobytes()
    assert packed_bytes(fp6, "nvidia_align16")["elements"] == b"".join(so.in_runs(r, 6, 16, 16) for r in rows6)
    assert packed_bytes(fp4, "nvidia_align16")["elements"] == b"".join(so.in_runs(r, 4, 16, 16) for r in rows4)
    assert packed_bytes(fp4, "split_half")["elements"] == b"".join(so.split_half(r, 16) for r in rows4)


def test_metadata_of_sparse_layouts_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(11)
    for name, format_, bytes_ in (
        ("cutlass_sm80", "bf16", 2),
        ("cutlass_sm80_8bit", "int8", 4),
        ("nvidia_sparse", "int8", 0),
    ):
        tensor = sparse_tensor(rng, format_, "2:4", (64, 256))
        rows = [so.position_fields(line, 2, 4, "index") for line in tensor.positions.tolist()]
        streams = [so.stream(row) for row in rows]
        got = packed_bytes(tensor, name)["positions"]
        if not bytes_:
            assert got == b"".join(streams)
            continue
        words = [[int.from_bytes(s[i : i + bytes_], "little") for i in range(0, len(s), bytes_)] for s in streams]
        wanted = so.sm80_words(words, 32, 4) if bytes_ == 2 else so.sm80_words(words, 16, 2)
        assert got == b"".join(word.to_bytes(bytes_, "little") for word in wanted)
    tensor = sparse_tensor(rng, "int8", "2:4", (5, 64))
    ascend = [so.from_top(so.position_fields(line, 2, 4, "relative")) for line in tensor.positions.tolist()]
    assert packed_bytes(tensor, "ascend")["positions"] == b"".join(ascend)
    tensor = sparse_tensor(rng, "fp16", "2:4", (32, 64))
    got = np.frombuffer(packed_bytes(tensor, "amd_smfmac_16x16x32")["positions"], np.uint8)
    # V_SMFMAC_F32_16X16X32: of a tile of 16 lines by 32, lane 16 * (k / 8) + line has the two groups of its eight.
    for line, row in enumerate(tensor.positions.tolist()):
        for k in range(0, 64, 8):
            lane = 16 * (k % 32 // 8) + line % 16
            byte = got[(line // 16 * 2 + k // 32) * 64 + lane]
            assert byte == so.stream([(p, 2) for p in row[k // 2 : k // 2 + 4]])[0]


def holds(layout: sq.Layout, format_: sq.Format, sparse: bool) -> bool:
    if layout.formats and format_.name not in layout.formats:
        return False
    if layout.code_bits and format_.element.code_bits not in layout.code_bits:
        return False
    return not (sparse and layout.positions is None) and (sparse or not layout.patterns)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_packed_comes_back_and_decodes_as_emulated(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    layout = data.draw(st.sampled_from(sorted(sq.layouts().values(), key=lambda one: one.name)))
    sparse = bool(layout.patterns) or (layout.positions is not None and data.draw(st.booleans()))
    named = [f for f in sq.formats().values() if holds(layout, f, sparse)]
    format_ = data.draw(st.sampled_from(sorted(named, key=lambda one: one.name)))
    pattern = None
    if sparse:
        choices = {"2:4": ("2:4", "4:8/2"), "1:2": ("1:2",)}[layout.patterns[0]] if layout.patterns else PATTERNS
        pattern = data.draw(st.sampled_from(choices))
    rows, columns = layout.multiple
    shape = (
        *data.draw(st.lists(st.integers(1, 3), max_size=2)),
        rows * data.draw(st.integers(1, 4)),
        columns * data.draw(st.integers(1, max(1, 80 // columns))),
    )
    axis = data.draw(st.sampled_from((-1, len(shape) - 1, 0))) if rows == columns == 1 else -1
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(np.float32)
    given_scale = {"tensor_scale": 0.25} if layout.reciprocal_outer else {}
    encoding = (
        data.draw(st.sampled_from((None, "bitmask", "rank", "index"))) if sparse and not layout.patterns else None
    )
    if encoding == "rank" and math.comb(32, 16) > 1 and pattern == "16:32":
        encoding = "index"
    tensor = sq.encode(x, format_, sparsity=pattern, axis=axis, **given_scale)
    packed = tensor.pack(layout, encoding=encoding, threads=data.draw(st.sampled_from((None, 2))))
    back = sq.unpack(packed)
    assert back.codes.tobytes() == tensor.codes.tobytes()
    assert [p.tobytes() for p in back.scale_planes] == [p.tobytes() for p in tensor.scale_planes]
    assert_same_bits(
        back.decode(inexact="round"),
        sq.emulate(x, format_, sparsity=pattern, axis=axis, inexact="round", **given_scale),
    )
    assert_same_bits(packed.decode(inexact="round"), back.decode(inexact="round"))
    full = pattern is None or x.shape[axis] % pattern_of(pattern)[1] == 0
    assert back == tensor or not full
    raw = {name: plane.ravel() for name, plane in packed.planes.items()}
    again = sq.unpack(raw, spec=tensor.spec, shape=tensor.shape, layout=packed.layout)
    assert again == back


def decodes_as_unpacked(format_: str, pattern: str | None, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(format_))
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-6, 6, shape)).astype(np.float32)
    packed = sq.encode(x, format_, sparsity=pattern).pack()
    for dtype in ("float32", "bfloat16", "float64"):
        wanted = sq.unpack(packed).decode(dtype, inexact="round")
        assert_same_bits(packed.decode(dtype, inexact="round", threads=2), wanted)


@pytest.mark.parametrize("pattern", (None, "2:4", "4:8/2", "3:5"))
@pytest.mark.parametrize("format_", ("mxfp4", "nvfp4", "bf16", "mx9"))
def test_lines_decode_straight_from_their_bytes(format_: str, pattern: str | None, isa: str) -> None:
    for shape in ((3, 2, 61), (0, 8), (5, 0)):
        decodes_as_unpacked(format_, pattern, shape)


def test_lines_of_many_tiles_and_longer_ones_decode_straight_from_their_bytes() -> None:
    for format_ in ("mxfp4", "fp8_e4m3_row"):
        decodes_as_unpacked(format_, "2:4", (700, 200))
        decodes_as_unpacked(format_, "2:4", (2, 70001))


def test_lines_that_are_damaged_do_not_decode(isa: str) -> None:
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    packed = sq.encode(x, "mxfp4", sparsity="2:4").pack("cutlass_sm80_8bit")
    positions = packed.planes["positions"].copy()
    positions[0, 7] = 0
    with pytest.raises(ValueError, match="2 group"):
        replace(packed, planes={**packed.planes, "positions": positions}).decode()
    with pytest.raises(ValueError, match="no plane 'positions'"):
        replace(packed, planes={name: packed.planes[name] for name in ("elements", "scales")}).decode()
    odd = sq.encode(x[:, :31], "mxfp4").pack()
    elements = odd.planes["elements"].copy()
    elements[5, -1] |= 0xF0
    with pytest.raises(ValueError, match="padding that is not zero in 1 run"):
        replace(odd, planes={**odd.planes, "elements": elements}).decode()
    large = sq.BlockTensor.from_codes(np.uint8([[0x7B]]), np.uint8([[254]]), format="mxfp8_e5m2").pack()
    with pytest.raises(ValueError, match="not representable in float32"):
        large.decode()
    assert large.decode("float64") == 57344.0 * 2.0**127


def test_every_layout_says_where_it_comes_from() -> None:
    for name, layout in sq.layouts().items():
        assert layout.name == name and layout.source != "user"
        assert layout.evidence in ("specification", "implementation", "inferred")
        assert set(layout.formats) <= set(sq.formats())
        assert layout.fill in FILLS and layout.encoding in ENCODINGS


def test_a_layout_of_one_s_own_runs_through_the_same_engine() -> None:
    own = sq.Layout(
        "own", elements=sq.Plane(order="l/2 k/4 l%2 k%4", container_bits=8, align="high"), scales=sq.Plane(offset=1)
    )
    tensor = random_codes(np.random.default_rng(12), sq.formats()["mxfp6_e3m2"], (5, 33))
    packed = tensor.pack(own)
    assert sq.unpack(packed) == tensor
    first = packed.planes["elements"].reshape(-1, 2, 4)[0]
    assert first.tolist() == (tensor.codes[:2, :4] << 2).tolist()
    assert packed.planes["scales"].tolist() == (tensor.scales.astype(int) + 1 & 255).tolist()


def test_layouts_of_chunks_hold_tensors_without_elements() -> None:
    chunked = [layout for layout in sq.layouts().values() if layout.chunk]
    assert len(chunked) > 5
    for layout in chunked:
        for format_ in layout.formats:
            for shape in ((0, 64), (8, 0), (0, 8, 64), (2, 0, 64)):
                tensor = sq.encode(np.zeros(shape, np.float32), format_)
                packed = tensor.pack(layout)
                assert packed.nbytes == 0 and sq.unpack(packed) == tensor and packed.decode().shape == shape
                assert tensor.storage(layout).total == 0


def test_scales_that_no_tensor_has_are_refused_on_every_way() -> None:
    packed = sq.encode(np.ones((2, 32), np.float32), "nvfp4").pack()
    for name, byte, value, message in (
        ("scales1", 0, 0xFE, "a code of 0xfe has more than 7 bits"),
        ("scales0", 3, 0xBF, "needed positive finite numbers, or NaN"),
    ):
        plane = packed.planes[name].copy()
        plane.reshape(-1)[byte] = value
        wrong = replace(packed, planes={**packed.planes, name: plane})
        for call in (lambda wrong=wrong: sq.unpack(wrong), lambda wrong=wrong: wrong.decode()):
            with pytest.raises(ValueError, match=message):
                call()


def test_slices_hold_all_of_a_code() -> None:
    for slices in (((1, 2),), ((0, 2), (1, 2)), ((0, 1), (2, 2)), ((0, 0),)):
        with pytest.raises(ValueError, match="leave bits of a code out, or overlap"):
            sq.Layout("x", elements=sq.Plane(run=4, slices=slices))
    short = sq.Layout("x", elements=sq.Plane(run=4, slices=((0, 2), (2, 1))))
    with pytest.raises(ValueError, match="layout x: elements: slices hold 3 bits, not 4"):
        sq.encode(np.ones((1, 32), np.float32), "mxfp4").pack(short)


def test_layouts_refuse_what_they_do_not_hold() -> None:
    x = np.ones((3, 36), np.float32)
    for layout, format_, sparsity, message in (
        ("gguf_mxfp4", "mxfp8", None, "holds mxfp4; mxfp8_e4m3 is none of them"),
        ("gguf_mxfp4", "mxfp4", None, "36 elements of a line; needed a multiple of 32"),
        ("split_half", "mxfp8", None, "holds codes of 4 bits, not of 8"),
        ("nvidia_sparse", "mxfp4", None, "holds sparse tensors of 2:4"),
        ("nvidia_sparse", "mxfp4", "1:4", "holds 2:4, not 1:4"),
        ("amd_32x8", "mxfp4", "2:4", "has no place for positions"),
        ("cutlass_sm80", "bf16", "2:4", "3 lines; needed a multiple of 32"),
        ("no_such", "mxfp4", None, "unknown layout 'no_such'; known: row_major"),
    ):
        with pytest.raises(ValueError, match=message):
            sq.encode(x, format_, sparsity=sparsity).pack(layout)
    with pytest.raises(ValueError, match="has no positions: encoding= and fill= mean nothing"):
        sq.encode(x, "mxfp4").pack("amd_32x8", encoding="rank")
    with pytest.raises(ValueError, match="encoding='none': choose one of index"):
        sq.encode(x, "mxfp4", sparsity="2:4").pack(encoding="none")
    with pytest.raises(ValueError, match="fill='none': choose one of lowest"):
        sq.encode(x, "mxfp4", sparsity="2:4").pack(fill="none")
    with pytest.raises(ValueError, match="one over the tensor's scale"):
        sq.encode(np.ones((1, 16), np.float32), "nvfp4", tensor_scale=float(np.float32(5 / 2688))).pack(
            "compressed_tensors_nvfp4"
        )
    for order, message in (
        ("l k/2", "leave something out"), ("l k/2 k%4", "leave something out"), ("l", "k needs a digit for all"),
        ("l%4 k", "l needs a digit"), ("l k/x", "is no digit"), ("l k k", "overlap"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            parse_order(order)
        with pytest.raises(ValueError, match="order="):
            sq.Layout("bad", elements=sq.Plane(order=order))


def test_bytes_of_another_size_or_name_are_refused() -> None:
    tensor = sq.encode(np.ones((4, 64), np.float32), "mxfp4", sparsity="2:4")
    packed = tensor.pack()
    how: dict[str, Any] = {"spec": tensor.spec, "shape": tensor.shape, "layout": "row_major"}
    for name in packed.planes:
        planes = {**packed.planes, name: packed.planes[name].ravel()[:-1]}
        with pytest.raises(ValueError, match=f"{name}: [0-9]+ bytes; needed [0-9]+"):
            sq.unpack(planes, **how)
        with pytest.raises(ValueError, match=f"no plane '{name}'"):
            sq.unpack({n: p for n, p in packed.planes.items() if n != name}, **how)
        with pytest.raises(TypeError, match="needed uint8"):
            sq.unpack({**packed.planes, name: packed.planes[name].astype(np.int32)}, **how)
    with pytest.raises(ValueError, match="planes more: layout row_major has none of that name"):
        sq.unpack({**packed.planes, "more": packed.planes["scales"]}, **how)
    with pytest.raises(ValueError, match="needed spec=, shape= and layout="):
        sq.unpack(packed.planes)
    with pytest.raises(ValueError, match="says its own spec"):
        sq.unpack(packed, spec=tensor.spec)


def test_bytes_with_any_bit_flipped_are_another_tensor_or_an_error() -> None:
    rng = np.random.default_rng(13)
    tensor = sparse_tensor(rng, "mxfp6_e2m3", "2:4", (2, 34))
    packed = tensor.pack("nvidia_align16")
    how: dict[str, Any] = {"spec": tensor.spec, "shape": tensor.shape, "layout": packed.layout}
    errors = changes = 0
    for name, plane in packed.planes.items():
        for bit in range(8 * plane.size):
            flipped = plane.ravel().copy()
            flipped[bit // 8] ^= 1 << (bit % 8)
            try:
                again = sq.unpack({**packed.planes, name: flipped}, **how)
            except ValueError:
                errors += 1
                continue
            changes += 1
            assert again != tensor
    assert errors > 100 and changes > 200


def test_compressed_tensors_stores_the_scale_that_encoders_multiply_by() -> None:
    x = np.random.default_rng(3).standard_normal((8, 64), dtype=np.float32)
    made = sq.encode(x, "nvfp4", like="compressed-tensors-0.20")
    packed = made.pack("compressed_tensors_nvfp4")
    assert packed.planes["scales0"].tobytes() == made.scale_planes[0].tobytes()
    assert made.scale_planes[0].item() == np.float32(2688) * (np.float32(1) / np.abs(x).max())
    assert sq.unpack(packed) == made
    with pytest.raises(ValueError, match="whose scale is that one"):
        sq.encode(x, "nvfp4", tensor_scale=float(np.float32(5 / 2688))).pack("compressed_tensors_nvfp4")
