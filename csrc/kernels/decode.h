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

// What scale codes say: factors, powers of two, or zero points in units of the element; NaN where they are NaN. Codes
// of one byte are looked up where the table is filled.
struct ScaleNumbers {
  const DecodeJob& job;
  int main;
  bool tabled;
  double values[max_levels][256];

  ScaleNumbers(const DecodeJob& j, bool fill) : job(j), main(main_level(j.format)), tabled(fill) {
    for (int l = 0; tabled && l < job.format.level_count; ++l) {
      if (job.planes[static_cast<unsigned>(l)].bytes != 1) continue;
      const std::uint32_t count = std::uint32_t{1} << smaller(8, code_bits(level(l).format));
      for (std::uint32_t code = 0; code < 256; ++code) values[l][code] = code < count ? of_code(l, code) : 0;
    }
  }

  const ScaleLevel& level(int l) const { return job.format.levels[static_cast<unsigned>(l)]; }

  double operator()(int l, const ScalePlane& plane, std::int64_t index) const {
    if (tabled && plane.bytes == 1) return values[l][static_cast<const std::uint8_t*>(plane.data)[index]];
    if (is_float32(level(l).format)) return static_cast<const float*>(plane.data)[index];
    return of_code(l, load_code(plane.data, plane.bytes, index));
  }

  double of_code(int l, std::uint32_t code) const {
    const ElementFormat& f = level(l).format;
    if (level(l).combine == Combine::subtract)
      return signed_integer(f, code) * power_of_two(unit_exponent(job.format.element));
    if (l > main) return power_of_two(shift_of(level(l), code));
    const bool floating = !is_power_of_two_scale(f);
    const BlockScale scale = scale_of_code(f, floating ? ScaleKind::floating : ScaleKind::power_of_two, code);
    if (scale.poisoned) return as_value<Carrier64>(nan_bits<Carrier64>);
    return floating ? scale.factor : power_of_two(scale.exponent);
  }
};

inline DecodeScale decode_scale(const ScaleNumbers& numbers, std::int64_t batch, std::int64_t line,
                                std::int64_t element) {
  DecodeScale out;
  const DecodeJob& job = numbers.job;
  const Combine outer = numbers.main > 0 ? job.format.levels[0].combine : Combine::multiply;
  for (int l = 0; l < job.format.level_count; ++l) {
    const ScalePlane& plane = job.planes[static_cast<unsigned>(l)];
    const ScaleLevel& level = numbers.level(l);
    const double number = numbers(l, plane, scale_index(plane, batch, line, element));
    if (level.combine == Combine::subtract)
      out.zero = number;
    else if (l > numbers.main || is_power_of_two_scale(level.format))
      out.power *= number;
    else
      out.factor = l == 0 ? static_cast<float>(number)
                          : factor_below(outer, level.format, static_cast<float>(number), out.factor);
  }
  return out;
}

// Bytes of codes to float32, which products with weights read most: an exact value times one float32 factor.
struct DirectDecode {
  bool applies = false;
  bool by_code = false;  // one scale code, a power of two, for each block
  float values[256];
  float powers[256];               // by that code; 0 where there is none, or one under which a value is no float32
  double least = 0, greatest = 0;  // powers under which each value is one

  DirectDecode(const DecodeJob& job, const ElementTable& table) {
    const ElementFormat& f = job.format.element;
    const int quantum = min_exponent(f) - f.mantissa_bits;
    applies = max_exponent(f) <= 126 && quantum >= -149 && table.tabled && job.code_bytes == 1 &&
              job.values_type == FloatType::fp32 && job.geometry.step == 1;
    if (!applies) return;
    by_code = job.format.level_count == 1 && job.scale_kind == ScaleKind::power_of_two && job.planes[0].bytes == 1;
    // Two's complement reaches one binade higher with its lowest code.
    const int highest = smaller(126 - max_exponent(f), 127), lowest = larger(-149 - quantum, -126);
    least = power_of_two(lowest);
    greatest = power_of_two(highest);
    for (std::uint32_t code = 0; code < 256; ++code) {
      values[code] = static_cast<float>(table.values[code]);
      if (!by_code) continue;
      const BlockScale scale = scale_of_code(job.format.levels[0].format, ScaleKind::power_of_two, code);
      const bool fits = !scale.poisoned && scale.exponent >= lowest && scale.exponent <= highest;
      powers[code] = fits ? static_cast<float>(power_of_two(scale.exponent)) : 0;
    }
  }

  // to = make(value) of `count` codes. Eight codes in a register: GCC would have vectors of them only to take each out
  // again.
  template <class Make>
  void run(const std::uint8_t* codes, std::int64_t count, float* __restrict to, const Make& make) const {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      std::uint64_t word;
      __builtin_memcpy(&word, codes + i, 8);
      for (int j = 0; j < 8; ++j) to[i + j] = make(values[word >> (8 * j) & 255]);
    }
    for (; i < count; ++i) to[i] = make(values[codes[i]]);
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
      direct.run(codes + start, stop - start, to + start, [power](float value) { return value * power; });
    }
  }
  return true;
}

// The same under scales of any kind.
inline bool decode_by_factors(const ScaleNumbers& numbers, const DirectDecode& direct, const Tile& t) {
  const DecodeJob& job = numbers.job;
  const Geometry& g = job.geometry;
  for (std::int64_t l = 0; l < t.lines; ++l) {
    const std::int64_t offset = element_offset(g, t, l);
    const std::uint8_t* codes = static_cast<const std::uint8_t*>(job.codes) + offset;
    float* to = static_cast<float*>(job.values) + offset;
    std::int64_t end = g.block - t.first_element % g.block;
    for (std::int64_t start = 0; start < t.length; start = end, end += g.block) {
      const DecodeScale scale = decode_scale(numbers, t.batch, t.first_line + l, t.first_element + start);
      const bool finite = scale.factor - scale.factor == 0;
      if (!finite || !(scale.power >= direct.least && scale.power <= direct.greatest)) return false;
      const float zero = static_cast<float>(scale.zero), power = static_cast<float>(scale.power), factor = scale.factor;
      const std::int64_t count = smaller(end, t.length) - start;
      direct.run(codes + start, count, to + start,
                 [zero, power, factor](float value) { return (value - zero) * power * factor; });
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
  const ScaleNumbers numbers(job, !(direct.applies && direct.by_code));  // then it is asked of few blocks
  const bool floating = job.scale_kind == ScaleKind::floating;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    if (direct.applies && (direct.by_code ? decode_directly(job, direct, t) : decode_by_factors(numbers, direct, t)))
      continue;
    for (std::int64_t l = 0; l < t.lines; ++l) {
      const std::int64_t offset = element_offset(g, t, l);
      std::int64_t count = 0;
      for (std::int64_t start = 0; start < t.length; start += count) {
        const std::int64_t at = t.first_element + start;
        count = smaller((at / g.block + 1) * g.block - at, t.length - start);
        const DecodeScale scale = decode_scale(numbers, t.batch, t.first_line + l, at);
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
