// A fixed-point accumulator wide enough for every sum of products: 32-bit digits in 64-bit limbs, signed.
#pragma once

#include "carrier.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Digit i counts 2^(32 i - offset). Products of float32 numbers under two scales of +-512 lie inside, and a limb
// takes 2^31 additions before it could overflow.
class WideSum {
 public:
  void clear() {
    for (int i = low_; i < high_; ++i) limb_[i] = 0;
    low_ = digits;
    high_ = 0;
  }

  void add(std::uint64_t significand, bool negative, int exponent) {
    if (significand == 0) return;
    const int position = exponent + offset;
    const int first = position >> 5, shift = position & 31;
    const std::uint64_t lower = significand << shift;
    const std::uint64_t upper = shift == 0 ? 0 : significand >> (64 - shift);
    const std::int64_t sign = negative ? -1 : 1;
    limb_[first] += sign * static_cast<std::int64_t>(lower & 0xFFFFFFFF);
    limb_[first + 1] += sign * static_cast<std::int64_t>(lower >> 32);
    limb_[first + 2] += sign * static_cast<std::int64_t>(upper);
    low_ = smaller(low_, first);
    high_ = larger(high_, first + 3);
  }

  // A finite value.
  void add(double value) {
    const std::uint64_t bits = as_bits<Carrier64>(value);
    const Split x = split<Carrier64>(bits & ~sign_mask<Carrier64>);
    add(x.significand, bits >> 63 != 0, x.exponent);
  }

  // The sum rounded once to float32, nearest even; an exact zero is +0. Destroys the sum.
  float round() {
    Leading sum;
    if (!normalize(sum)) return 0;
    bool exact = true;
    const std::uint32_t bits = compose<Carrier32>(sum.significand, sum.exponent, exact);
    return as_value<Carrier32>(sum.negative ? bits | sign_mask<Carrier32> : bits);
  }

  // The sum cut to 34 bits or more, the last of which is 1 if anything was lost: a second rounding to float32 or less
  // is as good as the only one. An exact zero is +0. Destroys the sum.
  double to_odd() {
    Leading sum;
    if (!normalize(sum)) return 0;
    const double size = static_cast<double>(sum.significand) * power_of_two(sum.exponent);
    return sum.negative ? -size : size;
  }

 private:
  static constexpr int digits = 98, offset = 1536;
  std::int64_t limb_[digits] = {};
  int low_ = digits, high_ = 0;  // digits in use

  // At most 41 leading bits of a magnitude, a sticky one last.
  struct Leading {
    std::uint64_t significand = 0;
    int exponent = 0;
    bool negative = false;
  };

  // False if the sum is zero.
  bool normalize(Leading& out) {
    if (high_ == 0) return false;
    high_ = smaller(high_ + 3, digits);  // room for the carries of 2^31 additions
    bool negative = carry() < 0;
    if (negative) {
      for (int i = low_; i < high_; ++i) limb_[i] = -limb_[i];
      carry();
    }
    int top = high_ - 1;
    while (top >= low_ && limb_[top] == 0) --top;
    if (top < low_) return false;
    // The leading 33 to 64 bits, and whether anything lies below: enough to round 24 bits correctly.
    const std::uint64_t below = top > low_ ? static_cast<std::uint64_t>(limb_[top - 1]) : 0;
    std::uint64_t leading = static_cast<std::uint64_t>(limb_[top]) << 32 | below;
    int exponent = 32 * (top - 1) - offset;
    const int surplus = highest_bit(leading) - 39;
    bool sticky = false;
    if (surplus > 0) {
      sticky = (leading & ((std::uint64_t{1} << surplus) - 1)) != 0;
      leading >>= surplus;
      exponent += surplus;
    }
    for (int i = low_; i < top - 1; ++i) sticky |= limb_[i] != 0;
    // A sticky bit below a short leading part needs a place of its own.
    out = {leading << 1 | (sticky ? 1 : 0), exponent - 1, negative};
    return true;
  }

  // Makes every digit but the last one lie in [0, 2^32) and returns the last, which carries the sign.
  std::int64_t carry() {
    for (int i = low_; i + 1 < high_; ++i) {
      limb_[i + 1] += limb_[i] >> 32;
      limb_[i] &= 0xFFFFFFFF;
    }
    return limb_[high_ - 1];
  }
};

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
