// The rounding funnel (docs/numerics.md section 2) on carrier bits: every conversion to an element goes through here.
#pragma once

#include "carrier.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// How the loops round; toward_zero, up and down are directed, with one bit per sign.
enum class Round { nearest_even, nearest_away, nearest_zero, nearest_up, directed, to_odd, stochastic };

// How stochastic rounding turns a fraction into an integer that is held against an element's threshold.
struct ChanceRule {
  int bits = 0;
  unsigned floors = 0;  // 1, or 0 where a fraction goes to the nearest integer, ties to even
};

inline ChanceRule chance_rule(const QuantizeJob& job) {
  return {job.chance_bits, job.conversion.stochastic == Stochastic::c ? 0U : 1U};
}

// All ones for the signs whose magnitudes a directed mode moves away from zero; every other mode treats overflow of
// both signs alike.
template <class C, Round mode>
struct Outward {
  typename C::Bits positive, negative;

  explicit Outward(Rounding rounding)
      : positive(mode != Round::directed || moves_away(rounding, false) ? ~typename C::Bits{0} : 0),
        negative(mode != Round::directed || moves_away(rounding, true) ? ~typename C::Bits{0} : 0) {}

  typename C::Bits operator()(typename C::Bits sign) const {
    if constexpr (mode != Round::directed) return ~typename C::Bits{0};
    return sign != 0 ? negative : positive;
  }

  // The same of what lies between two elements: of ties, where those go up.
  typename C::Bits inside(typename C::Bits sign) const {
    if constexpr (mode == Round::nearest_up) return sign != 0 ? typename C::Bits{0} : ~typename C::Bits{0};
    return (*this)(sign);
  }
};

template <class Bits>
inline Bits choose(Bits mask, Bits where_set, Bits elsewhere) {
  return (where_set & mask) | (elsewhere & ~mask);
}

// The elements under one scale, in carrier terms.
template <class C>
struct BlockTarget {
  typename C::Bits min_power;       // smallest normal element, a power of two
  typename C::Bits limit;           // every larger magnitude rounds to what this one does
  typename C::Bits max_value;       // largest finite magnitude
  typename C::Bits overflow_value;  // what lies beyond it becomes this
};

// Magnitudes order like signed integers, which every instruction set compares.
template <class C>
inline typename C::Bits larger_magnitude(typename C::Bits a, typename C::Bits b) {
  using Int = typename C::Int;
  return static_cast<typename C::Bits>(larger(static_cast<Int>(a), static_cast<Int>(b)));
}

template <class C>
inline typename C::Bits smaller_magnitude(typename C::Bits a, typename C::Bits b) {
  using Int = typename C::Int;
  return static_cast<typename C::Bits>(smaller(static_cast<Int>(a), static_cast<Int>(b)));
}

// Mantissa bits of a number whose binade is `power`, where an exponent field has its lowest bit.
template <class C>
struct FixedPrecision {
  static constexpr bool tapered = false;
  typename C::Bits bits;

  explicit FixedPrecision(int mantissa_bits) : bits(static_cast<typename C::Bits>(mantissa_bits) << C::mantissa) {}
  typename C::Bits operator()(typename C::Bits) const { return bits; }
};

// The same where exponents of a certain size cost mantissa bits, three at most.
template <class C>
struct TaperedPrecision {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  static constexpr bool tapered = true;
  Bits bits, min_power;
  Int least_exponent, first, second, third;

  TaperedPrecision(const QuantizeJob& job, Bits least_power)
      : bits(static_cast<Bits>(job.mantissa_bits) << C::mantissa),
        min_power(least_power),
        least_exponent(job.min_exponent),
        first(job.taper.first_size),
        second(job.mantissa_bits > 1 ? 2 * first : 1 << 20),
        third(job.mantissa_bits > 2 ? 4 * first : 1 << 20) {}

  Bits operator()(Bits power) const {
    const Int exponent = static_cast<Int>((power - min_power) >> C::mantissa) + least_exponent;
    const Int size = exponent < 0 ? -exponent : exponent;
    const Bits lost = (size >= first ? Bits{1} : 0) + (size >= second ? Bits{1} : 0) + (size >= third ? Bits{1} : 0);
    return bits - (lost << C::mantissa);
  }
};

// A magnitude that was rounded: `sum` is `anchor` plus the result, and its last bit is one quantum.
template <class C>
struct Rounded {
  typename C::Bits power;  // of two: the binade that sets the quantum
  typename C::Value anchor, sum;
};

// `anchor` is 2^mantissa quanta, so the addition itself rounds to the quantum, nearest even. Everything else is
// exact: results are multiples of the quantum, and within one and a half quanta of what they are subtracted from (or,
// as `above`, only compared with less than that). An element has fewer mantissa bits than the carrier.
template <class C, Round mode, class Precision>
inline Rounded<C> round_magnitude(typename C::Bits bits, typename C::Bits min_power, const Precision& precision,
                                  [[maybe_unused]] typename C::Bits outward, [[maybe_unused]] ChanceRule rule,
                                  [[maybe_unused]] std::uint32_t threshold) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  const Value magnitude = as_value<C>(bits);
  const Bits power = larger_magnitude<C>(bits & infinity_bits<C>, min_power);
  const Bits mantissa_bits = precision(power);
  const Value anchor = as_value<C>(power + (static_cast<Bits>(C::mantissa) << C::mantissa) - mantissa_bits);
  Value sum = magnitude + anchor;
  const Value nearest = sum - anchor;
  if constexpr (mode == Round::directed || mode == Round::to_odd) {
    const Bits above = nearest > magnitude ? Bits{1} : Bits{0}, below = nearest < magnitude ? Bits{1} : Bits{0};
    if constexpr (mode == Round::directed)
      sum = as_value<C>(as_bits<C>(sum) + (below & outward) - (above & ~outward));
    else
      sum = as_value<C>((as_bits<C>(sum) - above) | above | below);
  }
  if constexpr (mode == Round::stochastic) {
    const Value whole = as_value<C>(as_bits<C>(sum) - (nearest > magnitude ? Bits{1} : Bits{0}));
    // One over the quantum, times 2^bits: a normal number, which target_family sees to. The product is exact, or so
    // small that it counts as none.
    const auto field = static_cast<Bits>(2 * C::bias + rule.bits);
    const Value fraction = (magnitude - (whole - anchor)) * as_value<C>((field << C::mantissa) + mantissa_bits - power);
    // The same trick once more: beside 2^mantissa the sum is the nearest integer, ties to even.
    const Value unit = as_value<C>(static_cast<Bits>(C::bias + C::mantissa) << C::mantissa);
    const Value integer = fraction + unit;
    const Bits passed = integer - unit > fraction ? rule.floors : Bits{0};
    const auto steps = static_cast<typename C::Int>(as_bits<C>(integer) - passed - as_bits<C>(unit));
    sum = as_value<C>(as_bits<C>(whole) + (steps >= static_cast<typename C::Int>(threshold) ? Bits{1} : Bits{0}));
  }
  if constexpr (mode == Round::nearest_away) {
    const Value next = as_value<C>(as_bits<C>(sum) + 1);
    const Value below = magnitude - nearest, above = (next - anchor) - magnitude;
    sum = above <= below ? next : sum;
  }
  if constexpr (mode == Round::nearest_zero) {
    const Value previous = as_value<C>(as_bits<C>(sum) - 1);
    const Value below = magnitude - (previous - anchor), above = nearest - magnitude;
    sum = below <= above ? previous : sum;
  }
  if constexpr (mode == Round::nearest_up) {
    const Value next = as_value<C>(as_bits<C>(sum) + 1), previous = as_value<C>(as_bits<C>(sum) - 1);
    const Bits away = (next - anchor) - magnitude <= magnitude - nearest ? Bits{1} : Bits{0};
    const Bits back = magnitude - (previous - anchor) <= nearest - magnitude ? Bits{1} : Bits{0};
    sum = as_value<C>(as_bits<C>(sum) + (away & outward) - (back & ~outward));
  }
  return {power, anchor, sum};
}

template <class C>
inline typename C::Bits rounded_value(const Rounded<C>& r) {
  return as_bits<C>(r.sum - r.anchor);
}

// Codes count quanta, and 2^mantissa_bits more of them for each binade.
template <class C>
inline typename C::Bits rounded_code(const Rounded<C>& r, typename C::Bits min_power, int mantissa_bits) {
  return ((r.power - min_power) >> (C::mantissa - mantissa_bits)) + (as_bits<C>(r.sum) - as_bits<C>(r.anchor));
}

// The same of a tapered element.
template <class C>
inline typename C::Bits tapered_code(const Taper& taper, const Rounded<C>& r, typename C::Bits min_power) {
  const auto binade = static_cast<std::uint32_t>((r.power - min_power) >> C::mantissa);
  return taper.offsets[binade] + (as_bits<C>(r.sum) - as_bits<C>(r.anchor));
}

// A fraction of `shift` bits as an integer of rule.bits bits.
template <class Bits>
inline Bits chance_steps(Bits rest, int shift, ChanceRule rule) {
  const int drop = shift - rule.bits;
  if (drop <= 0) return rest << -drop;
  if (drop >= 64) return 0;
  const Bits steps = rest >> drop, half = (Bits{1} << drop) >> 1, low = rest & (2 * half - 1);
  const bool more = (low > half) | ((low == half) & ((steps & 1) != 0));
  return steps + (rule.floors == 0 && more ? Bits{1} : Bits{0});
}

// Where the element's subnormals are the carrier's own (bf16), the carrier's bit pattern can be rounded, at any
// magnitude; a carry runs into the exponent by itself.
template <class C, Round mode>
inline typename C::Bits aligned_value(typename C::Bits magnitude, int mantissa_bits,
                                      [[maybe_unused]] typename C::Bits outward, [[maybe_unused]] ChanceRule rule,
                                      [[maybe_unused]] std::uint32_t threshold) {
  using Bits = typename C::Bits;
  const int shift = C::mantissa - mantissa_bits;
  const Bits half = (Bits{1} << shift) >> 1;
  const Bits below_one = 2 * half - 1;
  if constexpr (mode == Round::to_odd)
    return ((magnitude >> shift) | ((magnitude & below_one) != 0 ? Bits{1} : Bits{0})) << shift;
  if constexpr (mode == Round::stochastic) {
    const Bits steps = chance_steps(magnitude & below_one, shift, rule);
    return ((magnitude >> shift) + (steps >= threshold ? Bits{1} : Bits{0})) << shift;
  }
  Bits increment = 0;
  if constexpr (mode == Round::nearest_even) increment = half - 1 + ((magnitude >> shift) & 1);
  if constexpr (mode == Round::nearest_away) increment = half;
  if constexpr (mode == Round::nearest_zero) increment = half - 1;
  if constexpr (mode == Round::nearest_up) increment = half - 1 + (outward & 1);
  if constexpr (mode == Round::directed) increment = below_one & outward;
  return ((magnitude + increment) >> shift) << shift;
}

// A normal number of the carrier. Where the exponent is not one, the field wraps: a shift may bring it back.
template <class C>
inline typename C::Bits wrapped_bits(std::uint32_t significand, int exponent) {
  using Bits = typename C::Bits;
  const int top = highest_bit(significand);
  const auto field = static_cast<Bits>(static_cast<typename C::Int>(exponent + top + C::bias - 1));
  return (field << C::mantissa) + (Bits{significand} << (C::mantissa - top));
}

// The targets of a job for all power-of-two scales: the same bits, with the exponent fields shifted.
template <class C>
struct TargetFamily {
  BlockTarget<C> unscaled;
  bool to_infinity;     // overflow_value is Inf under any scale
  int lowest, highest;  // exponents of scales under which elements can be rounded by addition
  int aligned;          // exponent of the scale under which they can be rounded in place
  bool has_aligned;
};

template <class C>
inline TargetFamily<C> target_family(const QuantizeJob& job) {
  const int top = job.top_exponent + highest_bit(job.top_significand);
  // Where overflow leaves the finite range, the code above the largest finite one is Inf.
  const std::uint32_t limit = job.top_significand + (job.overflow_is_infinity ? 1 : 0);
  const int limit_top = larger(job.top_exponent + highest_bit(limit), job.min_exponent);
  const int first = 1 - C::bias, last = C::bias;  // exponents of normal numbers
  const bool tapered = job.taper.first_size > 0;
  const int least_bits = tapered ? 0 : job.mantissa_bits;
  const bool coarser = job.mantissa_bits < C::mantissa;
  TargetFamily<C> family{};
  family.unscaled.min_power = wrapped_bits<C>(1, job.min_exponent);
  family.unscaled.max_value = wrapped_bits<C>(job.top_significand, job.top_exponent);
  family.unscaled.limit = wrapped_bits<C>(limit, job.top_exponent);
  family.to_infinity = job.overflow_is_infinity;
  family.lowest = first - smaller(top, job.min_exponent);
  family.highest = last - (C::mantissa - least_bits) - limit_top;
  family.aligned = first - job.min_exponent;
  // Stochastic rounding divides by quanta, whose reciprocals have to be normal numbers.
  if (job.conversion.rounding == Rounding::stochastic)
    family.lowest = larger(family.lowest, first - job.min_exponent + job.chance_bits + job.mantissa_bits);
  const int aligned_top = top + family.aligned;
  family.has_aligned = coarser && !tapered && job.mantissa_bits > 0 && first <= aligned_top && aligned_top <= last;
  // A NaN has no sign; such overflow is looked at element by element.
  if (!coarser || job.overflow_is_nan) family.highest = family.lowest - 1;
  if (job.overflow_is_nan) family.has_aligned = false;
  return family;
}

template <class C>
inline BlockTarget<C> block_target(const TargetFamily<C>& family, int scale_exponent) {
  using Bits = typename C::Bits;
  const Bits shift = static_cast<Bits>(static_cast<typename C::Int>(scale_exponent)) << C::mantissa;
  const Bits max_value = family.unscaled.max_value + shift;
  return {family.unscaled.min_power + shift, family.unscaled.limit + shift, max_value,
          family.to_infinity ? infinity_bits<C> : max_value};
}

template <class C>
struct RoundedElement {
  std::uint32_t code;  // with its sign
  typename C::Bits value;
  bool saturated, zero, refused;
};

// Whether a magnitude between two integers goes to the upper one; `half` is half the distance, `rest` what is left.
inline bool rounds_up(Rounding mode, bool negative, bool odd, std::uint64_t rest, std::uint64_t half) {
  switch (mode) {
    case Rounding::nearest_even: return rest > half || (rest == half && odd);
    case Rounding::nearest_away: return rest >= half;
    case Rounding::nearest_zero: return rest > half;
    case Rounding::nearest_up: return rest > half || (rest == half && !negative);
    case Rounding::toward_zero: break;
    case Rounding::up:
    case Rounding::down: return rest != 0 && moves_away(mode, negative);
    case Rounding::to_odd: return rest != 0 && !odd;
    case Rounding::stochastic: break;  // decided by its threshold
  }
  return false;
}

// One element, any case: non-finite input, results among the carrier's subnormals, scales far away. Shares
// nothing with the loops but the rule.
template <class C>
inline RoundedElement<C> round_one(const QuantizeJob& job, typename C::Bits bits, int scale_exponent,
                                   std::uint32_t threshold, bool& exact) {
  using Bits = typename C::Bits;
  const Bits magnitude = bits & ~sign_mask<C>;
  const bool negative = bits != magnitude;
  RoundedElement<C> result{};
  const NonFinite policy = job.conversion.nonfinite;
  if (magnitude > infinity_bits<C>) {
    result.refused = !job.element_nan && policy != NonFinite::ignore && !job.nan_counts;
    result.code = job.nan_code;
    result.value = job.element_nan ? nan_bits<C> : 0;
    return result;
  }
  const Rounding mode = job.conversion.rounding;
  // The largest magnitude of this sign.
  const std::uint32_t lowest = job.full_range && negative ? 1 : 0;
  const std::uint32_t max_code = job.max_code + lowest;
  std::uint32_t code = 0;
  bool beyond = false;
  if (magnitude == infinity_bits<C>) {
    // An Inf goes where overflow goes, also when rounding toward zero keeps finite values finite.
    const bool special = job.conversion.overflow == Overflow::special || policy == NonFinite::keep;
    code = !special ? max_code : job.infinity_code != 0 ? job.infinity_code : job.nan_code;
  } else if (magnitude != 0) {
    const Split x = split<C>(magnitude);
    const int top = highest_bit(x.significand) + x.exponent;
    const bool tapered = job.taper.first_size > 0;
    const int binade = larger(top - scale_exponent - job.min_exponent, 0);  // counted from the lowest one
    const int mantissa_bits =
        tapered ? mantissa_bits_at(job.format.element, binade + job.min_exponent) : job.mantissa_bits;
    const int quantum = job.min_exponent + binade + scale_exponent - mantissa_bits;
    const int shift = quantum - x.exponent;
    std::uint64_t units = 0;
    if (shift <= 0) {
      units = x.significand << -shift;
    } else {
      // Beyond 62 bits everything is a small rest.
      const std::uint64_t half = std::uint64_t{1} << (smaller(shift, 62) - 1);
      const std::uint64_t rest = shift < 63 ? x.significand & (2 * half - 1) : 1;
      units = shift < 63 ? x.significand >> shift : 0;
      units += rounds_up(mode, negative, (units & 1) != 0, rest, half) ? 1U : 0U;
      if (mode == Rounding::stochastic) {
        const std::uint64_t fraction = shift < 63 ? rest : x.significand;
        units += chance_steps(fraction, shift, chance_rule(job)) >= threshold ? 1U : 0U;
      }
    }
    // Beyond the table every number is too large.
    const std::uint64_t below = tapered ? job.taper.offsets[static_cast<unsigned>(smaller(binade, 63))]
                                        : static_cast<std::uint64_t>(binade) << job.mantissa_bits;
    const std::uint64_t wide_code = below + units;
    beyond = wide_code > max_code;
    const std::uint32_t overflow = moves_in(mode, negative) ? max_code : job.overflow_code + lowest;
    code = beyond ? overflow : static_cast<std::uint32_t>(wide_code);
    if (job.flush_elements && code >> job.mantissa_bits == 0) code = 0;
    if (!beyond && code != 0) result.value = compose<C>(units, quantum, exact);
  }
  result.saturated = beyond;
  result.zero = code == 0;
  if (beyond || magnitude == infinity_bits<C>) {
    if (code == max_code) {
      result.value = compose<C>(job.top_significand + lowest, job.top_exponent + scale_exponent, exact);
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
