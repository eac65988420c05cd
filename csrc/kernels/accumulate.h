// Rounding to a machine's accumulator, for one lane per output (docs/numerics.md section 10).
#pragma once

#include "multiply.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// What sums are rounded to. Every accumulator's numbers are float32 numbers.
struct Accumulator {
  int fraction, emin, emax;
  bool toward_zero, saturate;

  explicit Accumulator(const Datapath& path)
      : fraction(path.accumulator_fraction),
        emin(2 - (1 << (path.accumulator_exponent_bits - 1))),
        emax((1 << (path.accumulator_exponent_bits - 1)) - 1),
        toward_zero(path.accumulator_rounding == AccumulatorRounding::toward_zero),
        saturate(path.overflow == FloatOverflow::saturate) {}
};

using Doubles = Register<double>::type;
using Words = Register<std::int64_t>::type;
constexpr int double_width = Register<double>::width;

inline Doubles as_doubles(Words bits) { return reinterpret_cast<const Doubles&>(bits); }
inline Words as_words(Doubles values) { return reinterpret_cast<const Words&>(values); }

// to = x rounded; a zero is +0. Adding 1.5 * 2^52 quanta makes the processor's own addition round to the quantum.
inline void round_lanes(const Accumulator& to, bool toward_zero, const double* x, float* rounded) {
  constexpr std::int64_t sign = INT64_MIN, half = std::int64_t{1} << 51;
  const double limit = power_of_two(to.emax + 1);
  const double beyond =
      to.saturate ? limit - power_of_two(to.emax - to.fraction) : as_value<Carrier64>(infinity_bits<Carrier64>);
  for (int first = 0; first < lanes; first += double_width) {
    const Doubles value = *reinterpret_cast<const Doubles*>(x + first);
    const Words magnitude = as_words(value) & ~sign;
    Words exponent = (magnitude >> 52) - 1023;
    exponent = exponent > to.emin ? exponent : Words{} + to.emin;
    const Doubles magic = as_doubles(((exponent - to.fraction + (52 + 1023)) << 52) | half);
    const Doubles size = as_doubles(magnitude);
    Doubles kept = (size + magic) - magic;
    if (toward_zero) {
      const Words quantum = (exponent - to.fraction + 1023) << 52;
      kept = kept - as_doubles(quantum & (kept > size));
    }
    const Words large = kept >= limit;
    kept = as_doubles((as_words(kept) & ~large) | (as_words(Doubles{} + beyond) & large));
    const Doubles result = as_doubles(as_words(kept) | (as_words(value) & sign)) + 0.0;
    for (int i = 0; i < double_width; ++i) rounded[first + i] = static_cast<float>(result[i]);
  }
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
  double odd[lanes];
  for (int l = 0; l < lanes; ++l) {
    // The float64 sum rounded to odd; then a second rounding to fewer than half its bits is the only one.
    const double a = acc[l], b = term[l], sum = a + b, virtual_b = sum - a;
    const double error = (a - (sum - virtual_b)) + (b - virtual_b);
    std::uint64_t bits = as_bits<Carrier64>(sum);
    if (error != 0 && is_finite(sum) && (bits & 1) == 0) bits += (error > 0) == (sum > 0) ? 1 : ~std::uint64_t{0};
    odd[l] = as_value<Carrier64>(bits);
  }
  float rounded[lanes];
  round_lanes(to, false, odd, rounded);
  for (int l = 0; l < lanes; ++l) acc[l] = is_finite(odd[l]) ? rounded[l] : static_cast<float>(odd[l]);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
