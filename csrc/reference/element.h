// Element codes by the list of their values: magnitude codes are in the order of their values, so code c is entry c.
#pragma once

#include <bit>
#include <cmath>

#include "../conversion.h"
#include "../format.h"
#include "exact.h"

namespace sparq::reference {

// Also beyond the largest finite code, where the grid goes on as if exponents were unbounded.
inline Dyadic value_of(const ElementFormat& f, std::uint32_t magnitude_code) {
  const Magnitude m = magnitude_of(f, magnitude_code);
  return {m.significand, m.exponent};
}

inline Unpacked decode_code(const ElementFormat& f, std::uint32_t code) {
  Unpacked x;
  x.nan = classify(f, code) == CodeClass::nan;
  x.infinite = classify(f, code) == CodeClass::infinity;
  x.negative = (code & sign_bit(f)) != 0;
  std::uint32_t magnitude = code_from_memory(f, code) & magnitude_mask(f);
  if (f.signedness == Signedness::twos_complement && x.negative) magnitude = sign_bit(f) - magnitude;
  if (x.finite()) x.magnitude = value_of(f, magnitude);
  return x;
}

struct Encoded {
  std::uint32_t code = 0;
  bool saturated = false, underflowed = false, refused = false;
};

// Stochastic rounding turned around: with random bits R, which fraction above `lower` is the first to go up? For floor
// (variants a and b) an integer is reached from itself on; for nearest even (c) from half a unit below, and at that
// half only by an even integer. `lower` is a multiple of the quantum, which its exponent names.
inline bool lucky(const Conversion& how, Dyadic v, Dyadic lower, std::uint32_t random) {
  const bool nearest = how.stochastic == Stochastic::c;
  const int bits = how.random_bits + (how.stochastic == Stochastic::b ? 1 : 0);
  const std::uint64_t needed = (std::uint64_t{1} << bits) - (how.stochastic == Stochastic::b ? 2 * random + 1 : random);
  const std::uint64_t point = 2 * needed - (nearest ? 1 : 0);  // in units of 2^-(bits + 1) quanta
  const int side = compare(v, {(lower.significand << (bits + 1)) + point, lower.exponent - bits - 1});
  return side > 0 || (side == 0 && (!nearest || needed % 2 == 0));
}

// Sections 1, 2 and 5 of docs/numerics.md by search: the two codes around |x| / 2^scale, then the midpoint.
// `random` is for stochastic rounding.
inline Encoded encode_element(const ElementFormat& f, const Conversion& how, const Unpacked& x, int scale,
                              std::uint32_t random) {
  Encoded result;
  const std::uint32_t special = has_infinity(f) ? infinity_code(f) : has_nan(f) ? nan_code(f) : max_code(f);
  // Two's complement has one more negative number than positive ones.
  const bool extended = how.integer_range == IntegerRange::full && x.negative;
  const std::uint32_t largest = max_code(f) + (extended ? 1 : 0);
  const std::uint32_t overflow = how.overflow == Overflow::saturate ? largest : special;
  const bool negative_zero = has_negative_zero(f) && how.signed_zero != SignedZero::drop;
  std::uint32_t code = 0;
  if (x.nan) {
    result.refused = !has_nan(f) && how.nonfinite != NonFinite::ignore && how.nan_scale != NanScale::least;
    result.code = has_nan(f) ? nan_code(f) : 0;  // which lies where it is in any format
    return result;
  }
  if (x.infinite) {
    code = how.nonfinite == NonFinite::keep ? special : overflow;
  } else {
    const Dyadic v{x.magnitude.significand, x.magnitude.exponent - scale};
    std::uint32_t below = 0, above = largest + 1;  // value(below) <= v, and v < value(above) unless it overflows
    if (compare(v, value_of(f, above)) >= 0) {
      below = above;
    } else {
      while (above - below > 1) {
        const std::uint32_t middle = below + (above - below) / 2;
        (compare(value_of(f, middle), v) <= 0 ? below : above) = middle;
      }
    }
    code = below;
    if (below <= largest && compare(value_of(f, below), v) != 0) {
      const Dyadic lower = value_of(f, below), upper = value_of(f, below + 1);
      // Twice the midpoint, against twice v.
      const int shift = upper.exponent - lower.exponent;
      const Dyadic sum{lower.significand + (upper.significand << shift), lower.exponent - 1};
      const int side = compare(v, sum);
      const bool odd = (lower.significand & 1) != 0;
      bool up = false;
      switch (how.rounding) {
        case Rounding::nearest_even: up = side > 0 || (side == 0 && odd); break;
        case Rounding::nearest_away: up = side >= 0; break;
        case Rounding::nearest_zero: up = side > 0; break;
        case Rounding::nearest_up: up = side > 0 || (side == 0 && !x.negative); break;
        case Rounding::toward_zero: break;
        case Rounding::up: up = !x.negative; break;
        case Rounding::down: up = x.negative; break;
        case Rounding::to_odd: up = !odd; break;
        case Rounding::stochastic: up = lucky(how, v, lower, random); break;
      }
      code = below + (up ? 1 : 0);
    }
    if (code > largest) {
      result.saturated = true;
      code = keeps_finite(how.rounding) || moves_in(how.rounding, x.negative) ? largest : overflow;
    }
    const Dyadic smallest_normal{1, min_exponent(f)};
    if (how.subnormals == Subnormals::flush && compare(value_of(f, code), smallest_normal) < 0) code = 0;
  }
  const bool is_nan = has_nan(f) && code == nan_code(f);
  if (x.negative && !is_nan && (code != 0 || negative_zero))
    code = f.signedness == Signedness::twos_complement ? (2 * sign_bit(f) - code) & (2 * sign_bit(f) - 1)
                                                       : code | sign_bit(f);
  result.code = code_in_memory(f, code);
  return result;
}

// |x| to a multiple of 2^quantum: cut, or to the nearest one, ties away from zero or to even.
inline Unpacked aligned(Unpacked x, int quantum, AlignRounding how) {
  if (!x.finite() || x.magnitude.exponent >= quantum) return x;
  const int drop = quantum - x.magnitude.exponent;
  if (drop > 62) return {.negative = x.negative, .magnitude = {}};
  const std::uint64_t half = std::uint64_t{1} << (drop - 1);
  const std::uint64_t whole = x.magnitude.significand >> drop, rest = x.magnitude.significand & (2 * half - 1);
  const bool tie_up = how == AlignRounding::nearest_away || (whole & 1) != 0;
  const bool up = how != AlignRounding::toward_zero && (rest > half || (rest == half && tie_up));
  x.magnitude = {whole + (up ? 1 : 0), quantum};
  return x;
}

// What amax is divided by.
inline Dyadic divisor_of(const ElementFormat& f, const Conversion& how) {
  if (how.divisor == 0) return value_of(f, max_code(f) + (how.scale_rule == ScaleRule::signed_max ? 1 : 0));
  return unpack(std::bit_cast<std::uint32_t>(how.divisor), ieee_type(FloatType::fp32)).magnitude;
}

// floor(log2) of a number.
inline int exponent_of(Dyadic x) {
  int top = x.exponent - 1;
  for (std::uint64_t rest = x.significand; rest != 0; rest >>= 1) ++top;
  return top;
}

// What rules take off the exponent of amax: that of the largest element, or of what stands for it.
inline int taken_off(const ElementFormat& f, const Conversion& how) {
  return uses_divisor(how.scale_rule) ? exponent_of(divisor_of(f, how)) : max_exponent(f);
}

// The exponent of a block from the float32 logarithm. That of a float32 number is far from what rounding decides, for
// float64.
inline int exponent_by_log2(const ElementFormat& f, const Conversion& how, Dyadic amax) {
  const auto value = static_cast<float>(std::ldexp(static_cast<double>(amax.significand), amax.exponent));
  const auto log2 = [](float x) { return static_cast<float>(std::log2(static_cast<double>(x))); };
  if (how.scale_rule == ScaleRule::rceil) {
    const Dyadic top = divisor_of(f, how);
    const float quotient = value / std::ldexp(static_cast<float>(top.significand), top.exponent);
    return quotient == 0 ? -1500 : static_cast<int>(std::ceil(log2(quotient)));
  }
  const float whole = how.scale_rule == ScaleRule::ceil ? std::ceil(log2(value)) : std::floor(log2(value));
  return static_cast<int>(whole) - taken_off(f, how);
}

// Section 3 by search over exponents: floor(log2 amax), then what the rule compares.
inline int choose_exponent(const ElementFormat& f, const Conversion& how, Dyadic amax) {
  if (how.amax_exponent == AmaxExponent::log2) return exponent_by_log2(f, how, amax);
  int log2 = -1200;
  while (compare({1, log2 + 1}, amax) <= 0) ++log2;
  const int floor_exponent = log2 - taken_off(f, how);
  bool promote = false;
  switch (how.scale_rule) {
    case ScaleRule::floor:
    case ScaleRule::fit:  // these look at the elements afterwards
    case ScaleRule::mse:
    case ScaleRule::mae:
    case ScaleRule::amax:
    case ScaleRule::signed_max: break;
    case ScaleRule::ceil: promote = compare(amax, {1, log2}) > 0; break;
    case ScaleRule::nearest: promote = compare(amax, {3, log2 - 1}) >= 0; break;
    case ScaleRule::rceil: {
      // The least exponent under which the divisor is not below amax.
      const Dyadic top = divisor_of(f, how);
      int least = -1500;
      while (compare(amax, {top.significand, top.exponent + least}) > 0) ++least;
      return least;
    }
    case ScaleRule::even: {
      const int m = how.even_bits < 0 ? top_fraction_bits(f) : how.even_bits;
      promote = compare(amax, {(std::uint64_t{1} << (m + 2)) - 1, log2 - m - 1}) >= 0;
      break;
    }
  }
  return floor_exponent + (promote ? 1 : 0);
}

}  // namespace sparq::reference
