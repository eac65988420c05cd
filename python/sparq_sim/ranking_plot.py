"""The drawing of a `Ranking`; matplotlib, which is optional, is imported here only."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparq_sim import disk
from sparq_sim.arrays import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sparq_sim.ranking import Ranking, RankRow

SUFFIXES = (".png", ".svg", ".pdf")

_STRONG, _WEAK = "#1f4e79", "#8a8f98"


def require(path: Path) -> None:
    """The errors of `draw` that can be known before any work."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: needed a file named {', '.join('*' + s for s in SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: cannot write there (no such directory)")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'sparq_sim[plot]'")


def draw(ranking: Ranking, path: Path) -> None:
    """See `Ranking.plot`."""
    require(path)
    figure = figure_of(ranking)
    disk.write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def figure_of(ranking: Ranking) -> Figure:
    """The drawing, outside of any window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Every label needs its place: more rows, a taller figure.
    figure = Figure(figsize=(12, max(5.0, 1.5 + 0.25 * len(ranking.rows))), dpi=120)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    figure.subplots_adjust(left=0.06, right=0.98, top=0.88, bottom=0.11, wspace=0.17)
    figure.suptitle(_shortened(ranking.title, 120), x=0.06, ha="left")
    _draw_rows(figure, left, ranking)
    _draw_histogram(right, ranking)
    return figure


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _draw_rows(figure: Figure, axes: Axes, ranking: Ranking) -> None:
    frontier = ranking.frontier
    rows = [
        row
        for row in ranking.rows
        if row.snr_db is not None and row.snr_db > -math.inf and row.bits_per_element is not None
    ]
    heights = [row.snr_db for row in rows if row.snr_db is not None and math.isfinite(row.snr_db)]
    # What has no error at all stands above everything else.
    top = max(heights) + max(10.0, 0.15 * (max(heights) - min(heights))) if heights else 0.0
    places = [(row.bits_per_element or 0.0, min(row.snr_db or 0.0, top)) for row in rows]
    for row, place in zip(rows, places, strict=True):
        color = _STRONG if row in frontier else _WEAK
        axes.plot(*place, "^" if row.snr_db == math.inf else "o", color=color, markersize=6, zorder=3)
    axes.set_xlabel("bits per element (codes and scales)")
    axes.set_ylabel("signal-to-noise ratio, dB")
    axes.grid(alpha=0.25)
    axes.margins(0.12, 0.1)
    legend = ["dark: no other is closer for as few bits"]
    if any(row.snr_db == math.inf for row in rows):
        legend.append("triangle: no error, at no height in particular")
    if len(rows) < len(ranking.rows):
        legend.append(f"without a ratio, not shown: {len(ranking.rows) - len(rows)}")
    axes.set_title("; ".join(legend), fontsize=9, loc="left")
    _label(figure, axes, rows, places, frontier)


def _label(
    figure: Figure,
    axes: Axes,
    rows: list[RankRow],
    places: list[tuple[float, float]],
    frontier: tuple[RankRow, ...],
) -> None:
    """Names each point at the nearest free place around it, with a line to it if that is not beside it."""
    figure.draw_without_rendering()  # fixes the limits, and with them the pixels
    axes.set_autoscale_on(False)
    scale = figure.dpi / 72
    points = axes.transData.transform(np.array(places).reshape(-1, 2))
    frame = np.array(axes.get_window_extent().padded(-3 * scale).extents)
    taken = [np.concatenate([point - 5 * scale, point + 5 * scale]) for point in points]
    for i in sorted(range(len(rows)), key=lambda i: rows[i] not in frontier):
        color = _STRONG if rows[i] in frontier else "#555555"
        name = _shortened(rows[i].name, 40)
        text = axes.text(0, 0, name, fontsize=8, transform=None)
        size = np.array(text.get_window_extent().size)
        text.remove()
        box, near = _free_box(points[i], size, frame, np.array(taken), scale)
        taken.append(box)
        # In points from the data, so that the label stays in its place at any resolution.
        x, y = (box[:2] - points[i]) / scale
        far = float(np.linalg.norm(near - points[i])) > 8 * scale
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        line["relpos"] = tuple((near - box[:2]) / size)
        axes.annotate(
            name, places[i], (x, y), textcoords="offset points", fontsize=8, color=color,
            ha="left", va="bottom", arrowprops=line if far else None, zorder=4,
        )  # fmt: skip


def _free_box(point: Array, size: Array, frame: Array, taken: Array, scale: float) -> tuple[Array, Array]:
    """The free box (x0, y0, x1, y1, in pixels) inside the frame that is nearest to a point, and the place where a line
    to it ends. Boxes close to other things, or behind them, are the last choice."""
    steps = np.arange(-300, 301, 3) * scale
    offsets = np.stack(np.meshgrid(steps - size[0] / 2, steps - size[1] / 2, indexing="ij"), -1).reshape(-1, 2)
    boxes = np.concatenate([point + offsets, point + offsets + size], axis=1)
    boxes = boxes[np.all((boxes[:, :2] >= frame[:2]) & (boxes[:, 2:] <= frame[2:]), axis=1)]
    ends = np.clip(point, boxes[:, :2], boxes[:, 2:])
    # Beside is better than above or below, and centred better than not, when all else is equal.
    aside = np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 - point) @ np.array([0.02, 0.04])
    cost = np.linalg.norm(ends - point, axis=1) + aside + np.where(_meet(boxes, taken), 1e9, 0.0)
    nearest = np.argsort(cost, kind="stable")[:500]
    boxes, ends, cost = boxes[nearest], ends[nearest], cost[nearest]
    others = taken[~np.all((taken[:, :2] <= point) & (point <= taken[:, 2:]), axis=1)]
    cost += np.where(_meet(boxes, others + np.array([-4, -4, 4, 4]) * scale), 8 * scale, 0.0)
    for part in np.linspace(0.0, 1.0, 12):
        line = point + (ends - point) * part
        cost += np.where(_meet(np.concatenate([line, line], axis=1), others), 30 * scale, 0.0)
    best = int(np.argmin(cost))
    return boxes[best], ends[best]


def _meet(boxes: Array, others: Array) -> Array:
    """Which boxes overlap any of the others."""
    meets = np.zeros(len(boxes), bool)
    left, bottom, right, top = np.ascontiguousarray(boxes.T)
    for x0, y0, x1, y1 in others:
        meets |= (left < x1) & (right > x0) & (bottom < y1) & (top > y0)
    return meets


def _draw_histogram(axes: Axes, ranking: Ranking) -> None:
    histogram = ranking.histogram
    axes.set_xlabel("exponent, floor(log2|x|)")
    axes.set_ylabel("elements")
    if histogram.exponents:
        axes.bar(histogram.exponents, histogram.counts, width=0.9, color=_STRONG)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
    axes.set_title(f"zeros: {histogram.zeros}   NaN or Inf: {histogram.nonfinite}", fontsize=9, loc="left")
    axes.grid(alpha=0.25, axis="y")
    axes.set_axisbelow(True)
