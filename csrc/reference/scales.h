// Sections 3 and 4 of docs/numerics.md: from the elements of a block to its scales, level by level, and what scales do.
#pragma once

#include <limits>
#include <vector>

#include "lines.h"

namespace sparq::reference {

// The random bits of an element.
inline std::uint32_t random_of(const QuantizeJob& job, std::int64_t index) {
  if (job.conversion.rounding != Rounding::stochastic) return 0;
  const std::uint32_t mask = (std::uint32_t{1} << job.conversion.random_bits) - 1;
  if (job.random != nullptr) return job.random[index] & mask;
  return philox_word(job.philox, static_cast<std::uint64_t>(index)) >> (32 - job.conversion.random_bits);
}

// What all levels together do to an element.
struct Scale {
  int exponent = 0;  // of powers of two, micro-exponents included
  float factor = 1;  // of float scales, the outer one included
  int zero = 0;      // zero point, in units of the element
  bool poisoned = false;
};

// The integer that a code of two's complement is.
inline int integer_of(const ElementFormat& f, std::uint32_t code) {
  const int magnitude = static_cast<int>(decode_code(f, code).magnitude.significand);
  return decode_code(f, code).negative ? -magnitude : magnitude;
}

// The scale below `outside` once a level's code is known.
inline Scale inside(const BlockFormat& format, int l, Scale outside, std::uint32_t code) {
  const ScaleLevel& level = format.levels[static_cast<std::size_t>(l)];
  if (level.combine == Combine::subtract) {
    outside.zero = integer_of(level.format, code);
    return outside;
  }
  const Unpacked x =
      is_float32(level.format) ? unpack(code, ieee_type(FloatType::fp32)) : decode_code(level.format, code);
  Scale scale = outside;
  scale.poisoned = outside.poisoned || x.nan;
  if (!is_power_of_two_scale(level.format))
    scale.factor = to_float(x) * outside.factor;
  else
    scale.exponent += level.combine == Combine::divide ? -x.magnitude.exponent : x.magnitude.exponent;
  return scale;
}

// RN32(x / factor), or RN32(x * RN32(1 / factor)); where a factor is no positive number of float32, by the nearest one.
inline Unpacked divided(const Unpacked& x, float factor, ScaleApply how = ScaleApply::divide) {
  const float largest = std::numeric_limits<float>::max();
  const float divisor = std::clamp(factor, std::nextafter(0.0F, 1.0F), largest);
  if (how == ScaleApply::reciprocal) return from_float(to_float(x) * std::min(1 / divisor, largest));
  return from_float(to_float(x) / divisor);
}

inline Dyadic largest_of(const std::vector<Unpacked>& line, std::int64_t start, std::int64_t count) {
  Dyadic amax;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& x = line[static_cast<std::size_t>(i)];
    if (x.finite() && compare(x.magnitude, amax) > 0) amax = x.magnitude;
  }
  return amax;
}

// A quotient as the code of a short float: the codes around it by search, then the smallest instead of zero.
inline std::uint32_t short_code(const QuantizeJob& job, float quotient) {
  const bool up = job.conversion.scale_rounding == ScaleRounding::up;
  const Conversion how{.rounding = up ? Rounding::up : Rounding::nearest_even};
  const auto least = static_cast<std::uint32_t>(std::max(1, job.conversion.scale_minimum));
  return std::max(least, encode_element(main_scale(job.format).format, how, from_float(quotient), 0, 0).code);
}

// Section 4, step 2: the code of amax / Vmax, below `outer`.
inline std::uint32_t float_scale_code(const QuantizeJob& job, Dyadic amax, float outer, Counts& counts) {
  const ElementFormat& format = main_scale(job.format).format;
  float quotient = 0;
  if (amax.significand != 0) {
    Dyadic top = divisor_of(job.format.element, job.conversion);
    top.exponent += job.reach;
    quotient = to_float({.magnitude = amax}) / (job.outer_divisor * to_float({.magnitude = top}));
    if (has_outer_level(job.format)) quotient = quotient / outer;
    if (quotient == 0) quotient = std::nextafter(0.0F, 1.0F);
    if (std::isinf(quotient)) ++counts.refused;
  }
  if (is_float32(format)) {
    const float scale = amax.significand == 0 ? 1.0F : quotient;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &scale, sizeof bits);
    return bits;
  }
  if (amax.significand == 0 && job.zero_code != 0) return job.zero_code;
  return short_code(job, quotient);
}

// Section 3: the code of the power of two for amax.
inline std::uint32_t power_scale_code(const QuantizeJob& job, Dyadic amax) {
  const ElementFormat& format = main_scale(job.format).format;
  const int lowest = min_exponent(format) + job.conversion.scale_minimum;
  const int highest = min_exponent(format) + static_cast<int>(max_code(format));
  int exponent = job.conversion.zero_scale < 0 ? lowest : min_exponent(format) + job.conversion.zero_scale;
  if (amax.significand != 0)
    exponent = std::clamp(choose_exponent(job.format.element, job.conversion, amax) - job.reach, lowest, highest);
  return static_cast<std::uint32_t>(exponent - min_exponent(format));
}

// The value of a code under its block's scale, in the result's type.
inline std::uint64_t decode_value(const ElementFormat& f, ScaleKind kind, const Scale& scale, std::uint32_t code,
                                  FloatType type, Counts& counts) {
  const IeeeType to = ieee_type(type);
  Unpacked x = decode_code(f, code);
  if (scale.zero != 0) {
    const int steps = integer_of(f, code) - scale.zero;
    x.negative = steps < 0;
    x.magnitude = {static_cast<std::uint64_t>(std::abs(steps)), value_of(f, 1).exponent};
  }
  if (scale.poisoned) x.nan = true;
  if (x.nan) return to.nan();
  int exponent = scale.exponent;
  if (kind == ScaleKind::floating) {
    x.magnitude.exponent += exponent;
    exponent = 0;
    x = from_float(to_float(x) * scale.factor);
  }
  if (x.nan) return to.nan();
  const std::uint64_t sign = x.negative ? std::uint64_t{1} << (to.exponent_bits + to.mantissa_bits) : 0;
  if (x.infinite) return to.infinity() | sign;
  Fixed exact_value;
  exact_value.add(x.magnitude.significand, x.magnitude.exponent + exponent, false);
  bool exact = true;
  const std::uint64_t bits = to_ieee(exact_value, to, false, exact);
  counts.inexact += !exact;
  return bits | sign;
}

inline Unpacked as_largest(Unpacked x) {
  if (x.finite()) return x;
  return {.negative = x.negative && !x.nan, .magnitude = {(1U << 24) - 1, 104}};
}

// An element with a zero point: rounded as an integer of many bits, then moved and cut to its own range.
inline Encoded encode_moved(const QuantizeJob& job, const Unpacked& x, const Unpacked& v, const Scale& scale,
                            std::uint32_t random) {
  const ElementFormat& f = job.format.element;
  const ElementFormat wide{0, 23, 1 - 23 - value_of(f, 1).exponent, Specials::finite, Signedness::twos_complement};
  const int highest = static_cast<int>(max_code(f)), lowest = -highest - 1;
  Encoded e = encode_element(wide, job.conversion, v, 0, random);
  const int integer = integer_of(wide, e.code) + scale.zero, within = std::clamp(integer, lowest, highest);
  e.saturated = x.finite() && within != integer;
  e.code = static_cast<std::uint32_t>(within) & (2 * sign_bit(f) - 1);
  return e;
}

// One element under a scale, before its value is decoded.
inline Encoded encode_scaled(const QuantizeJob& job, const Unpacked& x, const Scale& scale, std::uint32_t random) {
  const bool floating = job.scale_kind == ScaleKind::floating;
  Unpacked v = floating ? divided(x, scale.factor, job.conversion.scale_apply) : x;
  if (v.infinite && x.finite()) v = as_largest(v);  // x / s left float32: a large number
  if (has_zero_points(job.format)) return encode_moved(job, x, v, scale, random);
  if (job.conversion.align_bits > 0)
    v = aligned(v, scale.exponent + max_exponent(job.format.element) - job.conversion.align_bits,
                job.conversion.align_rounding);
  return encode_element(job.format.element, job.conversion, v, scale.exponent, random);
}

// What the rules mse and mae add up over a block under a candidate scale.
inline double error_under(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x, std::int64_t start,
                          std::int64_t count, const Scale& scale) {
  double sum = 0;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& element = x[static_cast<std::size_t>(i)];
    if (!element.finite()) continue;
    const Encoded e = encode_scaled(job, element, scale, random_of(job, line.at(i)));
    Counts ignored;
    const std::uint64_t made =
        decode_value(job.format.element, job.scale_kind, scale, e.code, FloatType::fp64, ignored);
    double value = 0;
    std::memcpy(&value, &made, sizeof value);
    const double size = std::ldexp(static_cast<double>(element.magnitude.significand), element.magnitude.exponent);
    const double error = std::fabs(value - (element.negative ? -size : size));
    sum += job.conversion.scale_rule == ScaleRule::mse ? error * error : error;
  }
  return sum;
}

// The codes that the rules mse and mae choose among, the preferred one first.
inline std::vector<std::uint32_t> candidate_codes(const QuantizeJob& job, Dyadic amax, std::uint32_t code,
                                                  float outer) {
  const ElementFormat& format = main_scale(job.format).format;
  if (job.scale_kind == ScaleKind::power_of_two) {
    const int lowest = job.conversion.scale_minimum, highest = static_cast<int>(max_code(format));
    std::vector<std::uint32_t> codes;
    for (const int step : {1, 0, -1})
      codes.push_back(static_cast<std::uint32_t>(std::clamp(static_cast<int>(code) + step, lowest, highest)));
    return codes;
  }
  // Multiplied by the largest element over the largest power of two among elements.
  Dyadic ratio = value_of(job.format.element, max_code(job.format.element));
  ratio.exponent -= max_exponent(job.format.element);
  Dyadic top = divisor_of(job.format.element, job.conversion);
  float quotient = to_float({.magnitude = amax}) / to_float({.magnitude = top});
  if (has_outer_level(job.format)) quotient = quotient / outer;
  quotient = quotient * to_float({.magnitude = ratio});
  return {code, short_code(job, quotient)};
}

// The element of a sign that is the farthest from zero, as a magnitude; 0 if there is none.
inline float farthest(const std::vector<Unpacked>& x, std::int64_t start, std::int64_t count, bool negative) {
  Dyadic top;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& element = x[static_cast<std::size_t>(i)];
    if (element.finite() && element.negative == negative && compare(element.magnitude, top) > 0)
      top = element.magnitude;
  }
  return to_float({.magnitude = top});
}

// Section 4 with zero points: the code of RN32(high - low) over the steps between the lowest and the highest code.
inline std::uint32_t range_scale_code(const QuantizeJob& job, const std::vector<Unpacked>& x, std::int64_t start,
                                      std::int64_t count, Counts& counts) {
  const ElementFormat& f = job.format.element;
  const float range = farthest(x, start, count, false) + farthest(x, start, count, true);
  const float steps = to_float({.magnitude = {2 * std::uint64_t{max_code(f)} + 1, value_of(f, 1).exponent}});
  float scale = range / steps;
  if (scale == 0) scale = std::nextafter(0.0F, 1.0F);
  if (range == 0) scale = 1;
  counts.zero_blocks += range == 0;
  counts.refused += std::isinf(scale);
  return std::bit_cast<std::uint32_t>(scale);
}

// The zero point of a block: where its scale puts the least element, the lowest code.
inline std::uint32_t zero_point_code(const QuantizeJob& job, const std::vector<Unpacked>& x, std::int64_t start,
                                     std::int64_t count, const Scale& scale) {
  if (scale.poisoned) return 0;
  const ElementFormat& f = job.format.element;
  const int highest = static_cast<int>(max_code(f)), lowest = -highest - 1;
  const Unpacked low = from_float(farthest(x, start, count, true) / scale.factor);
  int zero = highest;
  if (!low.infinite) {
    // A float of 24 bits holds every integer that is near enough to matter.
    const Encoded steps = encode_element({0, 23, 1 - 23 - value_of(f, 1).exponent}, {}, low, 0, 0);
    zero = static_cast<int>(std::min<std::int64_t>(highest, std::int64_t{lowest} + steps.code));
  }
  return static_cast<std::uint32_t>(zero) & (2 * sign_bit(f) - 1);
}

// The code of zero under a scale.
inline std::uint32_t code_of_zero(const ElementFormat& f, const Scale& scale) {
  return scale.poisoned ? 0 : static_cast<std::uint32_t>(scale.zero) & (2 * sign_bit(f) - 1);
}

// The code of the main level for a block that begins at `start`.
inline std::uint32_t main_code(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x,
                               std::int64_t start, std::int64_t count, Scale outside, Counts& counts) {
  const ElementFormat& format = main_scale(job.format).format;
  bool poisoned = outside.poisoned;
  for (std::int64_t i = start; i < start + count; ++i)
    poisoned = poisoned || (!job.skip_nonfinite && !x[static_cast<std::size_t>(i)].finite());
  if (poisoned) {
    counts.refused += !has_nan(format);
    return has_nan(format) ? nan_code(format) : 0;
  }
  if (has_zero_points(job.format)) return range_scale_code(job, x, start, count, counts);
  const Dyadic amax = largest_of(x, start, count);
  counts.zero_blocks += amax.significand == 0;
  if (job.conversion.scale_rule == ScaleRule::fit && amax.significand != 0) {
    const std::uint32_t code = power_scale_code(job, amax);
    bool saturated = false;
    for (std::int64_t i = start; i < start + count; ++i) {
      const Unpacked& element = x[static_cast<std::size_t>(i)];
      const int exponent = min_exponent(format) + static_cast<int>(code);
      if (element.finite())
        saturated = saturated || encode_element(job.format.element, job.conversion, element, exponent, 0).saturated;
    }
    return std::min(code + (saturated ? 1 : 0), max_code(format));
  }
  const std::uint32_t code = job.scale_kind == ScaleKind::power_of_two
                                 ? power_scale_code(job, amax)
                                 : float_scale_code(job, amax, outside.factor, counts);
  if (!searches(job.conversion.scale_rule) || amax.significand == 0) return code;
  const std::vector<std::uint32_t> candidates = candidate_codes(job, amax, code, outside.factor);
  std::uint32_t best = candidates.front();
  double least = 0;
  for (const std::uint32_t candidate : candidates) {
    const Scale scale = inside(job.format, main_level(job.format), outside, candidate);
    const double error = error_under(job, line, x, start, count, scale);
    // Errors may be beyond float64; then the first one stays.
    if (candidate != candidates.front() && !(error < least)) continue;
    least = error;
    best = candidate;
  }
  return best;
}

// The code of a micro-level for the part of a block that begins at `start`: among those that it has, the nearest to
// what the rule wants for the largest element.
inline std::uint32_t micro_code(const QuantizeJob& job, const std::vector<Unpacked>& x, std::int64_t start,
                                std::int64_t count, int l, Scale outside) {
  const ScaleLevel& level = job.format.levels[static_cast<std::size_t>(l)];
  const bool floating = job.scale_kind == ScaleKind::floating;
  Dyadic amax = outside.poisoned ? Dyadic{} : largest_of(x, start, count);
  if (floating) amax = divided({.magnitude = amax}, outside.factor).magnitude;
  if (outside.poisoned) return 0;
  int shift = lowest_shift(level);
  Conversion how = job.conversion;
  if (floating) how.scale_rule = ScaleRule::floor;
  if (amax.significand != 0)
    shift = choose_exponent(job.format.element, how, amax) - reach_inside(job.format, l) - outside.exponent;
  return code_of_shift(level, std::clamp(shift, lowest_shift(level), highest_shift(level)));
}

}  // namespace sparq::reference
