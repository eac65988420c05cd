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
inline double element_value(const ElementFormat& f, std::uint32_t code) {
  const CodeClass kind = classify(f, code);
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
    for (std::uint32_t code = 0; code < 256; ++code)
      values[code] = element_value(f, code & ((std::uint32_t{1} << code_bits(f)) - 1));
  }

  double operator()(std::uint32_t code) const { return tabled ? values[code & 0xFF] : element_value(format, code); }
};

inline void decode_tiles(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  using C = Carrier64;
  C::Bits rows[tile_capacity];
  const Geometry& g = job.geometry;
  const ElementTable table(job.element);
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    for (std::int64_t l = 0; l < t.lines; ++l) {
      const std::int64_t offset = element_offset(g, t, l);
      const std::int64_t scale_base = t.batch * g.scale_batch_stride + (t.first_line + l) * g.scale_line_stride;
      std::int64_t count = 0;
      for (std::int64_t start = 0; start < t.length; start += count) {
        const std::int64_t block = (t.first_element + start) / g.block;
        count = smaller((block + 1) * g.block - t.first_element, t.length) - start;
        const std::int64_t scale_index = scale_base + block * g.scale_step;
        float factor = 1;
        double power = 1;
        if (job.short_scale) {
          const std::uint32_t code = load_code(job.scales, job.scale_bytes, scale_index);
          const bool poisoned = job.scale_nan && code == job.scale_nan_code;
          factor = poisoned ? as_value<Carrier32>(nan_bits<Carrier32>) : short_scale_value(job.scale_format, code);
        } else if (job.scale_kind == ScaleKind::floating) {
          factor = static_cast<const float*>(job.scales)[scale_index];
        } else if (job.scale_kind == ScaleKind::power_of_two) {
          const std::uint32_t code = load_code(job.scales, job.scale_bytes, scale_index);
          const bool poisoned = job.scale_nan && code == job.scale_nan_code;
          power = poisoned ? as_value<C>(nan_bits<C>) : power_of_two(static_cast<int>(code) + job.scale_min);
        }
        for (std::int64_t i = start; i < start + count; ++i) {
          const double element = table(load_code(job.codes, job.code_bytes, offset + i * g.step));
          // Float scales multiply in float32, one rounding; powers of two are exact in float64.
          const double value = job.scale_kind == ScaleKind::floating
                                   ? static_cast<double>(static_cast<float>(element) * factor)
                                   : element * power;
          rows[l * t.length + i] = value == value ? as_bits<C>(value) : nan_bits<C>;
        }
      }
    }
    counts.inexact += store_tile<C>(g, t, rows, job.values, job.values_type);
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
