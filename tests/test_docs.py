"""The README and the docstrings say what happens: their Python examples are run."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import pkgutil
from itertools import combinations
from pathlib import Path
from types import ModuleType

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


def generator(name: str) -> ModuleType:
    """A script of docs, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["generate_formats", "generate_witnesses", "generate_presets", "generate_disagreements"]
)
def test_a_written_page_is_what_its_script_writes(name: str) -> None:
    module = generator(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run python docs/{name}.py"
    if hasattr(module, "DATA"):
        assert module.DATA.read_text(encoding="utf-8") == module.data(), f"run python docs/{name}.py"


def test_the_page_of_presets_has_them_all() -> None:
    page = generator("generate_presets").PAGE.read_text(encoding="utf-8")
    assert [name for name in sparq_sim.presets() if f"| `{name}` |" not in page] == []


def test_the_table_of_disagreements_has_every_pair_of_presets() -> None:
    data = json.loads((ROOT / "docs" / "disagreements.json").read_text(encoding="utf-8"))["formats"]
    for format in {name for preset in sparq_sim.presets().values() for name in preset.formats}:
        names = [preset.name for preset in sparq_sim.presets().values() if format in preset.formats]
        if len(names) > 1:
            same = data[format]["same"]
            assert sorted(name for group in same for name in group) == sorted(names)
            pairs = {frozenset((pair["a"], pair["b"])) for pair in data[format]["pairs"]}
            assert pairs == {frozenset((a[0], b[0])) for a, b in combinations(same, 2)}


def test_the_page_of_formats_lists_every_nan() -> None:
    module = generator("generate_formats")
    for name, element in sparq_sim.elements().items():
        record = element.record
        if record.code_bits <= 16:
            listed = {code for first, last in module.nan_codes(record) for code in range(first, last + 1)}
            assert listed == {code for code in range(1 << record.code_bits) if record.is_nan(code)}, name
