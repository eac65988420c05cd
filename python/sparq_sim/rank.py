"""rank: which of these formats suits a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparq_sim.arrays import Source, source, thread_argument
from sparq_sim.formats import Format, Spec, parse_sparsity, pattern_text, spec
from sparq_sim.formats import formats as catalog
from sparq_sim.measure import Exponents, Tally, measure
from sparq_sim.ranking import ExponentHistogram, Ranking, RankRow


def rank(
    x: object,
    formats: str | Format | Spec | Sequence[str | Format | Spec] | None = None,
    *,
    axis: int = -1,
    sparsity: str | None = None,
    threads: int | None = None,
    **choices: Any,
) -> Ranking:
    """What every format makes of a tensor, the closest first.

    Statistics are computed in float64 on the values of ``emulate(x, ..., dtype="float64")``, in pieces of at most 2^18
    elements (more only if blocks are longer), so that memory besides `x` is bounded; strides in which no order of axes
    is contiguous cost one copy of `x`. Pieces never cut a block or an N:M group, get their scale of a row or tensor
    from all of it, and depend on shapes and formats alone.

    Args:
        x: NumPy array or torch tensor of float16, bfloat16, float32 or float64, of any shape and strides.
        formats: names, `Format` or `Spec` records, or one of them; default every format of the catalog.
        axis: reduction axis, along which blocks and N:M groups run; replaces that of a `Spec`.
        sparsity: ``"N:M"``; errors are against the dense `x`. Default None, or that of a `Spec`.
        threads: threads to use; default by size. Results never depend on it.
        choices: ``order`` and the choices of `spec`, for all formats. A format that does not take them is listed last
            with the reason, and so is one that refuses the data.

    Returns:
        A `Ranking`. An empty tensor gives rows without numbers. NaN and Inf are left out of errors; a format that
        turns finite elements into NaN or Inf (a poisoned block, an overflow) has no signal-to-noise ratio, and a note.

    Raises:
        ValueError: unknown names or words, no such axis, choices that none of the formats takes.
        TypeError: a dtype that is no float, an unknown choice.

    >>> import numpy as np, sparq_sim as sq
    >>> ranking = sq.rank(np.float32([[7.5, 1.0, -0.25, 0.0]]), ["mxfp4", "mxfp8", "hbfp8"])
    >>> [(row.name, round(row.snr_db, 1), row.underflowed) for row in ranking.rows]
    [('hbfp8', inf, 0.0), ('mxfp8_e4m3', 23.6, 0.0), ('mxfp4', 13.9, 0.25)]
    """
    return rank_tensors({"": source(x, "x")}, formats, axis=axis, sparsity=sparsity, threads=threads, **choices)


def rank_tensors(
    tensors: Mapping[str, Source],
    formats: str | Format | Spec | Sequence[str | Format | Spec] | None = None,
    *,
    name: str = "",
    axis: int = -1,
    sparsity: str | None = None,
    threads: int | None = None,
    **choices: Any,
) -> Ranking:
    """`rank` of several tensors as one: errors, counts and bits are added up. `name` is for titles."""
    thread_argument(threads)
    pattern = parse_sparsity(sparsity)
    given = {} if pattern is None else {"sparsity": pattern_text(pattern)}
    given |= {key: word for key, word in choices.items() if word is not None}
    words = tuple(f"{key}={word}" for key, word in given.items())
    tallies, specs = _tallies(formats, axis, sparsity, choices)
    placed = []
    for key, tensor in tensors.items():
        try:
            placed.append((key, tensor, tensor.axis(axis)))
        except ValueError as error:
            raise ValueError(f"{key}: {error}" if key else str(error)) from None
    exponents = measure(placed, tallies, threads)
    rows = [_row(tally, made, placed, exponents, words) for tally, made in zip(tallies, specs, strict=True)]
    only = next(iter(tensors.values())) if len(tensors) == 1 else None
    items = exponents.items()
    return Ranking(
        rows=tuple(sorted(rows, key=_place)),
        histogram=ExponentHistogram(
            tuple(e for e, _ in items), tuple(n for _, n in items), exponents.zeros, exponents.nonfinite
        ),
        name=name,
        shape=None if only is None else only.shape,
        dtype=", ".join(sorted({tensor.dtype for tensor in tensors.values()})),
        elements=sum(tensor.data.size for tensor in tensors.values()),
        tensors=len(tensors),
        axis=axis,
        given=words,
    )


def _tallies(
    formats: Any, axis: int, sparsity: str | None, choices: dict[str, Any]
) -> tuple[list[Tally], list[Spec | None]]:
    """A tally per format, and its spec unless it does not take the choices."""
    if formats is None:
        formats = list(catalog().values())
    given = [formats] if isinstance(formats, (str, Format, Spec)) else list(formats)
    if not given:
        raise ValueError("formats: needed at least one")
    bases = [spec(each) for each in given]  # unknown names are errors before any work
    tallies: list[Tally] = []
    specs: list[Spec | None] = []
    for base in bases:
        try:
            made = spec(base, axis=axis, sparsity=sparsity, **choices)
            tallies.append(Tally(made))
            specs.append(made)
        except ValueError as error:
            tallies.append(Tally(replace(base, axis=axis), refusal=str(error)))
            specs.append(None)
    for made in filter(None, specs):
        if made.conversion.rounding == "stochastic":
            raise ValueError(
                f"{made.format.name}: rounding='stochastic' needs random bits, which a ranking has none of"
            )
    if not any(specs):
        raise ValueError(tallies[0].refusal)
    return tallies, specs


def _label(made: Spec, given: tuple[str, ...]) -> str:
    """The name, and the words in which a spec differs from the catalog's and from what all rows were given."""
    base = catalog().get(made.format.name)
    if base is None:
        return made.format.name
    usual = {*str(Spec(base, axis=made.axis)).split(), "ties=lowest_index", "order=sparsify_first", *given}
    return " ".join([base.name, *(word for word in str(made).split() if word not in usual)])


def _row(
    tally: Tally,
    made: Spec | None,
    placed: Sequence[tuple[str, Source, int]],
    exponents: Exponents,
    given: tuple[str, ...],
) -> RankRow:
    label = _label(tally.spec, given)
    if made is None:
        return RankRow(label, str(tally.spec), None, refused=True, note=tally.refusal)
    elements = sum(tensor.data.size for _, tensor, _ in placed)
    bits = sum(_bits(made.format, tensor, axis) * tensor.data.size for _, tensor, axis in placed)
    head = RankRow(label, str(made), bits / elements if elements else made.format.bits_per_element())
    if tally.refusal:
        return replace(head, refused=True, note=tally.refusal)
    if not elements:
        return replace(head, note="no elements")
    shares = {
        "saturated": tally.events.saturated / elements,
        "underflowed": tally.events.underflowed / elements,
        "zeros": tally.zeros / elements,
    }
    if not tally.compared:
        lost = f"; {tally.lost} finite elements became NaN or Inf" if tally.lost else ""
        why = "no element is finite before and after" if lost or exponents.nonfinite else "errors too large to measure"
        return replace(head, note=f"{why}{lost}", **shares)  # type: ignore[arg-type]
    unit = exponents.unit()
    note = ""
    snr: float | None = None
    if tally.lost:
        note = f"{tally.lost} finite elements became NaN or Inf; errors are those of the other {tally.compared}"
    elif tally.error_l2 == 0:
        snr = math.inf
        note = "no error" if tally.error_max == 0 else "errors too small to square"
    elif tally.signal_l2 > 0:
        snr = 10 * (math.log10(tally.signal_l2) - math.log10(tally.error_l2))
    return replace(
        head,
        snr_db=snr,
        relative_l1=_ratio(tally.error_l1, tally.signal_l1),
        relative_l2=_ratio(math.sqrt(tally.error_l2), math.sqrt(tally.signal_l2)),
        max_error=math.ldexp(tally.error_max, unit),
        bias=math.ldexp(tally.error_sum / tally.compared, unit),
        note=note,
        **shares,  # type: ignore[arg-type]
    )


def _ratio(error: float, signal: float) -> float | None:
    """None for an error against nothing."""
    if error == 0:
        return 0.0
    return error / signal if signal > 0 else None


def _bits(format_: Format, tensor: Source, axis: int) -> float:
    """Bits per element with the true length and number of lines."""
    length = tensor.data.shape[axis]
    return format_.bits_per_element(length, tensor.data.size // max(1, length))


def _place(row: RankRow) -> tuple[bool, bool, float, float]:
    """Where a row sorts."""
    bits = math.inf if row.bits_per_element is None else row.bits_per_element
    return row.refused, row.snr_db is None, 0.0 if row.snr_db is None else -row.snr_db, bits
