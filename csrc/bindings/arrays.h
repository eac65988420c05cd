// What the functions of the module share: arrays as pointers, error texts as exceptions.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "../ops/encode.h"
#include "../ops/guard.h"

namespace sparq::bindings {

namespace py = pybind11;

inline void require_ok(const std::string& error) {
  if (error == ops::out_of_memory) throw std::bad_alloc();
  if (!error.empty()) throw py::value_error(error);
}

// The core trusts pointers, so an array that is not of the size it needs ends here.
inline void require_bytes(const py::array& array, const char* name, std::int64_t count, int bytes) {
  if (count < 0 || array.nbytes() != count * bytes || (array.flags() & py::array::c_style) == 0)
    throw py::value_error(std::string(name) + ": needed " + std::to_string(count) + " contiguous items of " +
                          std::to_string(bytes) + " bytes");
}

inline void require_bytes(const std::optional<py::array>& array, const char* name, std::int64_t count, int bytes) {
  if (array) require_bytes(*array, name, count, bytes);
}

inline const void* read_pointer(const std::optional<py::array>& array) { return array ? array->data() : nullptr; }

inline void* write_pointer(std::optional<py::array>& array) { return array ? array->mutable_data() : nullptr; }

struct NamedFloat {
  std::string_view name;
  FloatType type;
  int bytes;
};
inline constexpr NamedFloat floats[] = {{"float16", FloatType::fp16, 2},
                                        {"bfloat16", FloatType::bf16, 2},
                                        {"float32", FloatType::fp32, 4},
                                        {"float64", FloatType::fp64, 8}};

inline const NamedFloat& float_type(const std::string& name) {
  for (const NamedFloat& known : floats)
    if (known.name == name) return known;
  throw py::value_error("no such float type: " + name);
}

inline py::dict counts_dict(const Counts& c) {
  py::dict out;
  out["saturated"] = c.saturated;
  out["underflowed"] = c.underflowed;
  out["nonfinite"] = c.nonfinite;
  out["zero_blocks"] = c.zero_blocks;
  out["ties"] = c.ties;
  out["inexact"] = c.inexact;
  out["refused"] = c.refused;
  return out;
}

using Array = std::optional<py::array>;
using Extents = std::array<std::int64_t, 3>;

// Extents whose product is a size of memory. `rows`: neighbouring lines that blocks may span.
inline ops::Shape shape_of(const Extents& e, std::int64_t rows = 0) {
  std::int64_t size = 0;
  const bool negative = e[0] < 0 || e[1] < 0 || e[2] < 0;
  if (negative || __builtin_mul_overflow(e[0], e[1], &size) || __builtin_mul_overflow(size, e[2], &size) ||
      size > std::int64_t{1} << 56)
    throw py::value_error("shape: extents must be those of a tensor");
  if (rows < 0 || (rows > 0 && e[0] % rows != 0)) throw py::value_error("rows: must divide the lines");
  return {e[0], e[1], e[2], rows};
}

// Scales of every level, outermost first; those not given are written where there is an array.
inline ops::Scales scales_of(const BlockFormat& format, const ops::Shape& shape, std::vector<Array>& arrays,
                             const std::vector<bool>& given) {
  const auto count = static_cast<std::size_t>(format.level_count);
  if (arrays.size() != count || given.size() != count)
    throw py::value_error("scales: needed " + std::to_string(count) + " levels");
  ops::Scales scales;
  for (std::size_t i = 0; i < count; ++i) {
    const ScaleLevel& level = format.levels[i];
    require_bytes(arrays[i], "scales", ops::scale_count(level, shape), code_bytes(level.format));
    scales[i].given = given[i];
    scales[i].data = given[i] ? const_cast<void*>(read_pointer(arrays[i])) : write_pointer(arrays[i]);
  }
  return scales;
}

}  // namespace sparq::bindings
