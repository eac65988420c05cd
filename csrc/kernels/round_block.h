// The elements of a block under one scale, as values and as codes.
#pragma once

#include "round.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// `loop(first, last)` over 0 to count. Most runs have a fixed length, so that the compiler lays a short block out
// as straight vector code.
template <class Loop>
inline void in_runs(std::int64_t count, const Loop& loop) {
  constexpr std::int64_t run = 32;
  std::int64_t done = 0;
  for (; done + run <= count; done += run) loop(done, done + run);
  if (done < count) loop(done, count);
}

// A rounded magnitude as a signed value.
template <class C>
struct SignedValue {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  Bits max_value, overflow_value;
  typename C::Value zero;  // x + -0 is x, and -0 + 0 is +0

  SignedValue(const QuantizeJob& job, const BlockTarget<C>& target)
      : max_value(target.max_value),
        overflow_value(target.overflow_value),
        zero(as_value<C>(job.negative_zero ? sign_mask<C> : 0)) {}

  // Overflow that is directed inward stays finite.
  Bits operator()(Bits rounded, Bits sign, Bits outward, Bits exponent) const {
    const Bits top = max_value + exponent;
    const Bits beyond = choose(outward, overflow_value + exponent, top);
    const Bits value = static_cast<Int>(rounded) > static_cast<Int>(top) ? beyond : rounded;
    return as_bits<C>(as_value<C>(value | sign) + zero);
  }
};

// A magnitude's code with its sign.
struct SignedCode {
  std::uint32_t negate, or_sign, code_mask, keep_zero_sign;

  explicit SignedCode(const QuantizeJob& job)
      : negate(job.twos_complement ? ~std::uint32_t{0} : 0),
        or_sign(job.twos_complement ? 0 : job.sign_bit),
        code_mask(job.code_mask),
        keep_zero_sign(job.negative_zero ? ~std::uint32_t{0} : 0) {}

  std::uint32_t operator()(std::uint32_t code, bool minus) const {
    const std::uint32_t signs = code != 0 ? ~std::uint32_t{0} : keep_zero_sign;
    const std::uint32_t negative = signs & (minus ? ~std::uint32_t{0} : 0);
    const std::uint32_t flip = negative & negate;
    return (((code ^ flip) - flip) & code_mask) | (negative & or_sign);
  }
};

// Elements under one scale, and where their results go; either result may be null.
template <class C>
struct Stretch {
  const typename C::Bits* raw;   // before any float scaling: what underflowed is judged by it
  const typename C::Bits* row;   // what is rounded
  const std::uint32_t* chances;  // thresholds of stochastic rounding, else null
  std::int64_t count;
  typename C::Bits* values;
  std::uint32_t* codes;
  const int* shifts = nullptr;  // exponents of micro-levels: not positive, added to the exponent of the block
  const typename C::Bits* exponents = nullptr;  // of each element, as exponent fields: where every one has its own

  int shift(std::int64_t i) const { return shifts != nullptr ? shifts[i] : 0; }
};

// The loops below may run in place (values == row, element by element), which is what ivdep promises.
// Where `each`, every element has an exponent of its own, and the target is the unscaled one.
template <class C, Round mode, bool each, class Precision>
inline void round_values(const QuantizeJob& job, const BlockTarget<C>& target, const Precision& precision, bool aligned,
                         const Stretch<C>& s) {
  using Bits = typename C::Bits;
  const Bits* row = s.row;
  const std::uint32_t* chances = s.chances;
  const std::int64_t count = s.count;
  Bits* values = s.values;
  const int mantissa_bits = job.mantissa_bits;
  const ChanceRule rule = chance_rule(job);
  const auto chance = [=](std::int64_t i) { return mode == Round::stochastic ? chances[i] : 0; };
  const SignedValue<C> signed_value(job, target);
  const Outward<C, mode> outward_of(job.conversion.rounding);
  if (aligned) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>, outward = outward_of(sign);
      const Bits rounded =
          aligned_value<C, mode>(row[i] ^ sign, mantissa_bits, outward_of.inside(sign), rule, chance(i));
      values[i] = signed_value(rounded, sign, outward, 0);
    }
    return;
  }
  const Bits min_power = target.min_power, limit = target.limit;
  [[maybe_unused]] const Bits* exponents = s.exponents;
  in_runs(count, [=](std::int64_t first, std::int64_t last) {
#pragma GCC ivdep
    for (std::int64_t i = first; i < last; ++i) {
      const Bits sign = row[i] & sign_mask<C>, outward = outward_of(sign), exponent = each ? exponents[i] : 0;
      const Bits within = smaller_magnitude<C>(row[i] ^ sign, limit + exponent);
      const Rounded<C> rounded =
          round_magnitude<C, mode>(within, min_power + exponent, precision, outward_of.inside(sign), rule, chance(i));
      values[i] = signed_value(rounded_value<C>(rounded), sign, outward, exponent);
    }
  });
}

template <class C, Round mode, bool each, class Precision>
inline void round_codes(const QuantizeJob& job, const BlockTarget<C>& target, const Precision& precision, bool aligned,
                        const Stretch<C>& s) {
  using Bits = typename C::Bits;
  const Bits* row = s.row;
  const std::uint32_t* chances = s.chances;
  const std::int64_t count = s.count;
  std::uint32_t* codes = s.codes;
  const int mantissa_bits = job.mantissa_bits;
  const ChanceRule rule = chance_rule(job);
  const auto chance = [=](std::int64_t i) { return mode == Round::stochastic ? chances[i] : 0; };
  const SignedCode signed_code(job);
  const Outward<C, mode> outward_of(job.conversion.rounding);
  if (aligned) {
    const Bits max_code = job.max_code, overflow_code = job.overflow_code;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>, outward = outward_of(sign);
      const Bits rounded =
          aligned_value<C, mode>(row[i] ^ sign, mantissa_bits, outward_of.inside(sign), rule, chance(i));
      const Bits code = rounded >> (C::mantissa - mantissa_bits);
      const Bits beyond = choose(outward, overflow_code, max_code);
      codes[i] = signed_code(static_cast<std::uint32_t>(code > max_code ? beyond : code), sign != 0);
    }
    return;
  }
  // Overflow that is directed inward stays at the largest finite code.
  const Bits min_power = target.min_power, limit = target.limit, max_value = target.max_value;
  [[maybe_unused]] const Bits* exponents = s.exponents;
  in_runs(count, [=, &job](std::int64_t first, std::int64_t last) {
#pragma GCC ivdep
    for (std::int64_t i = first; i < last; ++i) {
      const Bits sign = row[i] & sign_mask<C>, outward = outward_of(sign), exponent = each ? exponents[i] : 0;
      const Bits power = min_power + exponent;
      const Bits within = smaller_magnitude<C>(row[i] ^ sign, choose(outward, limit, max_value) + exponent);
      const Rounded<C> rounded =
          round_magnitude<C, mode>(within, power, precision, outward_of.inside(sign), rule, chance(i));
      Bits code = 0;
      if constexpr (Precision::tapered)
        code = tapered_code<C>(job.taper, rounded, power);
      else
        code = rounded_code<C>(rounded, power, mantissa_bits);
      codes[i] = signed_code(static_cast<std::uint32_t>(code), sign != 0);
    }
  });
}

// The threshold of an element; 0 for the modes that have none.
inline std::uint32_t chance_of(const QuantizeJob& job, const std::uint32_t* chances, std::int64_t i) {
  return job.conversion.rounding == Rounding::stochastic ? chances[i] : 0;
}

// Element by element, any case.
template <class C>
__attribute__((noinline)) void round_each(const QuantizeJob& job, int exponent, const Stretch<C>& s, Counts& counts) {
  for (std::int64_t i = 0; i < s.count; ++i) {
    bool kept_exactly = true;
    const RoundedElement<C> one =
        round_one<C>(job, s.row[i], exponent + s.shift(i), chance_of(job, s.chances, i), kept_exactly);
    if (s.values != nullptr) {
      s.values[i] = one.value;
      counts.inexact += !kept_exactly;
    }
    if (s.codes != nullptr) s.codes[i] = one.code;
    counts.refused += one.refused;
  }
}

// Apart, like the function above, so that what every block needs stays short.
template <class C>
__attribute__((noinline)) void count_events(const QuantizeJob& job, int exponent, const Stretch<C>& s, Counts& counts) {
  for (std::int64_t i = 0; i < s.count; ++i) {
    bool ignored = true;
    const RoundedElement<C> one =
        round_one<C>(job, s.row[i], exponent + s.shift(i), chance_of(job, s.chances, i), ignored);
    const typename C::Bits magnitude = s.raw[i] & ~sign_mask<C>;
    counts.saturated += one.saturated;
    counts.underflowed += one.zero && magnitude != 0 && magnitude < infinity_bits<C>;
  }
}

// Subnormal elements become zeros of their sign.
template <class C>
__attribute__((noinline)) void flush_elements(const QuantizeJob& job, const BlockTarget<C>& target,
                                              const Stretch<C>& s) {
  using Bits = typename C::Bits;
  const Bits keep = job.negative_zero ? sign_mask<C> : 0;
  const std::uint32_t keep_code = job.negative_zero ? job.sign_bit : 0, hidden = std::uint32_t{1} << job.mantissa_bits;
  for (std::int64_t i = 0; s.values != nullptr && i < s.count; ++i)
    s.values[i] = (s.values[i] & ~sign_mask<C>) < target.min_power ? s.values[i] & keep : s.values[i];
  for (std::int64_t i = 0; s.codes != nullptr && i < s.count; ++i)
    s.codes[i] = (s.codes[i] & ~job.sign_bit) < hidden ? s.codes[i] & keep_code : s.codes[i];
}

// 2^shift, of few bits.
template <class C>
inline typename C::Value power_of_shift(int shift) {
  using Int = typename C::Int;
  return as_value<C>(static_cast<typename C::Bits>(static_cast<Int>(C::bias + shift)) << C::mantissa);
}

// Elements that share an exponent, once that is known to be one that the loops can do.
template <class C, Round mode>
inline void round_plainly(const QuantizeJob& job, const BlockTarget<C>& target, bool aligned, const Stretch<C>& s) {
  const auto round = [&](const auto& precision) {
    if (s.values != nullptr) round_values<C, mode, false>(job, target, precision, aligned, s);
    if (s.codes != nullptr) round_codes<C, mode, false>(job, target, precision, aligned, s);
  };
  if (job.taper.first_size > 0)
    round(TaperedPrecision<C>(job, target.min_power));
  else
    round(FixedPrecision<C>(job.mantissa_bits));
  if (job.flush_elements) flush_elements<C>(job, target, s);
}

// The same with two's complement's lowest code: elements that saturated below zero are looked at again.
template <class C, Round mode>
__attribute__((noinline)) void round_full_range(const QuantizeJob& job, const BlockTarget<C>& target, int exponent,
                                                bool aligned, Stretch<C> s) {
  typename C::Bits input[tile_capacity];  // values may be written over it
  for (std::int64_t i = 0; i < s.count; ++i) input[i] = s.row[i];
  s.row = input;
  round_plainly<C, mode>(job, target, aligned, s);
  const std::uint32_t low = (~job.max_code + 1) & job.code_mask;
  for (std::int64_t i = 0; i < s.count; ++i) {
    const bool at_end = s.codes != nullptr ? s.codes[i] == low : s.values[i] == (target.max_value | sign_mask<C>);
    if (!at_end) continue;
    bool exact = true;
    const RoundedElement<C> one = round_one<C>(job, s.row[i], exponent, chance_of(job, s.chances, i), exact);
    if (s.values != nullptr) s.values[i] = one.value;
    if (s.codes != nullptr) s.codes[i] = one.code;
  }
}

template <class C, Round mode>
inline void round_together(const QuantizeJob& job, const TargetFamily<C>& family, int exponent, bool aligned,
                           const Stretch<C>& s) {
  const BlockTarget<C> target = block_target<C>(family, exponent);
  if (s.values == nullptr && s.codes == nullptr) return;  // only scales are made
  if (job.full_range) return round_full_range<C, mode>(job, target, exponent, aligned, s);
  round_plainly<C, mode>(job, target, aligned, s);
}

// The same under shifts: what a shift lowers is lifted before rounding and lowered after, both exact but for numbers so
// large that they saturate anyway.
template <class C, Round mode>
__attribute__((noinline)) void round_shifted(const QuantizeJob& job, const TargetFamily<C>& family, int exponent,
                                             Stretch<C> s) {
  using Bits = typename C::Bits;
  Bits lifted[tile_capacity];
  for (std::int64_t i = 0; i < s.count; ++i) {
    const Bits bits = as_bits<C>(as_value<C>(s.row[i]) * power_of_shift<C>(-s.shifts[i]));
    const Bits sign = bits & sign_mask<C>;
    lifted[i] = sign | smaller_magnitude<C>(bits ^ sign, infinity_bits<C> - 1);
  }
  s.row = lifted;
  round_together<C, mode>(job, family, exponent, false, s);
  if (s.values != nullptr)
#pragma GCC ivdep
    for (std::int64_t i = 0; i < s.count; ++i)
      s.values[i] = as_bits<C>(as_value<C>(s.values[i]) * power_of_shift<C>(s.shifts[i]));
}

// Elements that share `exponent` but for their shifts, finite input guaranteed when `finite`.
template <class C, Round mode>
inline void round_block(const QuantizeJob& job, const TargetFamily<C>& family, int exponent, bool finite,
                        const Stretch<C>& s, Counts& counts) {
  const bool shifted = s.shifts != nullptr;
  const bool by_addition = family.lowest <= exponent - (shifted ? job.shift_range : 0) && exponent <= family.highest;
  const bool aligned = family.has_aligned && exponent == family.aligned && !shifted;
  if (!finite || !(by_addition || aligned)) return round_each<C>(job, exponent, s, counts);
  if (shifted) return round_shifted<C, mode>(job, family, exponent, s);
  round_together<C, mode>(job, family, exponent, !by_addition, s);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
