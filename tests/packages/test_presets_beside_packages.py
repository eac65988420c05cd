"""Presets beside the libraries themselves, on numbers that nobody recorded: a job of its own (CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import numpy as np
import pytest
import torch
from libraries import LIBRARIES

import sparq_sim as sq
from conftest import Array, bits_of

pytestmark = pytest.mark.packages

#: What a library's module is called, where that is not its preset's name.
MODULES = {name: name.rpartition("-")[0].replace("-", "_") for name in LIBRARIES}


def claims() -> Iterator[tuple[str, str]]:
    """(preset, format) of the libraries of this job; a preset of one rule among equals once."""
    for name, preset in sq.presets().items():
        library, _, rule = name.partition("/")
        if library not in LIBRARIES or rule == "cuda":  # a kernel, for a GPU
            continue
        for format in preset.formats:
            if not format.startswith("nvfp4") or rule in ("", "floor", "qtensor"):
                yield name, format


def ties(rng: np.random.Generator) -> Array:
    """Multiples of half the least step of a narrow element, under powers of two of each row."""
    return (rng.integers(-64, 65, (512, 64)) / 8 * np.exp2(rng.integers(-20, 20, (512, 1)))).astype(np.float32)


def sized(rng: np.random.Generator) -> Array:
    """Largest elements just beside and at thresholds of scale rules."""
    x = rng.uniform(-1, 1, (512, 64))
    tops = rng.choice([1.0, 1.5, 1.75, 1.875, 1.9375, 1.96875, 448 / 256, 6 / 4, 7.5 / 4, 28 / 16, 57344 / 32768], 512)
    x[:, 0] = x[:, 40] = tops * (1 + rng.choice([-(2.0**-23), 0, 2.0**-22], 512))
    return (x * np.exp2(rng.integers(-30, 30, (512, 1)))).astype(np.float32)


INPUTS = {
    "normal": lambda rng: rng.standard_normal((512, 64)).astype(np.float32),
    "heavy": lambda rng: (rng.standard_t(2, (512, 64)) * 100).astype(np.float32),
    "binades": lambda rng: (rng.standard_normal((512, 64)) * np.exp2(rng.integers(-12, 12, (512, 64)))).astype(
        np.float32
    ),
    "bfloat16": lambda rng: torch.from_numpy(rng.standard_normal((512, 64))).bfloat16().float().numpy(),
    "zeros": lambda rng: np.where(rng.random((512, 64)) < 0.95, 0, rng.standard_normal((512, 64))).astype(np.float32),
    "ties": ties,
    "thresholds": sized,
}


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize(("preset", "format"), list(claims()))
def test_the_preset_makes_what_the_library_makes(preset: str, format: str, input: str) -> None:
    library, _, rule = preset.partition("/")
    x = INPUTS[input](np.random.default_rng([len(input), *input.encode()]))
    made = LIBRARIES[library](torch.from_numpy(x.copy()), format, rule).detach().float().numpy()
    ours = sq.emulate(x, format, like=preset, inexact="round")
    # Zeros of either sign are equal where an element has one zero: there libraries decode what they like.
    if sq.formats()[format].element.signedness == "twos_complement":
        made, ours = made + np.float32(0), ours + np.float32(0)
    differ = np.argwhere(bits_of(made) != bits_of(ours))
    shown = [(x[tuple(at)].item(), made[tuple(at)].item(), ours[tuple(at)].item()) for at in differ[:4]]
    assert not len(differ), f"{len(differ)} of {x.size} differ, as (x, library, ours): {shown}"


def test_every_library_of_the_job_is_there() -> None:
    for module in MODULES.values():
        import_module(module)
