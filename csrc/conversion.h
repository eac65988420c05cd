// How an encoder chooses bits: the open choices of docs/numerics.md sections 2 to 5, one field each.
#pragma once

#include <cstdint>

namespace sparq {

enum class Rounding : std::uint8_t { nearest_even, nearest_away, toward_zero };

enum class Overflow : std::uint8_t { saturate, special };

// Power-of-two rules of section 3, and amax / max for float scales (section 4).
enum class ScaleRule : std::uint8_t { floor, ceil, rceil, even, amax };

struct Conversion {
  Rounding rounding = Rounding::nearest_even;
  Overflow overflow = Overflow::saturate;
  ScaleRule scale_rule = ScaleRule::floor;

  friend constexpr bool operator==(const Conversion&, const Conversion&) = default;
};

}  // namespace sparq
