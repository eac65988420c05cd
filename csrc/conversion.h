// How an encoder chooses bits: the open choices of docs/numerics.md sections 2 to 5, one field each.
#pragma once

#include <cstdint>

namespace sparq {

enum class Rounding : std::uint8_t {
  nearest_even,
  nearest_away,
  nearest_zero,
  nearest_up,
  toward_zero,
  up,
  down,
  to_odd,
  stochastic,
};

// How a fraction meets random bits (section 2; P3109 calls these StochasticA, B and C).
enum class Stochastic : std::uint8_t { a, b, c };

// From the quotient amax / Vmax to the code of a short float scale (section 4).
enum class ScaleRounding : std::uint8_t { nearest_even, up };

inline constexpr int max_random_bits = 22;  // so that float32 holds fractions as integers

// Modes under which no finite value becomes Inf, whatever its sign (up and down: on one side of zero).
static constexpr bool keeps_finite(Rounding rounding) {
  return rounding == Rounding::toward_zero || rounding == Rounding::to_odd;
}

// Whether a directed mode moves a value of this sign away from zero.
static constexpr bool moves_away(Rounding rounding, bool negative) {
  return rounding == (negative ? Rounding::down : Rounding::up);
}

// Whether a directed mode moves a value of this sign toward zero.
static constexpr bool moves_in(Rounding rounding, bool negative) {
  return rounding == Rounding::toward_zero || rounding == (negative ? Rounding::up : Rounding::down);
}

enum class Overflow : std::uint8_t { saturate, special };

// Power-of-two rules of section 3, and for float scales (section 4) amax over the largest element, or the element of
// largest magnitude, with its sign, over the lowest integer.
enum class ScaleRule : std::uint8_t { floor, ceil, rceil, even, nearest, fit, mse, mae, amax, signed_max };

// Rules in which `divisor` stands for the largest element: rceil divides amax by it, floor takes the power of two of
// each.
static constexpr bool uses_divisor(ScaleRule rule) { return rule == ScaleRule::rceil || rule == ScaleRule::floor; }

// Rules that look at every element of a block, not at amax alone.
static constexpr bool searches(ScaleRule rule) { return rule == ScaleRule::mse || rule == ScaleRule::mae; }

// What NaN and Inf do to a block, or become themselves (section 5).
enum class NonFinite : std::uint8_t { poison, keep, ignore, largest, zero, error, saturate, zero_block };

// Where NaN has a rule of its own (section 5): its block takes the least scale.
enum class NanScale : std::uint8_t { same, least };

// Where Inf has a rule of its own (section 5): the largest float32; or an element that saturates under the scale of
// 2^128, or under the largest one.
enum class Infinite : std::uint8_t { same, largest, beyond, top };

// Of a power of two that a rule wants and the scale format does not reach, or of amax that counts as 2^128 (section 3).
enum class ScaleOverflow : std::uint8_t { clamp, nan, nan_amax };

// By what the elements under the least power of two are divided (section 3): by it, by the next one, or by 1.
enum class LeastScale : std::uint8_t { exact, next, one };

// Which negative zeros there are (section 2).
enum class SignedZero : std::uint8_t { keep, drop, underflow, negative };

// Of numbers below the smallest normal one (section 2).
enum class Subnormals : std::uint8_t { keep, flush };

// Whether two's complement uses its lowest code (section 2).
enum class IntegerRange : std::uint8_t { symmetric, full };

// What input is rounded to before anything else (section 2).
enum class Prerounding : std::uint8_t { none, bf16, bf16_toward_zero };

// How elements are brought to the exponent of their block, where that is a rounding of its own (section 3).
enum class AlignRounding : std::uint8_t { toward_zero, nearest_away, nearest_even };

// How a float scale meets an element (section 4); outer_reciprocal: by the reciprocal of the scale above the block's,
// over the block's.
enum class ScaleApply : std::uint8_t { divide, reciprocal, outer_reciprocal };

// How amax meets what it is divided by (section 4).
enum class DivisorApply : std::uint8_t { divide, reciprocal };

// How the largest magnitude below a scale above others meets what that is computed from, what stands for one that is no
// number of float32, and in which order amax, the divisor and that scale meet (section 4).
enum class OuterApply : std::uint8_t { divide, reciprocal };
enum class OuterOverflow : std::uint8_t { clamp, one, infinity };
enum class ScaleOrder : std::uint8_t { amax_first, outer_first };

// Of a short float scale that rounds to zero: the least that is written, that of a block of zeros, or zero; `zeros`
// makes zeros of the elements below it too (section 4). `nan` is for the quotient of a float32 logarithm (section 3).
enum class ScaleUnderflow : std::uint8_t { least, zero_scale, zero, zeros, nan };

// Whether a short float scale may be zero.
static constexpr bool writes_zero(ScaleUnderflow underflow) {
  return underflow == ScaleUnderflow::zero || underflow == ScaleUnderflow::zeros;
}

// What elements are divided by: the scale as it is stored, or the quotient before it was rounded to a code (section 4).
enum class DivideBy : std::uint8_t { stored, quotient };

// The type of scales and their reciprocals before they become codes, and of what elements become under them (section
// 4).
enum class ScaleCompute : std::uint8_t { fp32, bf16 };
enum class ApplyCompute : std::uint8_t { fp32, bf16 };

// Where the exponent of amax comes from: its bits, or the float32 logarithm that some libraries take (section 3).
enum class AmaxExponent : std::uint8_t { bits, log2 };

// The same of elements that are cut (section 3).
enum class ElementExponent : std::uint8_t { bits, log2 };

// Of the half that is added to a number before it is cut to the nearest integer (section 2).
enum class HalfSum : std::uint8_t { exact, fp32 };

// A number of float32 rounded once more, to bfloat16, nearest even.
static constexpr float as_bf16(float number) {
  const auto bits = __builtin_bit_cast(std::uint32_t, number);
  return __builtin_bit_cast(float, (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
}

struct Conversion {
  Rounding rounding = Rounding::nearest_even;
  Overflow overflow = Overflow::saturate;
  ScaleRule scale_rule = ScaleRule::floor;
  ScaleRounding scale_rounding = ScaleRounding::nearest_even;  // of short float scales only
  int scale_minimum = 0;                                       // least scale code that is written
  Stochastic stochastic = Stochastic::a;                       // of stochastic rounding only, like the next
  int random_bits = 16;
  NonFinite nonfinite = NonFinite::poison;
  Infinite infinite = Infinite::same;
  NanScale nan_scale = NanScale::same;
  ScaleOverflow scale_overflow = ScaleOverflow::clamp;
  LeastScale least_scale = LeastScale::exact;
  SignedZero signed_zero = SignedZero::keep;
  Subnormals subnormals = Subnormals::keep;        // of elements
  Subnormals input_subnormals = Subnormals::keep;  // below 2^-126
  IntegerRange integer_range = IntegerRange::symmetric;
  Prerounding preround = Prerounding::none;
  AmaxExponent amax_exponent = AmaxExponent::bits;
  ElementExponent element_exponent = ElementExponent::bits;
  HalfSum half_sum = HalfSum::exact;
  ScaleApply scale_apply = ScaleApply::divide;
  DivisorApply divisor_apply = DivisorApply::divide;
  DivideBy divide_by = DivideBy::stored;
  OuterApply outer_apply = OuterApply::divide;
  OuterOverflow outer_overflow = OuterOverflow::clamp;
  ScaleOrder scale_order = ScaleOrder::amax_first;
  ScaleUnderflow scale_underflow = ScaleUnderflow::least;
  ScaleCompute scale_compute = ScaleCompute::fp32;
  ApplyCompute apply_compute = ApplyCompute::fp32;
  float divisor = 0;    // what amax is divided by (rceil, amax); 0: the largest element
  int even_bits = -1;   // mantissa bits that `even` rounds amax to; -1: those of the element
  int zero_scale = -1;  // scale code of a block of zeros; -1: the least that is written
  // Elements are first rounded to this many bits below the block's largest exponent; 0: they are not (section 3).
  int align_bits = 0;
  AlignRounding align_rounding = AlignRounding::toward_zero;
  // Integers under float scales: added to x / s before it is cut (section 4); 0: nothing is.
  float cut_offset = 0;

  friend constexpr bool operator==(const Conversion&, const Conversion&) = default;
};

}  // namespace sparq
