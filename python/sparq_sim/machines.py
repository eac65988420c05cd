"""Machines as JSON: the fields of a `Datapath` that differ from their defaults, and the operands by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparq_sim import _core
from sparq_sim._core import Datapath, ElementFormat
from sparq_sim.formats import Machine, elements, find_datapath, find_element
from sparq_sim.names import close_first

#: What names a machine: a name of the catalog, a JSON file, an entry of the catalog, or a record.
AnyDatapath = str | Path | Machine | Datapath


def _element(value: object, field: str) -> ElementFormat:
    if isinstance(value, str):
        return find_element(value)
    if isinstance(value, dict):
        return ElementFormat(**value)
    raise ValueError(f"{field}: needed the name of an element or its fields, got {value!r}")


def _element_text(record: ElementFormat) -> str | dict[str, Any]:
    return next((name for name, element in elements().items() if element.record == record), record.to_dict())


def datapath_from_dict(fields: Mapping[str, Any]) -> Datapath:
    """A machine of its fields; those left out have their defaults.

    Args:
        fields: as `datapath_to_dict` makes them: ``operands`` and ``scale`` are names of `elements()` or fields of one.

    Raises:
        ValueError, TypeError: unknown fields, or a machine that means nothing.

    >>> import sparq_sim as sq
    >>> sq.datapath_from_dict({"reduce": "blocks", "group": 8, "operands": ["e4m3"]}).group
    8
    """
    given, known = dict(fields), [*Datapath.fields, "operands"]
    for name in given:
        if name not in known:
            raise TypeError(f"Datapath has no field {name!r}; fields: {', '.join(close_first(name, known))}")
    operands = given.pop("operands", [])
    if not isinstance(operands, (list, tuple)):
        raise TypeError(f"operands: needed a list, got {operands!r}")
    if "scale" in given:
        given["scale"] = _element(given["scale"], "scale")
    record = Datapath(**given).with_operands([_element(operand, "operands") for operand in operands])
    _core.check_datapath(record)
    return record


def datapath_to_dict(record: Datapath) -> dict[str, Any]:
    """What `datapath_from_dict` reads: the fields that differ from their defaults."""
    defaults = Datapath().to_dict()
    fields = {name: value for name, value in record.to_dict().items() if value != defaults[name]}
    if "scale" in fields:
        fields["scale"] = _element_text(record.scale)
    if record.operands:
        fields["operands"] = [_element_text(operand) for operand in record.operands]
    return fields


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a field is given twice")
    return made


def load_datapath(path: str | Path) -> Datapath:
    """A machine from a JSON file of its fields.

    Raises:
        ValueError: a file that cannot be read, is no JSON object, or means nothing; each names the file.
    """
    try:
        fields = json.loads(Path(path).read_text("utf-8"), object_pairs_hook=_fields_once)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except RecursionError:
        raise ValueError(f"{path}: no JSON of a machine: too deep") from None
    except ValueError as error:  # no JSON, no UTF-8, or a field twice
        raise ValueError(f"{path}: no JSON of a machine: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: needed an object of fields")
    try:
        return datapath_from_dict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def is_file(datapath: object) -> bool:
    """Whether a machine is given as a JSON file."""
    return isinstance(datapath, Path) or (isinstance(datapath, str) and datapath.lower().endswith(".json"))


def resolve_datapath(datapath: AnyDatapath) -> Datapath:
    """The record of a name, of a JSON file, of a catalog entry, or of the user's; ValueError if it means nothing."""
    if isinstance(datapath, (str, Path)) and is_file(datapath):
        return load_datapath(datapath)
    if isinstance(datapath, str):
        datapath = find_datapath(datapath)
    record = datapath.record if isinstance(datapath, Machine) else datapath
    if not isinstance(record, Datapath):
        raise TypeError(f"datapath: needed a name, a JSON file or a Datapath, got {type(record).__name__}")
    _core.check_datapath(record)
    return record
