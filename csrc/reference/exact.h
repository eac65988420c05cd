// Exact numbers for the reference: dyadic magnitudes for comparing, and a fixed-point number wide enough for any sum.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "../layout.h"

namespace sparq::reference {

// significand * 2^exponent, not negative.
struct Dyadic {
  std::uint64_t significand = 0;
  int exponent = 0;
};

// -1, 0 or 1. Both sides are brought to the same length.
inline int compare(Dyadic a, Dyadic b) {
  if (a.significand == 0 || b.significand == 0) return (a.significand != 0) - (b.significand != 0);
  for (Dyadic* x : {&a, &b}) {
    const int unused = std::countl_zero(x->significand);
    *x = {x->significand << unused, x->exponent - unused};
  }
  if (a.exponent != b.exponent) return a.exponent < b.exponent ? -1 : 1;
  return a.significand == b.significand ? 0 : a.significand < b.significand ? -1 : 1;
}

// An IEEE type's bits, taken apart.
struct Unpacked {
  bool negative = false, nan = false, infinite = false;
  Dyadic magnitude;

  bool finite() const { return !nan && !infinite; }
};

struct IeeeType {
  int exponent_bits, mantissa_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  std::uint64_t infinity() const { return ((std::uint64_t{1} << exponent_bits) - 1) << mantissa_bits; }
  std::uint64_t nan() const { return infinity() | std::uint64_t{1} << (mantissa_bits - 1); }
};

inline IeeeType ieee_type(FloatType type) {
  switch (type) {
    case FloatType::fp16: return {5, 10};
    case FloatType::bf16: return {8, 7};
    case FloatType::fp32: return {8, 23};
    case FloatType::fp64: break;
  }
  return {11, 52};
}

inline Unpacked unpack(std::uint64_t bits, IeeeType type) {
  Unpacked x;
  const std::uint64_t mantissa = bits & ((std::uint64_t{1} << type.mantissa_bits) - 1);
  const int field = static_cast<int>(bits >> type.mantissa_bits) & ((1 << type.exponent_bits) - 1);
  x.negative = bits >> (type.exponent_bits + type.mantissa_bits) != 0;
  if (field == (1 << type.exponent_bits) - 1) {
    x.nan = mantissa != 0;
    x.infinite = mantissa == 0;
  } else if (field == 0) {
    x.magnitude = {mantissa, 1 - type.bias() - type.mantissa_bits};
  } else {
    x.magnitude = {mantissa | std::uint64_t{1} << type.mantissa_bits, field - type.bias() - type.mantissa_bits};
  }
  return x;
}

// A signed fixed-point number: two's complement, bit i counts 2^(i - offset).
class Fixed {
 public:
  // A word at a time, from the one that holds the lowest bit, until there is nothing to carry.
  void add(std::uint64_t significand, int exponent, bool negative) {
    if (significand == 0) return;
    const int at = exponent + offset, shift = at % 32;
    const std::uint64_t low = significand << shift, high = shift == 0 ? 0 : significand >> (64 - shift);
    const std::uint64_t pieces[] = {low & 0xFFFFFFFF, low >> 32, high};
    std::uint64_t carry = 0;
    for (std::size_t i = static_cast<std::size_t>(at) / 32, n = 0; i < words && (n < 3 || carry != 0); ++i, ++n) {
      const std::uint64_t piece = (n < 3 ? pieces[n] : 0) + carry;
      const std::uint64_t sum = negative ? word_[i] - piece : word_[i] + piece;
      word_[i] = static_cast<std::uint32_t>(sum);
      carry = sum >> 32 & 1;  // or a borrow
    }
  }

  bool negative() const { return word_[words - 1] >> 31 != 0; }

  void negate() {
    std::uint64_t carry = 1;
    for (std::uint32_t& w : word_) {
      carry += static_cast<std::uint32_t>(~w);
      w = static_cast<std::uint32_t>(carry);
      carry >>= 32;
    }
  }

  // Exponent of the leading bit of a positive number; INT32_MIN of zero.
  int top() const {
    for (std::size_t i = words; i-- > 0;)
      if (word_[i] != 0) return static_cast<int>(32 * i) + static_cast<int>(std::bit_width(word_[i])) - 1 - offset;
    return INT32_MIN;
  }

  bool bit(int exponent) const {
    const int i = exponent + offset;
    return i >= 0 && (word_[static_cast<std::size_t>(i) / 32] >> (i % 32) & 1) != 0;
  }

  // Bits from `exponent` upwards as an integer, at most 64 of them.
  std::uint64_t from(int exponent) const {
    std::uint64_t value = 0;
    for (int i = 63; i >= 0; --i) value = value << 1 | (bit(exponent + i) ? 1U : 0U);
    return value;
  }

  bool any_below(int exponent) const {
    if (exponent <= -offset) return false;
    const auto end = static_cast<std::size_t>(exponent + offset);
    for (std::size_t i = 0; i < end / 32; ++i)
      if (word_[i] != 0) return true;
    return (word_[end / 32] & ((std::uint32_t{1} << (end % 32)) - 1)) != 0;
  }

 private:
  static constexpr int offset = 1760;
  static constexpr std::size_t words = 110;
  std::array<std::uint32_t, words> word_{};
};

// How a magnitude is rounded.
enum class Rounds : std::uint8_t { nearest_even, nearest_away, toward_zero, away_from_zero, to_odd };

// Rounded once. An exact zero is +0; `exact` is cleared when bits are lost.
inline std::uint64_t to_ieee(Fixed x, IeeeType type, Rounds how, bool& exact) {
  const bool negative = x.negative();
  if (negative) x.negate();
  const int top = x.top();
  if (top == INT32_MIN) return 0;
  const int smallest = 1 - type.bias();
  const int quantum = (top > smallest ? top : smallest) - type.mantissa_bits;
  std::uint64_t units = top < quantum ? 0 : x.from(quantum);
  const bool half = x.bit(quantum - 1), rest = x.any_below(quantum - 1);
  if (half || rest) exact = false;
  switch (how) {
    case Rounds::nearest_even: units += half && (rest || (units & 1) != 0); break;
    case Rounds::nearest_away: units += half; break;
    case Rounds::toward_zero: break;
    case Rounds::away_from_zero: units += half || rest; break;
    case Rounds::to_odd: units |= half || rest; break;
  }
  std::uint64_t bits = units;  // a subnormal, unless the hidden bit is there
  if (units >> type.mantissa_bits)
    bits = (static_cast<std::uint64_t>(quantum + type.mantissa_bits + type.bias() - 1) << type.mantissa_bits) + units;
  if (bits >= type.infinity()) {
    bits = type.infinity();
    exact = false;
  }
  return bits | (negative ? std::uint64_t{1} << (type.exponent_bits + type.mantissa_bits) : 0);
}

}  // namespace sparq::reference
