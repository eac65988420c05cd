// The rounding funnel (docs/numerics.md section 2) on carrier bits: every conversion to an element goes through here.
#pragma once

#include "carrier.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// |v| in units of its quantum, as an integer, and the carrier's exponent field that belongs to the quantum:
// value = units * 2^(field - bias - mantissa_bits).
template <class C>
struct Units {
  typename C::Bits units;
  typename C::Int field;
};

// `min_field` is the carrier's exponent field of the smallest normal element, at least 1, because input subnormals
// of the carrier are not normalised here. An element has fewer mantissa bits than the carrier.
template <class C, Rounding mode>
inline Units<C> round_magnitude(typename C::Bits magnitude, typename C::Int min_field, int mantissa_bits) {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  const Bits hidden = Bits{1} << C::mantissa;
  const Int raw = static_cast<Int>(magnitude >> C::mantissa);
  const Int field = raw > 0 ? raw : 1;
  const Bits significand = (magnitude & (hidden - 1)) | (raw > 0 ? hidden : 0);
  const Int quantum = field > min_field ? field : min_field;
  // Beyond mantissa + 2 every significand is below half a quantum, so the shift may stop there.
  const Int far = C::mantissa + 2;
  const Int distance = quantum - field + (C::mantissa - mantissa_bits);
  const Int shift = distance < far ? distance : far;
  const Bits half = (Bits{1} << shift) >> 1;
  Bits increment = 0;
  if constexpr (mode == Rounding::nearest_even) increment = half - 1 + ((significand >> shift) & 1);
  if constexpr (mode == Rounding::nearest_away) increment = half;
  return {(significand + increment) >> shift, quantum};
}

// What a block's elements are rounded to, in carrier terms.
template <class C>
struct BlockTarget {
  typename C::Int min_field;         // biased exponent of the smallest normal element, scale included
  typename C::Bits max_value;        // largest finite magnitude
  typename C::Bits overflow_value;   // what lies beyond it becomes this
  bool fast;                         // every non-zero result is a normal number of the carrier, or overflows
  bool aligned;                      // the element's subnormals are the carrier's own (bf16): round in place
};

template <class C>
inline BlockTarget<C> block_target(const QuantizeJob& job, int scale_exponent, bool& exact) {
  using Int = typename C::Int;
  BlockTarget<C> target{};
  const int min_field = job.min_exponent + scale_exponent + C::bias;
  target.min_field = static_cast<Int>(min_field);
  target.max_value = compose<C>(job.top_significand, job.top_exponent + scale_exponent, exact);
  target.overflow_value = job.overflow_is_nan        ? nan_bits<C>
                          : job.overflow_is_infinity ? infinity_bits<C>
                                                     : target.max_value;
  target.fast = min_field > job.mantissa_bits && min_field - job.mantissa_bits < C::max_field;
  target.aligned = min_field == 1 && job.mantissa_bits > 0 && job.mantissa_bits < C::mantissa;
  return target;
}

// Rounded magnitudes as values. Fast targets only: the product below is exact, or overflows to Inf.
template <class C, Rounding mode>
inline typename C::Bits fast_value(typename C::Bits magnitude, const BlockTarget<C>& target, int mantissa_bits) {
  using Bits = typename C::Bits;
  const Units<C> r = round_magnitude<C, mode>(magnitude, target.min_field, mantissa_bits);
  const Bits power = static_cast<Bits>(r.field - mantissa_bits) << C::mantissa;
  // Units are below 2^25, and converting 32-bit integers vectorises on every instruction set.
  const auto units = static_cast<typename C::Value>(static_cast<std::int32_t>(r.units));
  return as_bits<C>(units * as_value<C>(power));
}

template <class C, Rounding mode>
inline typename C::Bits fast_code(typename C::Bits magnitude, const BlockTarget<C>& target, int mantissa_bits) {
  using Bits = typename C::Bits;
  const Units<C> r = round_magnitude<C, mode>(magnitude, target.min_field, mantissa_bits);
  return (static_cast<Bits>(r.field - target.min_field) << mantissa_bits) + r.units;
}

// Aligned targets: the carrier's own bit pattern is rounded; a carry runs into the exponent by itself.
template <class C, Rounding mode>
inline typename C::Bits aligned_value(typename C::Bits magnitude, int mantissa_bits) {
  using Bits = typename C::Bits;
  const int shift = C::mantissa - mantissa_bits;
  const Bits half = (Bits{1} << shift) >> 1;
  Bits increment = 0;
  if constexpr (mode == Rounding::nearest_even) increment = half - 1 + ((magnitude >> shift) & 1);
  if constexpr (mode == Rounding::nearest_away) increment = half;
  return ((magnitude + increment) >> shift) << shift;
}

template <class C>
struct RoundedElement {
  std::uint32_t code;  // with its sign
  typename C::Bits value;
  bool saturated, zero, refused;
};

// One element, any case: non-finite input, results among the carrier's subnormals, scales far away. Shares
// nothing with the loops but the rule.
template <class C>
inline RoundedElement<C> round_one(const QuantizeJob& job, typename C::Bits bits, int scale_exponent, bool& exact) {
  using Bits = typename C::Bits;
  const Bits magnitude = bits & ~sign_mask<C>;
  const bool negative = bits != magnitude;
  RoundedElement<C> result{};
  if (magnitude > infinity_bits<C>) {
    result.refused = !job.element_nan;
    result.code = job.nan_code;
    result.value = nan_bits<C>;
    return result;
  }
  std::uint32_t code = 0;
  bool beyond = false;
  if (magnitude == infinity_bits<C>) {
    // An Inf goes where overflow goes, also when rounding toward zero keeps finite values finite.
    const bool special = job.conversion.overflow == Overflow::special;
    code = !special ? job.max_code : job.infinity_code != 0 ? job.infinity_code : job.nan_code;
  } else if (magnitude != 0) {
    const Split x = split<C>(magnitude);
    const int top = highest_bit(x.significand) + x.exponent;
    const int min_quantum = job.min_exponent + scale_exponent - job.mantissa_bits;
    const int quantum = larger(top - job.mantissa_bits, min_quantum);
    const int shift = quantum - x.exponent;
    std::uint64_t units = 0;
    if (shift <= 0) {
      units = x.significand << -shift;
    } else if (shift < 63) {
      const std::uint64_t half = std::uint64_t{1} << (shift - 1);
      const std::uint64_t rest = x.significand & (2 * half - 1);
      units = x.significand >> shift;
      const Rounding mode = job.conversion.rounding;
      const bool tie_up = mode == Rounding::nearest_away || (mode == Rounding::nearest_even && (units & 1));
      if (mode != Rounding::toward_zero && (rest > half || (rest == half && tie_up))) ++units;
    }
    const std::uint64_t wide_code = (static_cast<std::uint64_t>(quantum - min_quantum) << job.mantissa_bits) + units;
    beyond = wide_code > job.max_code;
    code = beyond ? job.overflow_code : static_cast<std::uint32_t>(wide_code);
    if (!beyond) result.value = compose<C>(units, quantum, exact);
  }
  result.saturated = beyond;
  result.zero = code == 0;
  if (beyond || magnitude == infinity_bits<C>) {
    if (code == job.max_code) {
      result.value = compose<C>(job.top_significand, job.top_exponent + scale_exponent, exact);
    } else {
      result.value = code == job.infinity_code ? infinity_bits<C> : nan_bits<C>;
    }
  }
  const bool is_nan = result.value > infinity_bits<C>;
  if (negative && !is_nan && (code != 0 || job.negative_zero)) {
    result.value |= sign_mask<C>;
    code = job.twos_complement ? (~code + 1) & job.code_mask : code | job.sign_bit;
  }
  result.code = code;
  return result;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
