// How an encoder chooses bits: the open choices of docs/numerics.md sections 2 to 5, one field each.
#pragma once

#include <cstdint>

namespace sparq {

enum class Rounding : std::uint8_t {
  nearest_even,
  nearest_away,
  nearest_zero,
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

// Power-of-two rules of section 3, and amax / max for float scales (section 4).
enum class ScaleRule : std::uint8_t { floor, ceil, rceil, even, nearest, fit, mse, mae, amax };

// Rules that look at every element of a block, not at amax alone.
static constexpr bool searches(ScaleRule rule) { return rule == ScaleRule::mse || rule == ScaleRule::mae; }

// What NaN and Inf do to a block, or become themselves (section 5).
enum class NonFinite : std::uint8_t { poison, keep, ignore, largest, error };

// Which negative zeros there are (section 2).
enum class SignedZero : std::uint8_t { keep, drop, underflow };

// Of numbers below the smallest normal one (section 2).
enum class Subnormals : std::uint8_t { keep, flush };

// Whether two's complement uses its lowest code (section 2).
enum class IntegerRange : std::uint8_t { symmetric, full };

// What input is rounded to before anything else (section 2).
enum class Prerounding : std::uint8_t { none, bf16, bf16_toward_zero };

// How elements are brought to the exponent of their block, where that is a rounding of its own (section 3).
enum class AlignRounding : std::uint8_t { toward_zero, nearest_away };

// How a float scale meets an element (section 4).
enum class ScaleApply : std::uint8_t { divide, reciprocal };

struct Conversion {
  Rounding rounding = Rounding::nearest_even;
  Overflow overflow = Overflow::saturate;
  ScaleRule scale_rule = ScaleRule::floor;
  ScaleRounding scale_rounding = ScaleRounding::nearest_even;  // of short float scales only
  int scale_minimum = 0;                                       // least scale code that is written
  Stochastic stochastic = Stochastic::a;                       // of stochastic rounding only, like the next
  int random_bits = 16;
  NonFinite nonfinite = NonFinite::poison;
  SignedZero signed_zero = SignedZero::keep;
  Subnormals subnormals = Subnormals::keep;        // of elements
  Subnormals input_subnormals = Subnormals::keep;  // below 2^-126
  IntegerRange integer_range = IntegerRange::symmetric;
  Prerounding preround = Prerounding::none;
  ScaleApply scale_apply = ScaleApply::divide;
  float divisor = 0;    // what amax is divided by (rceil, amax); 0: the largest element
  int even_bits = -1;   // mantissa bits that `even` rounds amax to; -1: those of the element
  int zero_scale = -1;  // scale code of a block of zeros; -1: the least that is written
  // Elements are first rounded to this many bits below the block's largest exponent; 0: they are not (section 3).
  int align_bits = 0;
  AlignRounding align_rounding = AlignRounding::toward_zero;

  friend constexpr bool operator==(const Conversion&, const Conversion&) = default;
};

}  // namespace sparq
