#include "records.h"

#include <cmath>
#include <functional>
#include <string>
#include <type_traits>

#include "../catalog/datapaths.h"
#include "../catalog/formats.h"
#include "../describe.h"
#include "../ops/encode.h"
#include "../ops/geometry.h"

namespace py = pybind11;

namespace sparq::bindings {
namespace {

template <class Value>
py::object to_python(const Value& value) {
  if constexpr (std::is_enum_v<Value>)
    return py::str(std::string(word_of(value)));
  else
    return py::cast(value);
}

template <class Value>
Value from_python(const py::handle& object, std::string_view field) {
  if constexpr (std::is_enum_v<Value>) {
    std::string allowed;
    for (const auto& w : Words<Value>::list) {
      if (py::isinstance<py::str>(object) && object.cast<std::string>() == w.word) return w.value;
      allowed.append(allowed.empty() ? "" : ", ").append(w.word);
    }
    throw py::value_error(std::string(field) + "=" + py::repr(object).cast<std::string>() + ": choose one of " +
                          allowed);
  } else {
    try {
      if (std::is_same_v<Value, bool> && !py::isinstance<py::bool_>(object)) throw py::cast_error();
      return object.cast<Value>();
    } catch (const py::cast_error&) {
      throw py::type_error(std::string(field) + ": " + py::repr(object).cast<std::string>() + " has the wrong type");
    }
  }
}

template <class Record>
std::string field_names() {
  std::string names;
  std::apply([&](const auto&... f) { ((names.append(names.empty() ? "" : ", ").append(f.name)), ...); },
             Fields<Record>::list);
  return names;
}

// Record(**fields): every field by its name, missing ones at their default.
template <class Record>
Record from_fields(const py::kwargs& kwargs) {
  Record record{};
  std::size_t used = 0;
  std::apply(
      [&](const auto&... f) {
        const auto take = [&](const auto& field) {
          const py::str key{std::string(field.name)};
          if (!kwargs.contains(key)) return;
          ++used;
          using Value = std::remove_reference_t<decltype(record.*field.member)>;
          record.*field.member = from_python<Value>(kwargs[key], field.name);
        };
        (take(f), ...);
      },
      Fields<Record>::list);
  if (used != kwargs.size())
    for (const auto& item : kwargs) {
      const auto key = item.first.cast<std::string>();
      bool known = false;
      std::apply([&](const auto&... f) { ((known = known || key == f.name), ...); }, Fields<Record>::list);
      if (!known)
        throw py::type_error(std::string(Fields<Record>::name) + " has no field '" + key +
                             "'; fields: " + field_names<Record>());
    }
  return record;
}

// For help(): pybind11 copies it.
template <class Record>
std::string constructor_text() {
  std::string text = "Keywords, with their defaults:\n";
  const Record defaults{};
  std::apply(
      [&](const auto&... f) {
        const auto add = [&](const auto& field) {
          const auto value = py::repr(to_python(defaults.*field.member)).template cast<std::string>();
          text.append("\n    ").append(field.name).append("=").append(value).append(": ").append(field.meaning);
        };
        (add(f), ...);
      },
      Fields<Record>::list);
  return text;
}

template <class Record>
py::dict to_dict(const Record& record) {
  py::dict out;
  std::apply(
      [&](const auto&... f) {
        const auto put = [&](const auto& field) {
          using Value = std::remove_cvref_t<decltype(record.*field.member)>;
          if constexpr (std::is_same_v<Value, ElementFormat>)
            out[py::str(std::string(field.name))] = to_dict(record.*field.member);
          else
            out[py::str(std::string(field.name))] = to_python(record.*field.member);
        };
        (put(f), ...);
      },
      Fields<Record>::list);
  return out;
}

template <class Record>
void add_common(py::class_<Record>& type) {
  type.def("__repr__", [](const Record& r) { return constructor_call(r); })
      .def("__hash__", [](const Record& r) { return std::hash<std::string>{}(describe(r)); })
      .def(
          "__eq__", [](const Record& a, const Record& b) { return a == b; }, py::is_operator())
      .def("__copy__", [](const Record& r) { return r; })
      .def("__deepcopy__", [](const Record& r, const py::dict&) { return r; });
}

template <class Record>
py::class_<Record> bind_record(py::module_& module, const char* doc) {
  py::class_<Record> type(module, std::string(Fields<Record>::name).c_str(), doc);
  type.def(py::init([](const py::kwargs& kwargs) { return from_fields<Record>(kwargs); }),
           constructor_text<Record>().c_str());
  type.def("to_dict", &to_dict<Record>);
  type.def_property_readonly_static("fields", [](const py::object&) {
    py::dict meanings;
    std::apply(
        [&](const auto&... f) { ((meanings[py::str(std::string(f.name))] = py::str(std::string(f.meaning))), ...); },
        Fields<Record>::list);
    return meanings;
  });
  std::apply(
      [&](const auto&... f) {
        ((type.def_property_readonly(
             std::string(f.name).c_str(), [member = f.member](const Record& r) { return to_python(r.*member); },
             std::string(f.meaning).c_str())),
         ...);
      },
      Fields<Record>::list);
  if constexpr (!std::is_same_v<Record, Datapath>)
    type.def(py::pickle([](const Record& r) { return to_dict(r); },
                        [](const py::dict& state) {
                          py::dict fields(state);
                          if (fields.contains("format") && py::isinstance<py::dict>(fields["format"]))
                            fields["format"] =
                                py::cast(from_fields<ElementFormat>(py::kwargs(py::dict(fields["format"]))));
                          return from_fields<Record>(py::kwargs(fields));
                        }));
  add_common(type);
  return type;
}

// Every value of a record that the core takes is a float64.
double value_of(const ElementFormat& f, std::uint32_t code) {
  const int bits = code_bits(f);
  if (bits < 1 || bits > 32 || std::uint64_t{code} >> bits != 0)
    throw py::value_error("code " + std::to_string(code) + " does not fit " + std::to_string(bits) + " bits");
  const double sign = (code & sign_bit(f)) != 0 ? -1 : 1;
  if (classify(f, code) == CodeClass::nan) return std::nan("");
  if (classify(f, code) == CodeClass::infinity) return sign * HUGE_VAL;
  std::uint32_t below = code_from_memory(f, code) & magnitude_mask(f);
  if (f.signedness == Signedness::twos_complement && sign < 0) below = sign_bit(f) - below;
  const Magnitude m = magnitude_of(f, below);
  return sign * std::ldexp(m.significand, m.exponent);
}

void bind_element(py::module_& module) {
  auto type =
      bind_record<ElementFormat>(module, "An element or scale code: what its bits mean (docs/numerics.md section 1).");
  type.def_property_readonly(
          "code_bits", [](const ElementFormat& f) { return code_bits(f); }, "bits of one code")
      .def_property_readonly(
          "code_bytes", [](const ElementFormat& f) { return code_bytes(f); }, "bytes of one stored code")
      .def_property_readonly(
          "max_code", [](const ElementFormat& f) { return code_in_memory(f, max_code(f)); },
          "code of the largest finite value")
      .def_property_readonly(
          "emin", [](const ElementFormat& f) { return min_exponent(f); }, "exponent of the smallest normal")
      .def_property_readonly(
          "emax", [](const ElementFormat& f) { return max_exponent(f); }, "floor(log2(largest value))")
      .def_property_readonly(
          "least_mantissa_bits", [](const ElementFormat& f) { return mantissa_bits_at(f, min_exponent(f)); },
          "mantissa bits of the coarsest binade: all of them unless the format is tapered")
      .def_property_readonly("has_nan", [](const ElementFormat& f) { return has_nan(f); })
      .def_property_readonly("has_infinity", [](const ElementFormat& f) { return has_infinity(f); })
      .def_property_readonly(
          "nan_code",
          [](const ElementFormat& f) -> py::object { return has_nan(f) ? py::cast(nan_code(f)) : py::none(); })
      .def_property_readonly("infinity_code",
                             [](const ElementFormat& f) -> py::object {
                               return has_infinity(f) ? py::cast(code_in_memory(f, infinity_code(f))) : py::none();
                             })
      .def_property_readonly("is_power_of_two_scale", [](const ElementFormat& f) { return is_power_of_two_scale(f); })
      .def("is_nan", [](const ElementFormat& f, std::uint32_t code) { return classify(f, code) == CodeClass::nan; })
      .def("value", &value_of, "what a code stands for, also of a scale");
}

void bind_block_format(py::module_& module) {
  py::class_<BlockFormat> type(module, "BlockFormat", "Elements and the levels of scales above them, outermost first.");
  type.def(py::init([](const ElementFormat& element, const py::sequence& levels) {
             BlockFormat format;
             format.element = element;
             if (levels.size() > static_cast<std::size_t>(max_levels))
               throw py::value_error("at most " + std::to_string(max_levels) + " scale levels");
             for (const auto& level : levels)
               format.levels[static_cast<std::size_t>(format.level_count++)] = level.cast<ScaleLevel>();
             return format;
           }),
           py::arg("element"), py::arg("levels") = py::tuple());
  type.def_readonly("element", &BlockFormat::element);
  type.def_property_readonly("levels", [](const BlockFormat& f) {
    py::tuple levels(static_cast<std::size_t>(f.level_count));
    for (std::size_t i = 0; i < levels.size(); ++i) levels[i] = f.levels[i];
    return levels;
  });
  type.def("to_dict", [](const BlockFormat& f) {
    py::dict out;
    py::list levels;
    for (int i = 0; i < f.level_count; ++i) levels.append(to_dict(f.levels[static_cast<std::size_t>(i)]));
    out["element"] = to_dict(f.element);
    out["levels"] = levels;
    return out;
  });
  type.def_property_readonly(
      "main_level", [](const BlockFormat& f) { return f.level_count == 0 ? -1 : main_level(f); },
      "index of the level whose scales are those of blocks; -1 without scales");
  type.def("__reduce__", [](const py::object& self) {
    return py::make_tuple(py::type::of<BlockFormat>(), py::make_tuple(self.attr("element"), self.attr("levels")));
  });
  add_common(type);
}

}  // namespace

void bind_records(py::module_& module) {
  bind_element(module);
  auto level = bind_record<ScaleLevel>(module, "One level of scales (docs/numerics.md sections 3, 4 and 6).");
  level.def(
      "block_length", [](const ScaleLevel& l, std::int64_t length) { return ops::block_length(l, length); },
      "elements under one scale in a line of `length`");
  level.def(
      "blocks_per_line", [](const ScaleLevel& l, std::int64_t length) { return ops::blocks_per_line(l, length); },
      "scales of a line of `length`");
  bind_block_format(module);
  bind_record<Conversion>(module, "How an encoder chooses bits (docs/numerics.md sections 2 to 5).");
  bind_record<Sparsity>(module, "N:M sparsity (docs/numerics.md section 8).");
  auto datapath = bind_record<Datapath>(module, "How a machine adds (docs/numerics.md section 10).");
  datapath.def_property_readonly("operands", [](const Datapath& d) {
    py::tuple operands(static_cast<std::size_t>(d.operand_count));
    for (std::size_t i = 0; i < operands.size(); ++i) operands[i] = d.operands[i];
    return operands;
  });
  datapath.def("__reduce__", [](const py::object& self) {
    const py::object fields = py::module_::import("sparq_sim._core").attr("_datapath");
    return py::make_tuple(fields, py::make_tuple(self.attr("to_dict")(), self.attr("operands")));
  });
  module.def("_datapath", [](const py::dict& state, const py::sequence& operands) {
    py::dict fields(state);
    if (fields.contains("scale") && py::isinstance<py::dict>(fields["scale"]))
      fields["scale"] = py::cast(from_fields<ElementFormat>(py::kwargs(py::dict(fields["scale"]))));
    return py::cast(from_fields<Datapath>(py::kwargs(fields))).attr("with_operands")(operands);
  });
  datapath.def("with_fp16_result", [](const Datapath& d) { return with_fp16_result(d); });
  datapath.def("with_operands", [](const Datapath& d, const py::sequence& operands) {
    Datapath out = d;
    if (operands.size() > out.operands.size()) throw py::value_error("too many operand formats");
    out.operand_count = 0;
    out.operands = {};
    for (const auto& o : operands)
      out.operands[static_cast<std::size_t>(out.operand_count++)] = o.cast<ElementFormat>();
    return out;
  });
}

void bind_catalog(py::module_& module) {
  const auto text = [](std::string_view s) { return py::str(std::string(s)); };
  py::list elements, formats, aliases, datapaths;
  for (const auto& e : catalog::elements)
    elements.append(py::make_tuple(text(e.name), e.format, text(e.source), text(e.evidence)));
  for (const auto& f : catalog::formats)
    formats.append(py::make_tuple(text(f.name), f.format, f.conversion, text(f.source), text(f.evidence)));
  for (const auto& a : catalog::aliases) aliases.append(py::make_tuple(text(a.name), text(a.format)));
  for (const auto& d : catalog::datapaths)
    datapaths.append(py::make_tuple(text(d.name), d.datapath, text(d.source), text(d.evidence)));
  module.attr("elements") = elements;
  module.attr("formats") = formats;
  module.attr("aliases") = aliases;
  module.attr("datapaths") = datapaths;
  module.attr("numerics_version") = numerics_version;
  py::dict words;
  const auto add_words = [&]<class Enum>(Enum) {
    py::list list;
    for (const auto& w : Words<Enum>::list) list.append(text(w.word));
    words[text(Words<Enum>::what)] = py::tuple(list);
  };
  add_words(Rounding{});
  add_words(Combine{});
  add_words(ScaleRounding{});
  add_words(Stochastic{});
  add_words(Overflow{});
  add_words(NonFinite{});
  add_words(Infinite{});
  add_words(NanScale{});
  add_words(ScaleOverflow{});
  add_words(LeastScale{});
  add_words(SignedZero{});
  add_words(Subnormals{});
  add_words(IntegerRange{});
  add_words(Prerounding{});
  add_words(AmaxExponent{});
  add_words(ElementExponent{});
  add_words(HalfSum{});
  add_words(ScaleApply{});
  add_words(DivisorApply{});
  add_words(DivideBy{});
  add_words(OuterApply{});
  add_words(OuterOverflow{});
  add_words(ScaleOrder{});
  add_words(ScaleUnderflow{});
  add_words(ScaleCompute{});
  add_words(ApplyCompute{});
  add_words(AlignRounding{});
  add_words(ScaleRule{});
  add_words(Ties{});
  add_words(Fill{});
  add_words(Order{});
  module.attr("words") = words;
}

}  // namespace sparq::bindings
