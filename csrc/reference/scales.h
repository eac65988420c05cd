// Sections 3 and 4 of docs/numerics.md: from the elements of a block to its scales, level by level, and what scales do.
#pragma once

#include <bit>
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
  int exponent = 0;   // of powers of two, micro-exponents included
  float factor = 1;   // of float scales, the outer one included
  float divisor = 1;  // what elements are divided by: the same but for section 4's exceptions
  float stored = 1;   // the scale of the innermost float level as it is stored
  float outer = 1;    // that of the level above the main one
  double share = 0;   // divide_top: the stored one over the largest one times the outer one, in float64
  int zero = 0;       // zero point, in units of the element
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
  if (!is_power_of_two_scale(level.format)) {
    scale.outer = outside.stored;
    scale.stored = to_float(x);
    const Combine outer = l == 0 ? Combine::multiply : format.levels[0].combine;
    scale.divisor = outer == Combine::multiply ? scale.stored * scale.outer
                    : outer == Combine::divide ? scale.stored / scale.outer
                                               : scale.stored * (1 / scale.outer);
    if (outer == Combine::divide_top) {
      const float top = to_float({.magnitude = value_of(level.format, max_code(level.format))});
      scale.share = double{scale.stored} / (double{top} * double{scale.outer});
      scale.divisor = static_cast<float>(scale.share);
    }
    scale.factor = outer == Combine::reciprocals ? 1 / (1 / scale.divisor) : scale.divisor;
  } else
    scale.exponent += level.combine == Combine::divide ? -x.magnitude.exponent : x.magnitude.exponent;
  return scale;
}

inline float as_bfloat16(float number) {
  const ElementFormat bf16{8, 7, 127, Specials::ieee};
  return to_float(
      decode_code(bf16, encode_element(bf16, {.overflow = Overflow::special}, from_float(number), 0, 0).code));
}

// A scale, or its reciprocal, in the type that section 4 asks for.
inline float computed(const Conversion& how, float number) {
  return how.scale_compute == ScaleCompute::bf16 ? as_bfloat16(number) : number;
}

// Section 4, step 3: what is rounded under a float scale. Where that is no number of float32 other than zero, the
// nearest one divides; where a quotient of zero divides, everything is zero.
inline Unpacked divided(const QuantizeJob& job, const Unpacked& x, const Scale& scale) {
  const Conversion& how = job.conversion;
  const float by = scale.divisor;
  if (how.divide_by == DivideBy::quotient && by == 0 && x.finite()) return {.negative = x.negative, .magnitude = {}};
  if (how.scale_underflow == ScaleUnderflow::zeros && by == 0 && x.finite()) return {};
  const float largest = std::numeric_limits<float>::max();
  const float least = std::nextafter(0.0F, 1.0F);  // also where zero times Inf was to divide
  const float divisor = std::copysign(std::isnan(by) ? least : std::clamp(std::fabs(by), least, largest), by);
  const bool multiplies = how.scale_apply != ScaleApply::divide;
  const float limit = how.scale_compute == ScaleCompute::bf16 ? 0x1.FEp127F : largest;
  float times = std::clamp(computed(how, 1 / divisor), -limit, limit);
  if (job.multiplies_directly) {
    if (x.finite() && x.magnitude.significand == 0) return x;
    const bool over = how.scale_apply == ScaleApply::outer_reciprocal;
    times = over ? 1 / scale.outer / scale.stored : static_cast<float>(1 / scale.share);
  }
  if (how.cut_offset > 0 && x.finite()) {
    const float sum = to_float(x) * times + how.cut_offset;
    return from_float(std::trunc(std::clamp(sum, -0x1p20F, 0x1p20F)) - std::floor(how.cut_offset));
  }
  const float quotient = multiplies ? to_float(x) * times : to_float(x) / divisor;
  return from_float(how.apply_compute == ApplyCompute::bf16 ? as_bfloat16(quotient) : quotient);
}

inline Dyadic largest_of(const std::vector<Unpacked>& line, std::int64_t start, std::int64_t count) {
  Dyadic amax;
  for (std::int64_t i = start; i < start + count; ++i) {
    const Unpacked& x = line[static_cast<std::size_t>(i)];
    if (x.finite() && compare(x.magnitude, amax) > 0) amax = x.magnitude;
  }
  return amax;
}

// A quotient as the code of a short float: the codes around it by search, or the least that is written.
inline std::uint32_t short_code(const QuantizeJob& job, float quotient) {
  const ElementFormat& format = main_scale(job.format).format;
  const bool up = job.conversion.scale_rounding == ScaleRounding::up;
  const Conversion how{.rounding = up ? Rounding::up : Rounding::nearest_even,
                       .overflow = has_infinity(format) ? Overflow::special : Overflow::saturate};
  const bool needs_number =
      format.zero && job.conversion.divide_by == DivideBy::stored && !writes_zero(job.conversion.scale_underflow);
  const auto least = static_cast<std::uint32_t>(std::max(needs_number ? 1 : 0, job.conversion.scale_minimum));
  const Unpacked x = from_float(quotient);
  std::uint32_t code = 0;
  if (compare(x.magnitude, value_of(format, 0)) > 0) code = encode_element(format, how, x, 0, 0).code;
  if (job.conversion.scale_underflow == ScaleUnderflow::zero_scale && code == 0)
    return static_cast<std::uint32_t>(job.conversion.zero_scale);
  return std::max(least, code);
}

// Section 4: the scale above others that encoders multiply by.
inline float encode_scale(const QuantizeJob& job, float amax, float largest) {
  const float once = job.conversion.outer_apply == OuterApply::reciprocal ? largest * (1 / amax) : largest / amax;
  if (!std::isinf(once) || job.conversion.outer_overflow == OuterOverflow::infinity) return once;
  return job.conversion.outer_overflow == OuterOverflow::one ? 1 : std::numeric_limits<float>::max();
}

// Section 4, step 2, before it is rounded to a code: amax / Vmax, below `outer`.
inline float scale_quotient(const QuantizeJob& job, Dyadic amax, float outer) {
  const Conversion& how = job.conversion;
  Dyadic top = divisor_of(job.format.element, how);
  top.exponent += job.reach;
  const float divisor = job.outer_divisor * to_float({.magnitude = top}), size = to_float({.magnitude = amax});
  const bool encodes = is_encode_scale(job.format.levels[0]), two = has_outer_level(job.format);
  if (job.makes_outer && encodes) return encode_scale(job, size, divisor);
  const auto over_divisor = [&](float number, DivisorApply apply) {
    return computed(how, apply == DivisorApply::reciprocal ? number * computed(how, 1 / divisor) : number / divisor);
  };
  float quotient = 0;
  if (two && how.scale_order == ScaleOrder::outer_first) {
    quotient = encodes ? size * over_divisor(outer, how.divisor_apply) : size / computed(how, outer * divisor);
    quotient = computed(how, quotient);
  } else {
    const bool of_outer = job.makes_outer;
    const bool multiplies =
        of_outer ? how.outer_apply == OuterApply::reciprocal : how.divisor_apply == DivisorApply::reciprocal;
    quotient = over_divisor(size, multiplies ? DivisorApply::reciprocal : DivisorApply::divide);
    if (two && job.format.levels[0].combine == Combine::divide_top)
      quotient = static_cast<float>(quotient * (double{job.largest_scale} * double{outer}));
    else if (two)
      quotient = computed(how, encodes ? quotient * outer : quotient / outer);
  }
  // Also of nothing times an Inf.
  if (two && encodes && !std::isfinite(quotient)) quotient = std::numeric_limits<float>::max();
  return quotient == 0 && how.divide_by == DivideBy::stored ? std::nextafter(0.0F, 1.0F) : quotient;
}

// The code of that; `quotient` is what it was before.
inline std::uint32_t float_scale_code(const QuantizeJob& job, Dyadic amax, float outer, float& quotient,
                                      Counts& counts) {
  const bool zeros = amax.significand == 0;
  quotient = zeros ? 0 : scale_quotient(job, amax, outer);
  const bool may_be_infinite = job.makes_outer && job.conversion.outer_overflow == OuterOverflow::infinity;
  counts.refused += std::isinf(quotient) && !may_be_infinite;
  if (is_float32(main_scale(job.format).format)) return std::bit_cast<std::uint32_t>(zeros ? 1.0F : quotient);
  if (zeros && job.conversion.zero_scale >= 0) return static_cast<std::uint32_t>(job.conversion.zero_scale);
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

// Whether the rule wants what the scale format does not reach, where that is NaN; `even` also if amax rounds to 2^128,
// and any rule under nan_amax. So is an amax whose quotient rounds to zero, where that is asked for.
inline bool is_beyond(const QuantizeJob& job, Dyadic amax) {
  const Conversion& how = job.conversion;
  if (job.scale_kind != ScaleKind::power_of_two) return false;
  if (how.scale_underflow == ScaleUnderflow::nan) {
    const Dyadic top = divisor_of(job.format.element, how);
    if (to_float({.magnitude = amax}) / to_float({.magnitude = top}) == 0) return true;
  }
  if (how.scale_overflow == ScaleOverflow::clamp) return false;
  const ElementFormat& format = main_scale(job.format).format;
  const int highest = min_exponent(format) + static_cast<int>(max_code(format));
  const int wanted = choose_exponent(job.format.element, how, amax);
  const bool of_amax = how.scale_rule == ScaleRule::even || how.scale_overflow == ScaleOverflow::nan_amax;
  if (of_amax && wanted + taken_off(job.format.element, how) > 127) return true;
  return wanted - job.reach > highest;
}

// The code of 2^128 over the largest power of two among elements, or over that of the divisor.
inline std::uint32_t infinite_scale_code(const QuantizeJob& job) {
  const ElementFormat& format = main_scale(job.format).format;
  const int of_rule = taken_off(job.format.element, job.conversion);
  const int lowest = min_exponent(format) + job.conversion.scale_minimum;
  const int highest = min_exponent(format) + static_cast<int>(max_code(format));
  return static_cast<std::uint32_t>(std::clamp(128 - of_rule, lowest, highest) - min_exponent(format));
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
  const std::uint64_t bits = to_ieee(exact_value, to, Rounds::nearest_even, exact);
  counts.inexact += !exact;
  return bits | sign;
}

inline Unpacked as_largest(Unpacked x) {
  if (x.finite()) return x;
  return {.negative = x.negative && !x.nan, .magnitude = {(1U << 24) - 1, 104}};
}

// Whether NaN gives a block the least scale.
inline bool counts_nan(const Conversion& how, const std::vector<Unpacked>& x, std::int64_t start, std::int64_t count) {
  bool nan = false;
  for (std::int64_t i = start; i < start + count; ++i) nan = nan || x[static_cast<std::size_t>(i)].nan;
  return nan && how.nan_scale == NanScale::least;
}

// Whether Inf, and nothing else, keeps a block from being finite, and has a scale.
inline bool counts_infinite(const Conversion& how, const std::vector<Unpacked>& x, std::int64_t start,
                            std::int64_t count) {
  bool some = false, nan = false;
  for (std::int64_t i = start; i < start + count; ++i) {
    some = some || x[static_cast<std::size_t>(i)].infinite;
    nan = nan || x[static_cast<std::size_t>(i)].nan;
  }
  return some && !nan && (how.infinite == Infinite::beyond || how.infinite == Infinite::top);
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

// What float32 steps make of an element that was scaled by 2^exponent, where section 2 or 3 asks for them.
inline Unpacked stepped(const QuantizeJob& job, Unpacked v, int exponent) {
  const ElementFormat& f = job.format.element;
  if (!v.finite() || v.magnitude.significand == 0) return v;
  if (job.conversion.half_sum == HalfSum::fp32) {
    // Of float32 numbers only the one below one half is taken over an integer by the sum.
    const int quantum = min_exponent(f) - f.mantissa_bits + exponent;
    if (compare(v.magnitude, {(1U << 24) - 1, quantum - 25}) == 0) v.magnitude = {1, quantum};
  }
  if (job.conversion.element_exponent == ElementExponent::log2) {
    const double scaled = std::ldexp(static_cast<double>(v.magnitude.significand), v.magnitude.exponent - exponent);
    const int binade = static_cast<int>(std::floor(static_cast<float>(std::log2(scaled))));
    v = aligned(v, std::max(binade, min_exponent(f)) - f.mantissa_bits + exponent, AlignRounding::toward_zero);
  }
  return v;
}

// One element under a scale, before its value is decoded.
inline Encoded encode_scaled(const QuantizeJob& job, const Unpacked& x, const Scale& scale, std::uint32_t random) {
  const bool floating = job.scale_kind == ScaleKind::floating;
  Unpacked v = floating ? divided(job, x, scale) : x;
  if (v.infinite && x.finite()) v = as_largest(v);  // x / s left float32: a large number
  if (has_zero_points(job.format)) return encode_moved(job, x, v, scale, random);
  if (job.conversion.align_bits > 0)
    v = aligned(v, scale.exponent + max_exponent(job.format.element) - job.conversion.align_bits,
                job.conversion.align_rounding);
  int exponent = scale.exponent;
  const LeastScale least = job.conversion.least_scale;
  if (least != LeastScale::exact && exponent == min_exponent(main_scale(job.format).format))
    exponent = least == LeastScale::next ? exponent + 1 : 0;
  if (job.adjusts) v = stepped(job, v, exponent);
  return encode_element(job.format.element, job.conversion, v, exponent, random);
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

// The code of the main level for a block that begins at `start`, and under float scales what it was before.
inline std::uint32_t main_code(const QuantizeJob& job, const Line& line, const std::vector<Unpacked>& x,
                               std::int64_t start, std::int64_t count, Scale outside, float& quotient, Counts& counts) {
  const ElementFormat& format = main_scale(job.format).format;
  bool poisoned = outside.poisoned;
  const bool infinite = counts_infinite(job.conversion, x, start, count);
  const bool least = counts_nan(job.conversion, x, start, count);
  for (std::int64_t i = start; i < start + count; ++i)
    poisoned = poisoned || (!job.skip_nonfinite && !infinite && !least && !x[static_cast<std::size_t>(i)].finite());
  if (poisoned && job.makes_outer && job.conversion.outer_overflow == OuterOverflow::one &&
      x[static_cast<std::size_t>(start)].nan)
    return std::bit_cast<std::uint32_t>(1.0F);
  if (poisoned) {
    counts.refused += !has_nan(format);
    return has_nan(format) ? nan_code(format) : 0;
  }
  if (has_zero_points(job.format)) return range_scale_code(job, x, start, count, counts);
  if (least) return static_cast<std::uint32_t>(job.conversion.scale_minimum);
  if (infinite) {
    if (job.conversion.infinite == Infinite::top) return max_code(format);
    return infinite_scale_code(job);
  }
  const Dyadic amax = largest_of(x, start, count);
  counts.zero_blocks += amax.significand == 0;
  if (amax.significand != 0 && is_beyond(job, amax)) return nan_code(format);
  if (job.conversion.scale_rule == ScaleRule::fit && amax.significand != 0) {
    const std::uint32_t code = power_scale_code(job, amax);
    bool saturated = false;
    for (std::int64_t i = start; i < start + count; ++i) {
      const Unpacked& element = x[static_cast<std::size_t>(i)];
      const int exponent = min_exponent(format) + static_cast<int>(code);
      if (element.finite())
        saturated = saturated || encode_element(job.format.element, job.conversion, element, exponent, 0).saturated;
    }
    const std::uint32_t fitting = code + (saturated ? 1 : 0);
    if (job.conversion.scale_overflow != ScaleOverflow::clamp && fitting > max_code(format)) return nan_code(format);
    if (job.conversion.scale_overflow == ScaleOverflow::nan_amax) {
      // Nor may the lowest integer be -2^128.
      const int exponent = min_exponent(format) + static_cast<int>(fitting);
      bool beyond = exponent + max_exponent(job.format.element) > 127;
      for (std::int64_t i = start; i < start + count; ++i) {
        const Unpacked& element = x[static_cast<std::size_t>(i)];
        const std::uint32_t made = encode_element(job.format.element, job.conversion, element, exponent, 0).code;
        const Dyadic size = decode_code(job.format.element, made).magnitude;
        beyond = beyond || (element.finite() && compare({size.significand, size.exponent + exponent}, {1, 128}) >= 0);
      }
      if (beyond) return nan_code(format);
    }
    return std::min(fitting, max_code(format));
  }
  const std::uint32_t code = job.scale_kind == ScaleKind::power_of_two
                                 ? power_scale_code(job, amax)
                                 : float_scale_code(job, amax, outside.factor, quotient, counts);
  if (job.conversion.scale_rule == ScaleRule::signed_max) {
    // The first of the largest, which zeros do not have, goes to the lowest integer.
    const auto is_largest = [&](const Unpacked& e) { return e.finite() && compare(e.magnitude, amax) == 0; };
    const auto first = std::find_if(x.begin() + start, x.begin() + start + count, is_largest);
    if (amax.significand != 0 && first->negative) return code;
    quotient = -quotient;
    return code | sign_bit(format);
  }
  if (!searches(job.conversion.scale_rule) || amax.significand == 0) return code;
  const std::vector<std::uint32_t> candidates = candidate_codes(job, amax, code, outside.factor);
  std::uint32_t best = candidates.front();
  double smallest = 0;
  for (const std::uint32_t candidate : candidates) {
    const Scale scale = inside(job.format, main_level(job.format), outside, candidate);
    const double error = error_under(job, line, x, start, count, scale);
    // Errors may be beyond float64; then the first one stays.
    if (candidate != candidates.front() && !(error < smallest)) continue;
    smallest = error;
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
  if (floating) amax = as_largest(divided(job, {.magnitude = amax}, outside)).magnitude;
  if (outside.poisoned) return 0;
  int shift = lowest_shift(level);
  const Conversion how = floating ? Conversion{.scale_rule = ScaleRule::floor} : job.conversion;
  if (amax.significand != 0)
    shift = choose_exponent(job.format.element, how, amax) - reach_inside(job.format, l) - outside.exponent;
  return code_of_shift(level, std::clamp(shift, lowest_shift(level), highest_shift(level)));
}

}  // namespace sparq::reference
