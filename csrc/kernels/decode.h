// Codes and scales to values.
#pragma once

#include "scale.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// 2^exponent for exponents of normal float64 numbers.
inline double power_of_two(int exponent) {
  return as_value<Carrier64>(static_cast<std::uint64_t>(exponent + Carrier64::bias) << Carrier64::mantissa);
}

// The value of one code: every element value is a float64.
inline double element_value(const ElementFormat& f, std::uint32_t memory_code) {
  const CodeClass kind = classify(f, memory_code);
  const std::uint32_t code = code_from_memory(f, memory_code);
  const bool negative = (code & sign_bit(f)) != 0;
  if (kind == CodeClass::nan) return as_value<Carrier64>(nan_bits<Carrier64>);
  if (kind == CodeClass::infinity)
    return as_value<Carrier64>(infinity_bits<Carrier64> | (negative ? sign_mask<Carrier64> : 0));
  if (f.signedness == Signedness::twos_complement) {
    const int bits = code_bits(f);
    const std::int32_t integer = static_cast<std::int32_t>(code << (32 - bits)) >> (32 - bits);
    return integer * power_of_two(magnitude_of(f, 0).exponent);
  }
  const Magnitude m = magnitude_of(f, code & magnitude_mask(f));
  const double value = m.significand * power_of_two(m.exponent);
  return negative ? -value : value;
}

// Element values of short codes, looked up; of long ones, computed.
struct ElementTable {
  ElementFormat format;
  bool tabled = false;
  double values[256];

  explicit ElementTable(const ElementFormat& f) : format(f), tabled(code_bits(f) <= 8) {
    if (!tabled) return;
    const std::uint32_t count = std::uint32_t{1} << code_bits(f);
    for (std::uint32_t code = 0; code < 256; ++code)
      values[code] = code < count ? element_value(f, code) : values[code - count];
  }

  double operator()(std::uint32_t code) const { return tabled ? values[code & 0xFF] : element_value(format, code); }
};

// What all elements of a block are moved and multiplied by.
struct DecodeScale {
  double zero = 0;   // subtracted, exact
  double power = 1;  // exact
  float factor = 1;  // one float32 multiplication
};

// A short float scale below one above it, as what multiplies.
inline float factor_below(Combine outer, const ElementFormat& format, float scale, float above) {
  if (outer == Combine::divide_top)
    return static_cast<float>(shared_divisor(scale, above, short_scale_value(format, max_code(format))));
  return combined_factor(outer, combined_divisor(outer, scale, above));
}

inline DecodeScale decode_scale(const DecodeJob& job, std::int64_t batch, std::int64_t line, std::int64_t element) {
  DecodeScale out;
  const int main = main_level(job.format);
  const Combine outer = main > 0 ? job.format.levels[0].combine : Combine::multiply;
  for (int l = 0; l < job.format.level_count; ++l) {
    const ScalePlane& plane = job.planes[static_cast<unsigned>(l)];
    const ScaleLevel& level = job.format.levels[static_cast<unsigned>(l)];
    const std::int64_t index = scale_index(plane, batch, line, element);
    if (level.combine == Combine::subtract) {
      const int zero = signed_integer(level.format, load_code(plane.data, plane.bytes, index));
      out.zero = zero * power_of_two(unit_exponent(job.format.element));
      continue;
    }
    if (l > main) {
      out.power *= power_of_two(shift_of(level, load_code(plane.data, plane.bytes, index)));
      continue;
    }
    const bool floating = !is_power_of_two_scale(level.format);
    const BlockScale scale =
        load_scale(level.format, floating ? ScaleKind::floating : ScaleKind::power_of_two, plane, index);
    if (floating && scale.poisoned)
      out.factor = as_value<Carrier32>(nan_bits<Carrier32>);
    else if (floating)
      out.factor = l == 0 ? scale.factor : factor_below(outer, level.format, scale.factor, out.factor);
    else
      out.power = scale.poisoned ? as_value<Carrier64>(nan_bits<Carrier64>) : power_of_two(scale.exponent);
  }
  return out;
}

// Bytes of codes under one power of two for each block, to float32: what products with weights read most. Each value is
// one exact multiplication.
struct DirectDecode {
  bool applies = false;
  float values[256];
  float powers[256];  // by scale code; 0 where there is none, or one under which an element value is no float32

  DirectDecode(const DecodeJob& job, const ElementTable& table) {
    const ElementFormat& f = job.format.element;
    const bool plain = job.format.level_count == 1 && job.scale_kind == ScaleKind::power_of_two;
    const int quantum = min_exponent(f) - f.mantissa_bits;
    applies = plain && max_exponent(f) <= 126 && quantum >= -149 && table.tabled && job.code_bytes == 1 &&
              job.planes[0].bytes == 1 && job.values_type == FloatType::fp32 && job.geometry.step == 1;
    if (!applies) return;
    // Two's complement reaches one binade higher with its lowest code.
    const int highest = smaller(126 - max_exponent(f), 127), lowest = larger(-149 - quantum, -126);
    for (std::uint32_t code = 0; code < 256; ++code) {
      values[code] = static_cast<float>(table.values[code]);
      const BlockScale scale = scale_of_code(job.format.levels[0].format, ScaleKind::power_of_two, code);
      const bool fits = !scale.poisoned && scale.exponent >= lowest && scale.exponent <= highest;
      powers[code] = fits ? static_cast<float>(power_of_two(scale.exponent)) : 0;
    }
  }
};

// False where a block has a scale that has no power.
inline bool decode_directly(const DecodeJob& job, const DirectDecode& direct, const Tile& t) {
  const Geometry& g = job.geometry;
  const ScalePlane& plane = job.planes[0];
  const auto* scales = static_cast<const std::uint8_t*>(plane.data);
  for (std::int64_t l = 0; l < t.lines; ++l) {
    const std::int64_t offset = element_offset(g, t, l);
    const std::uint8_t* codes = static_cast<const std::uint8_t*>(job.codes) + offset;
    float* __restrict to = static_cast<float*>(job.values) + offset;
    const std::uint8_t* scale = scales + scale_index(plane, t.batch, t.first_line + l, t.first_element);
    std::int64_t end = g.block - t.first_element % g.block;  // of the first block, which may begin before the tile
    for (std::int64_t start = 0; start < t.length; start = end, end += g.block, scale += plane.step) {
      const float power = direct.powers[*scale];
      if (power == 0) return false;
      const std::int64_t stop = smaller(end, t.length);
      std::int64_t i = start;
      // Eight codes in a register: GCC would have vectors of them only to take each out again.
      for (; i + 8 <= stop; i += 8) {
        std::uint64_t word;
        __builtin_memcpy(&word, codes + i, 8);
        for (int j = 0; j < 8; ++j) to[i + j] = direct.values[word >> (8 * j) & 255] * power;
      }
      for (; i < stop; ++i) to[i] = direct.values[codes[i]] * power;
    }
  }
  return true;
}

inline void decode_tiles(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  using C = Carrier64;
  C::Bits rows[tile_capacity];
  const Geometry& g = job.geometry;
  const ElementTable table(job.format.element);
  const DirectDecode direct(job, table);
  const bool floating = job.scale_kind == ScaleKind::floating;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    if (direct.applies && decode_directly(job, direct, t)) continue;
    for (std::int64_t l = 0; l < t.lines; ++l) {
      const std::int64_t offset = element_offset(g, t, l);
      std::int64_t count = 0;
      for (std::int64_t start = 0; start < t.length; start += count) {
        const std::int64_t at = t.first_element + start;
        count = smaller((at / g.block + 1) * g.block - at, t.length - start);
        const DecodeScale scale = decode_scale(job, t.batch, t.first_line + l, at);
        for (std::int64_t i = start; i < start + count; ++i) {
          const double code_value = table(load_code(job.codes, job.code_bytes, offset + i * g.step));
          const double element = (code_value - scale.zero) * scale.power;  // -0 - 0 is -0
          // Float scales multiply in float32, one rounding; powers of two are exact in float64.
          const double value = floating ? static_cast<double>(static_cast<float>(element) * scale.factor) : element;
          rows[l * t.length + i] = value == value ? as_bits<C>(value) : nan_bits<C>;
        }
      }
    }
    counts.inexact += store_tile<C>(g, t, rows, job.values, job.values_type);
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
