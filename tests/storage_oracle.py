"""What memory holds (docs/numerics.md section 15) once more: bit by bit, and by the makers' own index formulas.

Imports nothing of the library. Codes are integers, masks booleans, lines lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

Line = list[int]

#: Places of the stored elements of a group of four by which of them are kept, from torch's comment on its conversion
#: (CUTLASS 2.x) and from what CUTLASS 3.x's compressor writes.
CUTLASS2 = {"0000": (2, 3), "1000": (0, 2), "0100": (1, 2), "0010": (2, 3), "0001": (2, 3)}
CUTLASS3 = {"0000": (0, 0), "1000": (0, 3), "0100": (1, 3), "0010": (2, 3), "0001": (0, 3)}


def store_group(kept: Sequence[bool], stored: int, fill: str) -> list[int]:
    """The units that a group stores, of which `kept` says which are kept."""
    places = [i for i, keep in enumerate(kept) if keep]
    if len(places) > stored:
        raise ValueError("more are kept than there is room for")
    if len(places) == stored:
        return places
    if fill in ("cutlass2", "cutlass3"):
        if len(kept) == 2:
            return [1]
        table = CUTLASS2 if fill == "cutlass2" else CUTLASS3
        return list(table["".join("1" if keep else "0" for keep in kept)])
    free = [i for i, keep in enumerate(kept) if not keep]
    missing = stored - len(places)
    return sorted(places + (free[:missing] if fill == "lowest" else free[len(free) - missing :]))


def store_line(codes: Line, mask: Sequence[bool], n: int, m: int, unit: int, fill: str) -> tuple[Line, Line]:
    """Stored codes and places of a line."""
    stored, places = [], []
    for start in range(0, len(codes), m):
        group = range(start, start + m)
        kept = [any(mask[i] for i in group[u : u + unit] if i < len(codes)) for u in range(0, m, unit)]
        for place in store_group(kept, n // unit, fill):
            places.append(place)
            for i in group[place * unit : place * unit + unit]:
                stored.append(codes[i] if i < len(codes) else 0)
    return stored, places


def position_fields(places: Line, stored: int, units: int, encoding: str) -> list[tuple[int, int]]:
    """What an encoding writes of the places of a line: (value, bits), in order."""
    fields = []
    colex = sorted(combinations(range(units), stored), key=lambda c: c[::-1])
    for start in range(0, len(places), stored):
        group = tuple(places[start : start + stored])
        if encoding == "index":
            fields += [(p, width(units)) for p in group]
        elif encoding == "relative":
            fields += [(p - i, width(units - stored + 1)) for i, p in enumerate(group)]
        elif encoding == "halves":
            fields += [(half, width(2 * units)) for p in group for half in (2 * p, 2 * p + 1)]
        elif encoding == "bitmask":
            fields += [(int(i in group), 1) for i in range(units)]
        else:
            fields.append((colex.index(group), width(len(colex))))
    return fields


def width(count: int) -> int:
    """Bits that tell `count` things apart."""
    bits = 0
    while 1 << bits < count:
        bits += 1
    return bits


def stream(fields: Sequence[tuple[int, int]]) -> bytes:
    """Fields one after the other, from the lowest bit of the first byte on; whole bytes."""
    number, at = 0, 0
    for value, bits in fields:
        number |= value << at
        at += bits
    return number.to_bytes(-(-at // 8), "little")


def from_top(fields: Sequence[tuple[int, int]]) -> bytes:
    """Fields of equal widths that divide a byte, the first in its highest bits."""
    made, used = [], 8
    for value, bits in fields:
        if used + bits > 8:
            made.append(0)
            used = 0
        made[-1] |= value << (8 - used - bits)
        used += bits
    return bytes(made)


def nibbles(codes: Line) -> bytes:
    """Two codes of four bits to a byte, the first in the low half."""
    return bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))


def padded(matrix: list[Line], lines: int, length: int) -> list[Line]:
    """With zeros up to multiples."""
    width_ = -(-len(matrix[0]) // length) * length
    height = -(-len(matrix) // lines) * lines
    rows = [row + [0] * (width_ - len(row)) for row in matrix]
    return rows + [[0] * width_ for _ in range(height - len(rows))]


def place_all(matrix: list[Line], place: Callable[[int, int], int]) -> Line:
    """Items where `place` says; every place taken once."""
    made: list[int | None] = [None] * (len(matrix) * len(matrix[0]))
    for r, row in enumerate(matrix):
        for c, item in enumerate(row):
            assert made[place(r, c)] is None
            made[place(r, c)] = item
    return [item for item in made if item is not None]


def nvidia_128x4(scales: list[Line]) -> bytes:
    """cuBLAS: tiles of 128 x 4 scales of 512 bytes."""
    rows = padded(scales, 128, 4)
    columns = len(rows[0])
    return bytes(
        place_all(
            rows,
            lambda r, c: (r // 128 * (columns // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4,
        )
    )


def amd_32x8(scales: list[Line]) -> bytes:
    """aiter e8m0_shuffle: 256 x 8, view(r/32, 2, 16, c/8, 2, 4).permute(0, 3, 5, 2, 4, 1)."""
    rows = padded(scales, 256, 8)
    columns = len(rows[0])
    return bytes(
        place_all(
            rows,
            lambda r, c: (
                (((((r // 32) * (columns // 8) + c // 8) * 4 + c % 4) * 16 + r % 16) * 2 + c // 4 % 2) * 2 + r // 16 % 2
            ),
        )
    )


def sm80_words(words: list[Line], group: int, interweave: int) -> Line:
    """CUTLASS reorder_meta: rows of a group interwoven, 2 x 2 squares transposed, columns in pairs."""
    lines = len(words)

    def place(r: int, c: int) -> int:
        row = r // group * group + r % 8 * interweave + r % group // 8
        if row % 2 == 0 and c % 2 == 1:
            row, c = row + 1, c - 1
        elif row % 2 == 1 and c % 2 == 0:
            row, c = row - 1, c + 1
        return c // 2 * lines * 2 + row * 2 + c % 2

    return place_all(words, place)


def tenstorrent_tile(codes: list[Line], exponents: list[Line], bits: int) -> bytes:
    """Tile by tile: 64 exponents by faces and rows, then the elements by faces and rows."""
    made = b""
    codes, exponents = padded(codes, 32, 32), padded(exponents, 32, 2)
    for top in range(0, len(codes), 32):
        for left in range(0, len(codes[0]), 32):
            head: Line = []
            body: Line = []
            for face_row in (0, 16):
                for face_column in (0, 16):
                    for r in range(top + face_row, top + face_row + 16):
                        start = left + face_column
                        head.append(exponents[r][start // 16])
                        body += codes[r][start : start + 16]
            made += bytes(head) + stream([(code, bits) for code in body])
    return made


def xdna(codes: list[Line], exponents: list[Line], shuffled: bool) -> bytes:
    """Blocks of nine bytes; shuffled: eight lines of a tile of 8 x 8 together."""
    blocks = [
        [bytes([exponents[r][b], *codes[r][8 * b : 8 * b + 8]]) for b in range(len(exponents[0]))]
        for r in range(len(codes))
    ]
    if not shuffled:
        return b"".join(block for row in blocks for block in row)
    return b"".join(
        blocks[r][b] for top in range(0, len(codes), 8) for b in range(len(blocks[0])) for r in range(top, top + 8)
    )


def split_half(codes: Line, half: int) -> bytes:
    """In stretches of 2 * half: element j in the low nibble, j + half in the high one."""
    made = []
    for start in range(0, len(codes), 2 * half):
        for j in range(start, start + half):
            made.append(codes[j] | codes[j + half] << 4)
    return bytes(made)


def in_runs(codes: Line, bits: int, run: int, run_bytes: int) -> bytes:
    """Codes bit after bit, each `run` of them followed by zeros up to `run_bytes`."""
    made = b""
    for start in range(0, len(codes), run):
        made += stream([(code, bits) for code in codes[start : start + run]]).ljust(run_bytes, b"\0")
    return made
