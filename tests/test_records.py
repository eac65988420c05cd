"""Records: plain values that compare, hash, pickle and print; specs as JSON."""

from __future__ import annotations

import ast
import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparq_sim as sq
from sparq_sim import _core

STUB = Path(sq.__file__).parent / "_core.pyi"
E2M1 = sq.elements()["e2m1"].record
E8M0 = sq.elements()["e8m0"].record

#: One of each record class, with a different value in every field.
RECORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ElementFormat": (
        sq.ElementFormat,
        {"exponent_bits": 3, "mantissa_bits": 4, "bias": 5, "specials": "fn", "signedness": "unsigned",
         "zero": False},
    ),
    "ScaleLevel": (sq.ScaleLevel, {"format": E8M0, "along": 8, "across": 0}),
    "Conversion": (sq.Conversion, {"rounding": "toward_zero", "overflow": "special", "scale_rule": "even"}),
    "Sparsity": (sq.Sparsity, {"kept": 2, "group": 4, "ties": "highest_index"}),
    "Datapath": (
        sq.Datapath,
        {"reduce": "align", "group": 16, "fraction_bits": 9, "accumulator_fraction": 10,
         "nan_bits": 0x7FFFFFFF, "block_scales": False},
    ),
}  # fmt: skip
CASES = [pytest.param(*case, id=name) for name, case in RECORDS.items()]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_record_holds_what_it_was_given(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    for name, value in fields.items():
        assert getattr(record, name) == value


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_record_equals_its_copies_and_nothing_else(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    for other in (
        kind(**fields),
        copy.copy(record),
        copy.deepcopy(record),
        pickle.loads(pickle.dumps(record)),
    ):
        assert other == record and hash(other) == hash(record) and repr(other) == repr(record)
        assert (other != record) is False
    assert record != kind() and record != "record" and record is not None
    assert record not in (None, 0, fields)


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_every_field_matters_to_equality(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    default = kind()
    for name in fields:
        changed = kind(**{**fields, name: getattr(default, name)})
        assert changed != record, name


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_brings_a_record_back(protocol: int) -> None:
    for kind, fields in RECORDS.values():
        record = kind(**fields)
        assert pickle.loads(pickle.dumps(record, protocol)) == record


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_an_unknown_field_is_refused_by_name(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="exponent"):
        kind(exponent=4)
    with pytest.raises(TypeError):
        kind(4)


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_field_of_a_wrong_type_is_refused_by_name(kind: Any, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        wrong = 3.5 if not isinstance(value, str) else 3
        with pytest.raises((TypeError, ValueError), match=name):
            kind(**{name: wrong})
        with pytest.raises((TypeError, ValueError), match=name):
            kind(**{name: None})


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        (sq.ElementFormat, "specials", "fnu"),
        (sq.ElementFormat, "signedness", "signed"),
        (sq.Conversion, "rounding", "upward"),
        (sq.ScaleLevel, "combine", "add"),
        (sq.Sparsity, "ties", "random"),
        (sq.Datapath, "reduce", "sum"),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(kind: Any, name: str, word: str) -> None:
    known = getattr(kind(), name)
    with pytest.raises(ValueError, match=f"{name}={word!r}.*{known}"):
        kind(**{name: word})


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_record_cannot_be_changed(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    for name, value in fields.items():
        with pytest.raises(AttributeError):
            setattr(record, name, value)


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_record_prints_as_the_call_that_makes_it(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    names = {name: made for name, (made, _) in RECORDS.items()}
    assert eval(repr(record), {"__builtins__": {}, "True": True, "False": False, **names}) == record


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_dictionary_makes_the_record_again(kind: Any, fields: dict[str, Any]) -> None:
    record = kind(**fields)
    plain = record.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == list(kind.fields) or set(plain) >= set(kind.fields)
    again = {name: sq.ElementFormat(**v) if isinstance(v, dict) else v for name, v in plain.items()}
    again = {name: value for name, value in again.items() if name in kind.fields}
    assert kind(**again) == record


@pytest.mark.parametrize("name", RECORDS)
def test_the_stub_lists_the_fields_of_the_record(name: str) -> None:
    kind = RECORDS[name][0]
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    attributes = [
        node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    (init,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    assert [argument.arg for argument in init.args.kwonlyargs] == list(kind.fields)
    assert set(kind.fields) <= set(attributes)
    # What else the class offers exists.
    for extra in set(attributes) - set(kind.fields) - {"fields"}:
        assert hasattr(kind(), extra), extra
    for field, words in kind.fields.items():
        assert isinstance(field, str) and isinstance(words, str) and words, "every field says what it is"


def test_the_stub_names_what_the_module_has() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    names = {n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    names |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    names = {name for name in names if not name.startswith("_")}
    assert names <= set(dir(_core))
    assert {n for n in dir(_core) if not n.startswith("_")} <= names


# Formats and specs


def user_spec() -> sq.Spec:
    five = sq.ElementFormat(exponent_bits=5, bias=15, signedness="unsigned", specials="fn", zero=False)
    level = sq.ScaleLevel(format=five, along=7)
    conversion = sq.Conversion(rounding="toward_zero", scale_rule="even")
    made = sq.Format("mine", sq.ElementFormat(exponent_bits=3, bias=3), [level], conversion, "a paper")
    return sq.spec(made, sparsity="3:5", ties="highest_index", order="quantize_first", axis=1)


def every_spec() -> dict[str, sq.Spec]:
    found = {name: sq.spec(name) for name in sq.formats()}
    found["sparse"] = sq.spec("mxfp4", block=16, scale_rule="rceil", sparsity="2:4", axis=0)
    found["mine"] = user_spec()
    return found


@pytest.mark.parametrize("name", every_spec())
def test_a_spec_survives_json_pickle_and_copies(name: str) -> None:
    spec = every_spec()[name]
    text = spec.to_json()
    assert "\n" not in text and json.loads(text)["version"] == 1
    copies = (sq.Spec.from_json(text), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec)))
    for other in copies:
        assert other == spec and hash(other) == hash(spec)
        assert (other.digest, str(other), other.to_json()) == (spec.digest, str(spec), text)
    x = np.linspace(-4, 4, 60, dtype=np.float32).reshape(6, 10)
    wanted = sq.emulate(x, spec)
    assert sq.emulate(x, copies[0]).tobytes() == wanted.tobytes()


def test_the_digest_changes_with_every_field() -> None:
    spec = user_spec()
    level = spec.format.levels[0]
    element = spec.format.element.to_dict()
    scale = level.format.to_dict()
    other = [
        replace(spec, axis=0),
        replace(spec, order="sparsify_first"),
        replace(spec, sparsity=None),
        replace(spec, sparsity=sq.Sparsity(kept=2, group=5, ties="highest_index")),
        replace(spec, sparsity=sq.Sparsity(kept=3, group=6, ties="highest_index")),
        replace(spec, sparsity=sq.Sparsity(kept=3, group=5)),
        replace(spec, format=replace(spec.format, name="yours")),
        replace(spec, format=replace(spec.format, source="another paper")),
    ]
    for name, value in {"rounding": "nearest_even", "scale_rule": "floor"}.items():
        conversion = sq.Conversion(**{**spec.conversion.to_dict(), name: value})
        other.append(replace(spec, format=replace(spec.format, conversion=conversion)))
    for name, value in {"exponent_bits": 4, "mantissa_bits": 1, "bias": 4, "specials": "fn"}.items():
        changed = sq.ElementFormat(**{**element, name: value})
        other.append(replace(spec, format=replace(spec.format, element=changed)))
    for name, value in {"exponent_bits": 6, "bias": 16, "specials": "finite"}.items():
        changed = sq.ScaleLevel(format=sq.ElementFormat(**{**scale, name: value}), along=7)
        other.append(replace(spec, format=replace(spec.format, levels=[changed])))
    for along, across in ((8, 1), (0, 1), (0, 0)):
        changed = sq.ScaleLevel(format=level.format, along=along, across=across)
        other.append(replace(spec, format=replace(spec.format, levels=[changed])))
    other.append(replace(spec, format=replace(spec.format, levels=())))
    digests = [spec.digest, *(each.digest for each in other)]
    assert len(set(digests)) == len(digests)
    assert all(each != spec for each in other)
    assert len(spec.digest) == 16 and int(spec.digest, 16) >= 0


def test_evidence_travels_with_a_spec_and_decides_nothing() -> None:
    words = {"specification", "implementation", "inferred"}
    assert {element.evidence for element in sq.elements().values()} == words
    assert {format_.evidence for format_ in sq.formats().values()} == words
    assert user_spec().format.evidence == "user"
    spec = sq.spec("msfp12", block=8)
    assert sq.Spec.from_json(spec.to_json()).format.evidence == spec.format.evidence == "inferred"
    other = replace(spec, format=replace(spec.format, evidence="implementation"))
    assert other == spec and other.digest == spec.digest
    without = json.loads(spec.to_json())
    del without["evidence"]
    older = sq.Spec.from_json(json.dumps(without))
    assert older == spec and older.format.evidence == "user"


def test_the_digest_changes_with_the_numerics_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sq.spec("mxfp4").digest
    monkeypatch.setattr(_core, "numerics_version", _core.numerics_version + 1)
    assert sq.spec("mxfp4").digest != before


@pytest.mark.parametrize("version", [0, 2, "1", None, 99])
def test_a_spec_of_another_version_is_refused(version: Any) -> None:
    record = json.loads(sq.spec("mxfp4").to_json())
    record["version"] = version
    with pytest.raises(ValueError, match=f"version {version!r}; this library reads version 1"):
        sq.Spec.from_json(json.dumps(record))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"mxfp4"', "{}", '{"version": 1}', '{"version": 1, "format": 3}']
)
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a spec"):
        sq.Spec.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("order",), "first", "order 'first'"),
        (("conversion", "rounding"), "upward", "rounding='upward'"),
        (("conversion", "extra"), 1, "extra"),
        (("format", "element", "bits"), 1, "bits"),
        (("format", "element", "exponent_bits"), 60, "exponent_bits"),
        (("format", "levels"), [{}], "not a spec"),
        (("sparsity",), {"kept": 5, "group": 4, "ties": "lowest_index"}, "1 <= N <= M <= 32"),
        (("sparsity",), {"kept": 0, "group": 0, "ties": "lowest_index"}, "1 <= N <= M <= 32"),
        (("axis",), "x", "not a spec|axis"),
        (("axis",), 1.5, "not a spec|axis"),
    ],
)
def test_a_spec_with_a_bad_field_is_refused(path: tuple[str, ...], value: Any, match: str) -> None:
    record = json.loads(sq.spec("mxfp4").to_json())
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=match):
        sq.Spec.from_json(json.dumps(record))


def test_a_spec_prints_every_choice() -> None:
    text = str(sq.spec("mxfp4", block=16, scale_rule="rceil", rounding="toward_zero", sparsity="2:4", axis=0))
    for word in ("mxfp4", "block=16", "scale_rule=rceil", "rounding=toward_zero", "sparsity=2:4", "axis=0"):
        assert word in text.split(), word


def test_an_encoded_tensor_compares_by_bits_and_survives_pickling() -> None:
    x = np.float32([1, -7.5, 0.3, 0])
    made = sq.encode(x, "mxfp4", sparsity="2:4")
    assert made == sq.encode(x, "mxfp4", sparsity="2:4")
    assert made != sq.encode(-x, "mxfp4", sparsity="2:4")
    assert made != sq.encode(x, "mxfp4", sparsity="2:4", ties="highest_index")
    for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert other == made and other.decode().tobytes() == made.decode().tobytes()
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_events_add_up_over_calls() -> None:
    events = sq.Events()
    for _ in range(3):
        sq.emulate(np.float32([7.5, 0.1, 0, 0]), "mxfp4", events=events)
    sq.encode(np.float32([np.nan]), "mxfp4", events=events)
    sq.sparsify(np.float32([1, 1]), "1:2", events=events)
    assert events == sq.Events(saturated=3, underflowed=3, nonfinite=1, ties=1)


@pytest.mark.parametrize("record", [sq.ElementFormat, sq.ScaleLevel, sq.Conversion, sq.Sparsity, sq.Datapath])
def test_help_on_a_constructor_shows_every_field_with_its_default(record: Any) -> None:
    for name, meaning in record.fields.items():
        assert f"{name}={getattr(record(), name)!r}: {meaning}" in record.__init__.__doc__
