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
enum class ScaleRule : std::uint8_t { floor, ceil, rceil, even, amax };

struct Conversion {
  Rounding rounding = Rounding::nearest_even;
  Overflow overflow = Overflow::saturate;
  ScaleRule scale_rule = ScaleRule::floor;
  ScaleRounding scale_rounding = ScaleRounding::nearest_even;  // of short float scales only
  int scale_minimum = 0;                                       // least scale code that is written
  Stochastic stochastic = Stochastic::a;                       // of stochastic rounding only, like the next
  int random_bits = 16;

  friend constexpr bool operator==(const Conversion&, const Conversion&) = default;
};

}  // namespace sparq
