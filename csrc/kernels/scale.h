// From a block's largest magnitude to its scale (docs/numerics.md sections 3 and 4), and scales in memory.
#pragma once

#include "load_store.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

template <class C>
inline typename C::Bits largest_magnitude(const typename C::Bits* row, std::int64_t count) {
  typename C::Bits top = 0;
  for (std::int64_t i = 0; i < count; ++i) top = larger_magnitude<C>(top, row[i] & ~sign_mask<C>);
  return top;
}

// docs/numerics.md section 3. `amax` is finite and not zero.
template <class C>
inline int scale_exponent(const QuantizeJob& job, typename C::Bits amax) {
  const Split x = split<C>(amax);
  const int top = highest_bit(x.significand);
  const std::uint64_t fraction = (x.significand << (52 - top)) & ((std::uint64_t{1} << 52) - 1);
  const int exponent = top + x.exponent - job.scale_shift + (fraction > job.promote_above ? 1 : 0);
  return smaller(larger(exponent, job.scale_low), job.scale_max);
}

// What a block is scaled by: an exponent that is subtracted, or a float that divides.
struct BlockScale {
  int exponent = 0;
  float factor = 1;
  std::uint32_t code = 0;  // of short float scales
  bool poisoned = false;
};

// A short float scale is a float32 number.
inline float short_scale_value(const ElementFormat& f, std::uint32_t code) {
  const Magnitude m = magnitude_of(f, code);
  const auto power = static_cast<std::uint32_t>(m.exponent + Carrier32::bias) << Carrier32::mantissa;
  return static_cast<float>(m.significand) * as_value<Carrier32>(power);
}

// The code of a positive finite number: rounded, at least the smallest and at most the largest scale.
inline std::uint32_t short_scale_code(const ElementFormat& f, float number, const Conversion& how) {
  const double wide = number;  // a normal number, or zero
  const int exponent = static_cast<int>(as_bits<Carrier64>(wide) >> Carrier64::mantissa) - Carrier64::bias;
  const int quantum = larger(exponent, min_exponent(f)) - f.mantissa_bits;
  const auto reciprocal = static_cast<std::uint64_t>(Carrier64::bias - quantum) << Carrier64::mantissa;
  const double steps = wide * as_value<Carrier64>(reciprocal);
  constexpr double unit = 0x1p52;  // beside it, sums are rounded to the nearest integer, ties to even
  double whole = (steps + unit) - unit;
  if (how.scale_rounding == ScaleRounding::up && whole < steps) whole += 1;
  const auto binades = static_cast<std::uint32_t>(quantum - (min_exponent(f) - f.mantissa_bits));
  const std::uint32_t code = (binades << f.mantissa_bits) + static_cast<std::uint32_t>(whole);
  const auto least = static_cast<std::uint32_t>(larger(how.scale_minimum, 1));
  return smaller(larger(code, least), max_code(f));
}

inline BlockScale read_scale(const QuantizeJob& job, std::int64_t index) {
  BlockScale scale;
  if (job.short_scale) {
    scale.code = load_code(job.scales, job.scale_bytes, index);
    scale.poisoned = job.scale_nan && scale.code == job.scale_nan_code;
    scale.factor = short_scale_value(job.scale_format, scale.code);
  } else if (job.scale_kind == ScaleKind::floating) {
    scale.factor = static_cast<const float*>(job.scales)[index];
    scale.poisoned = !(scale.factor == scale.factor);
  } else if (job.scale_kind == ScaleKind::power_of_two) {
    const std::uint32_t code = load_code(job.scales, job.scale_bytes, index);
    scale.poisoned = job.scale_nan && code == job.scale_nan_code;
    scale.exponent = static_cast<int>(code) + job.scale_min;
  }
  return scale;
}

inline void write_scale(const QuantizeJob& job, std::int64_t index, const BlockScale& scale) {
  if (job.scales == nullptr) return;
  if (job.scale_kind == ScaleKind::floating && !job.short_scale) {
    static_cast<float*>(job.scales)[index] = scale.poisoned ? as_value<Carrier32>(nan_bits<Carrier32>) : scale.factor;
    return;
  }
  const std::uint32_t code = scale.poisoned    ? job.scale_nan_code
                             : job.short_scale ? scale.code
                                               : static_cast<std::uint32_t>(scale.exponent - job.scale_min);
  if (job.scale_bytes == 1)
    static_cast<std::uint8_t*>(job.scales)[index] = static_cast<std::uint8_t>(code);
  else
    static_cast<std::uint16_t*>(job.scales)[index] = static_cast<std::uint16_t>(code);
}

// docs/numerics.md section 4, step 2.
inline float float_scale(const QuantizeJob& job, float amax) {
  if (amax == 0) return 1;
  const float scale = amax / job.scale_divisor;
  return scale == 0 ? 0x1p-149f : scale;
}

// The scale of a block whose largest magnitude is `amax`, stored.
template <class C>
inline BlockScale make_scale(const QuantizeJob& job, std::int64_t index, typename C::Bits amax, Counts& counts) {
  const bool finite = amax < infinity_bits<C>;
  BlockScale scale;
  scale.poisoned = !finite;
  if (job.scale_kind == ScaleKind::power_of_two)
    scale.exponent = finite && amax != 0 ? scale_exponent<C>(job, amax) : job.scale_low;
  else if (finite)
    scale.factor = float_scale(job, static_cast<float>(as_value<C>(amax)));
  counts.zero_blocks += amax == 0;
  if ((scale.poisoned && !job.scale_nan) || scale.factor > 0x1.fffffep127F) ++counts.refused;
  if (job.short_scale && !scale.poisoned) {
    const float quotient = amax == 0 ? 0 : smaller(scale.factor, 0x1.fffffep127F);
    scale.code = short_scale_code(job.scale_format, quotient, job.conversion);
    scale.factor = short_scale_value(job.scale_format, scale.code);
  }
  write_scale(job, index, scale);
  return scale;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
