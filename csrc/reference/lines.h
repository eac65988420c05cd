// Lines of a tensor in memory, and floats taken apart and put together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../kernel_table.h"
#include "element.h"

namespace sparq::reference {

inline std::uint64_t load_bits(const void* data, int bytes, std::int64_t index) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const char*>(data) + index * bytes, static_cast<std::size_t>(bytes));
  return bits;
}

inline void store_bits(void* data, int bytes, std::int64_t index, std::uint64_t bits) {
  std::memcpy(static_cast<char*>(data) + index * bytes, &bits, static_cast<std::size_t>(bytes));
}

// One line of a tile: where it is, and element offsets in memory.
struct Line {
  std::int64_t batch, line, first, length, origin, step;

  std::int64_t at(std::int64_t i) const { return origin + i * step; }
  std::int64_t scale(const ScalePlane& plane, std::int64_t i) const {
    return scale_index(plane, batch, line, first + i);
  }
};

template <class Visit>
inline void for_lines(const Geometry& g, std::int64_t first_tile, std::int64_t last_tile, const Visit& visit) {
  for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
    const auto [batch, line0, first] = place_of_tile(g, tile);
    for (std::int64_t l = line0; l < std::min(g.lines, line0 + g.tile_lines); ++l)
      visit(Line{batch, l, first, std::min(g.tile_length, g.length - first),
                 batch * g.batch_stride + l * g.line_stride + first * g.step, g.step});
  }
}

// The input element, rounded to float32 first where float scales ask for it.
inline Unpacked read(const void* data, FloatType type, std::int64_t index, bool through_float32) {
  const std::uint64_t bits = load_bits(data, bytes_of(type), index);
  if (!through_float32 || type != FloatType::fp64) return unpack(bits, ieee_type(type));
  double wide = 0;
  std::memcpy(&wide, &bits, sizeof wide);
  const auto narrow = static_cast<float>(wide);
  std::uint32_t narrow_bits = 0;
  std::memcpy(&narrow_bits, &narrow, sizeof narrow);
  return unpack(narrow_bits, ieee_type(FloatType::fp32));
}

inline float to_float(const Unpacked& x) {
  if (x.nan) return std::nanf("");
  const float magnitude =
      x.infinite ? HUGE_VALF : std::ldexp(static_cast<float>(x.magnitude.significand), x.magnitude.exponent);
  return x.negative ? -magnitude : magnitude;
}

inline Unpacked from_float(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return unpack(bits, ieee_type(FloatType::fp32));
}

}  // namespace sparq::reference
