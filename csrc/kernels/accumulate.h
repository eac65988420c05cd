// Rounding to a machine's accumulator, for one lane per output (docs/numerics.md section 10).
#pragma once

#include "multiply.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// What sums are rounded to. Every accumulator's numbers are float32 numbers.
struct Accumulator {
  int fraction, emin, emax;
  AccumulatorRounding rounding;
  bool saturate;

  explicit Accumulator(const Datapath& path)
      : fraction(path.accumulator_fraction),
        emin(2 - (1 << (path.accumulator_exponent_bits - 1))),
        emax((1 << (path.accumulator_exponent_bits - 1)) - 1),
        rounding(path.accumulator_rounding),
        saturate(path.overflow == FloatOverflow::saturate) {}
};

using Floats = Register<float>::type;
using Integers = Register<std::int32_t>::type;
constexpr int float_width = Register<float>::width, float_parts = lanes / float_width;

inline Floats as_floats(Integers bits) { return reinterpret_cast<const Floats&>(bits); }
inline Integers as_integers(Floats values) { return reinterpret_cast<const Integers&>(values); }

using Doubles = Register<double>::type;
using Words = Register<std::int64_t>::type;
typedef float HalfFloats __attribute__((vector_size(SPARQ_REGISTER_BYTES / 2), aligned(4), may_alias));
constexpr int double_width = Register<double>::width, double_parts = lanes / double_width;

inline Doubles as_doubles(Words bits) { return reinterpret_cast<const Doubles&>(bits); }
inline Words as_words(Doubles values) { return reinterpret_cast<const Words&>(values); }
constexpr std::int64_t sign_word = INT64_MIN;

inline Doubles load_doubles(const float* from, int part) {
  return __builtin_convertvector(reinterpret_cast<const HalfFloats*>(from)[part], Doubles);
}
inline void store_floats(Doubles values, float* to, int part) {
  reinterpret_cast<HalfFloats*>(to)[part] = __builtin_convertvector(values, HalfFloats);
}

inline Doubles sizes(Doubles x) { return as_doubles(as_words(x) & ~sign_word); }

// a + b rounded to odd with the help of the exact error of the float64 sum; NaN and Inf as they are. A second rounding,
// to fewer than half as many bits, is then as good as the only one.
inline Doubles odd_sum(Doubles a, Doubles b) {
  typedef std::uint64_t Unsigned64 __attribute__((vector_size(SPARQ_REGISTER_BYTES)));
  const Doubles sum = a + b;
  const Doubles virtual_b = sum - a;
  const Doubles error = (a - (sum - virtual_b)) + (b - virtual_b);
  const Words bits = as_words(sum);
  // One step away from zero if the error points there, else one step toward it; only for even sums, and Inf has no
  // error.
  const Words signs = as_words(error) ^ bits;
  const Unsigned64 inward = reinterpret_cast<const Unsigned64&>(signs) >> 63;
  const Words step = 1 - 2 * reinterpret_cast<const Words&>(inward);
  const Words adjust = (sizes(error) > 0) & ((bits & 1) - 1);
  return as_doubles(bits + (step & adjust));
}

// +0 for zeros of either sign.
inline Doubles with_plus_zero(Doubles x) {
  const Words zero = x == 0;
  return as_doubles(as_words(x) & ~zero);
}

// acc = RN32(acc + p), one rounding. An exact zero is +0.
inline void add_once(const double* p, float* acc) {
  for (int i = 0; i < double_parts; ++i)
    store_floats(with_plus_zero(odd_sum(load_doubles(acc, i), reinterpret_cast<const Doubles*>(p)[i])), acc, i);
}

template <AccumulatorRounding how>
struct RoundingIs {
  static constexpr AccumulatorRounding value = how;
};

// Numbers rounded to an accumulator with the sign that they have; NaN and Inf as they are. Adding 1.5 * 2^52 quanta
// makes the processor's own addition round to the quantum.
struct Rounder {
  Accumulator to;
  double least, most, limit, beyond;  // most: no accumulator's, and its quanta are still numbers
  std::int64_t to_magic, to_quantum;

  explicit Rounder(const Accumulator& accumulator)
      : to(accumulator),
        least(power_of_two(to.emin)),
        most(power_of_two(900)),
        limit(power_of_two(to.emax + 1)),
        beyond(to.saturate ? limit - power_of_two(to.emax - to.fraction)
                           : as_value<Carrier64>(infinity_bits<Carrier64>)),
        to_magic((std::int64_t{52 - to.fraction} << 52) + (std::int64_t{1} << 51)),
        to_quantum(std::int64_t{to.fraction} << 52) {}

  template <AccumulatorRounding how>
  Doubles round(Doubles value) const {
    const Doubles size = sizes(value);
    Doubles binade = size > least ? size : Doubles{} + least;
    binade = binade < most ? binade : Doubles{} + most;
    const Words exponent = as_words(binade) & static_cast<std::int64_t>(infinity_bits<Carrier64>);
    const Doubles magic = as_doubles(exponent + to_magic);
    const Doubles shifted = size + magic;
    Doubles kept = shifted - magic;
    const Words quantum = exponent - to_quantum;
    if constexpr (how == AccumulatorRounding::toward_zero) {
      kept = kept - as_doubles(quantum & (kept > size));
    } else if constexpr (how == AccumulatorRounding::nearest_away) {
      kept = kept + as_doubles(quantum & (size - kept == 0.5 * as_doubles(quantum)));
    } else if constexpr (how == AccumulatorRounding::down) {
      const Words negative = as_words(value) < 0;
      const Words above = kept > size, below = kept < size;
      kept = kept - as_doubles(quantum & above & ~negative) + as_doubles(quantum & below & negative);
    } else if constexpr (how == AccumulatorRounding::to_odd) {
      // The last bit of the sum with 1.5 * 2^52 quanta is that of what was rounded: an even one is one off.
      const Words even = (as_words(shifted) & 1) - 1;
      const Words above = kept > size, below = kept < size;
      kept = kept - as_doubles(quantum & even & above) + as_doubles(quantum & even & below);
    }
    Words large = kept >= limit;
    if (to.saturate) large &= size < as_value<Carrier64>(infinity_bits<Carrier64>);
    kept = large ? Doubles{} + beyond : kept;
    return as_doubles(as_words(kept) | (as_words(value) & sign_word));
  }

  // With the accumulator's rounding as a type.
  template <class Use>
  void with_rounding(const Use& use) const {
    using enum AccumulatorRounding;
    switch (to.rounding) {
      case toward_zero: return use(RoundingIs<toward_zero>{});
      case nearest_even: return use(RoundingIs<nearest_even>{});
      case nearest_away: return use(RoundingIs<nearest_away>{});
      case down: return use(RoundingIs<down>{});
      case to_odd: return use(RoundingIs<to_odd>{});
    }
  }

  // Subnormal numbers as zeros of their sign.
  Doubles flushed(Doubles value) const {
    const Words small = sizes(value) < least;
    return as_doubles(as_words(value) & ~(small & ~sign_word));
  }
};

// to = x rounded; a zero is +0.
inline void round_lanes(const Accumulator& to, const double* x, float* rounded) {
  const Rounder round(to);
  round.with_rounding([&](auto how) {
    for (int i = 0; i < double_parts; ++i)
      store_floats(round.round<how.value>(reinterpret_cast<const Doubles*>(x)[i]) + 0.0, rounded, i);
  });
}

// x = sum * 2^exponent, exact: sums have at most 53 bits, and exponents are those of normal numbers.
inline void scale_lanes(const std::int64_t* sum, const std::int32_t* exponent, int offset, double* x) {
  for (int l = 0; l < lanes; ++l)
    x[l] = static_cast<double>(sum[l]) *
           as_value<Carrier64>(static_cast<std::uint64_t>(exponent[l] + offset + Carrier64::bias) << 52);
}
inline void scale_lanes(const std::int32_t* sum, const std::int32_t* exponent, int offset, double* x) {
  for (int l = 0; l < lanes; ++l)
    x[l] = static_cast<double>(sum[l]) *
           as_value<Carrier64>(static_cast<std::uint64_t>(exponent[l] + offset + Carrier64::bias) << 52);
}

// acc = acc + term rounded once to nearest even, IEEE but that a zero is +0. NaN and Inf go their ways.
inline void add_rounded(const Accumulator& to, const float* term, float* acc) {
  const Rounder round(to);
  for (int i = 0; i < double_parts; ++i)
    store_floats(
        round.round<AccumulatorRounding::nearest_even>(odd_sum(load_doubles(acc, i), load_doubles(term, i))) + 0.0, acc,
        i);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
