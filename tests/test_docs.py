"""The README and the docstrings say what happens: their Python examples are run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import sparq_sim

ROOT = Path(__file__).parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(sparq_sim.__path__, "sparq_sim.")
    if not name.rpartition(".")[2].startswith("_")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_are_true(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert failed == 0


def test_python_examples_of_the_readme_are_true() -> None:
    failed, attempted = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=FLAGS)
    assert failed == 0 and attempted > 10


def test_every_public_name_has_a_docstring() -> None:
    missing = [name for name in sparq_sim.__all__ if not getattr(sparq_sim, name).__doc__]
    assert missing == []


def test_the_readme_lists_every_format_and_machine() -> None:
    text = (ROOT / "README.md").read_text()
    names = [*sparq_sim.formats(), *sparq_sim.datapaths()]
    assert [name for name in names if f"`{name}`" not in text] == []
