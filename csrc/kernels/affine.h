// Blocks of two's complement with a zero point beside each float32 scale (docs/numerics.md section 4).
#pragma once

#include "blocks.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// How far elements reach above and below zero, as magnitudes.
template <class C>
struct Extremes {
  typename C::Bits above = 0, below = 0;
};

// Bits of positive numbers are positive integers in their order, and without its sign a negative one is such a number.
template <class C, class Count>
inline Extremes<C> extremes_of(const typename C::Bits* row, Count count) {
  Extremes<C> e;
  for (std::int64_t i = 0; i < count; ++i) {
    e.above = larger_magnitude<C>(e.above, row[i]);
    e.below = larger_magnitude<C>(e.below, row[i] ^ sign_mask<C>);
  }
  return e;
}

// The same of finite elements, where those are all that counts; `finite` says whether all are.
template <class C>
inline Extremes<C> counted_extremes(bool skip_nonfinite, const typename C::Bits* row, std::int64_t count,
                                    bool& finite) {
  Extremes<C> e = extremes_of<C>(row, count);
  finite = e.above < infinity_bits<C> && e.below < infinity_bits<C>;
  if (finite || !skip_nonfinite) return e;
  e = {};
  for (std::int64_t i = 0; i < count; ++i) {
    const typename C::Bits number = (row[i] & ~sign_mask<C>) < infinity_bits<C> ? row[i] : 0;
    e.above = larger_magnitude<C>(e.above, number);
    e.below = larger_magnitude<C>(e.below, number ^ sign_mask<C>);
  }
  return e;
}

// The nearest integer, ties to even, of a number well below 2^22.
inline float nearest_integer(float number) {
  constexpr float anchor = 0x1.8p23F;
  return (number + anchor) - anchor;
}

// The zero point of a block whose least element is -below: where `scale` puts it, the lowest code.
inline int zero_point_of(const QuantizeJob& job, float below, float scale) {
  const float room = static_cast<float>(job.highest_integer - job.lowest_integer + 1);
  const float steps = smaller(below / scale * power_of_shift<Carrier32>(-job.unit_exponent), room);
  return smaller(job.lowest_integer + static_cast<int>(nearest_integer(steps)), job.highest_integer);
}

// What a block is scaled and moved by.
struct AffineBlock {
  float scale = 1;
  int zero = 0;
  bool poisoned = false;
};

// Read or made, and stored where it was made.
template <class C>
inline AffineBlock affine_block(const QuantizeJob& job, std::int64_t index, const Extremes<C>& e, bool finite,
                                Counts& counts) {
  const bool number = finite || job.skip_nonfinite;
  const float above = static_cast<float>(as_value<C>(e.above)), below = static_cast<float>(as_value<C>(e.below));
  const float reach = above + below;
  const ScalePlane& scales = main_plane(job);
  const ScalePlane& zeros = job.planes[static_cast<unsigned>(job.main + 1)];
  counts.refused += number && !scales.given && reach > 0x1.fffffep127F;
  const typename C::Bits top = number ? from_float<C>(reach) : nan_bits<C>;
  const BlockScale scale = block_scale<C>(job, index, top, 1, counts);
  AffineBlock block{scale.factor, 0, scale.poisoned || !number};
  counts.refused += !number && !scale.poisoned;  // below a given scale that is a number
  if (zeros.given) {
    block.zero = signed_integer(job.format.levels[1].format, load_code(zeros.data, zeros.bytes, index));
    return block;
  }
  if (!block.poisoned) block.zero = zero_point_of(job, below, block.scale);
  store_code(zeros, index, static_cast<std::uint32_t>(block.zero) & job.code_mask);
  return block;
}

// The same for blocks of finite elements whose scales and zero points are both made, all at once. `above` and `below`
// are those of blocks.
inline void make_affine_blocks(const QuantizeJob& job, const std::uint32_t* above, const std::uint32_t* below,
                               std::int64_t blocks, std::int64_t index, float* factors, int* zeros, Counts& counts) {
  const ScalePlane& scales = main_plane(job);
  const ScalePlane& zero_points = job.planes[static_cast<unsigned>(job.main + 1)];
  const float divisor = job.scale_divisor, units = power_of_shift<Carrier32>(-job.unit_exponent);
  const int lowest = job.lowest_integer, highest = job.highest_integer;
  const float room = static_cast<float>(highest - lowest + 1);
  const int code_mask = static_cast<int>(job.code_mask);
  int none = 0, beyond = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const float low = as_value<Carrier32>(below[b]), reach = as_value<Carrier32>(above[b]) + low;
    const float quotient = reach / divisor, scale = larger(quotient, 0x1p-149F);
    factors[b] = reach == 0 ? 1.0F : scale;
    const float steps = nearest_integer(smaller(low / factors[b] * units, room));
    zeros[b] = smaller(lowest + static_cast<int>(steps), highest);
    none += reach == 0;
    beyond += quotient > 0x1.fffffep127F;
  }
  counts.zero_blocks += none;
  counts.refused += beyond;
  if (scales.data != nullptr) {
    auto* to = static_cast<float*>(scales.data) + index;
    for (std::int64_t b = 0; b < blocks; ++b) to[b * scales.step] = factors[b];
  }
  for (std::int64_t b = 0; zero_points.data != nullptr && b < blocks; ++b)
    store_code(zero_points, index + b * zero_points.step, static_cast<std::uint32_t>(zeros[b] & code_mask));
}

// An element over the scale, rounded to an integer, plus the zero point: in units of the element, in which all of it
// but the division is exact.
template <class C, Round mode>
struct MovedInteger {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  Bits min_power, limit;
  FixedPrecision<C> precision;
  ChanceRule rule;
  Outward<C, mode> outward_of;
  Value scale, times, zero, lowest, highest;

  MovedInteger(const QuantizeJob& job, const BlockTarget<C>& target, float factor, int zero_point)
      : min_power(target.min_power),
        limit(target.limit),
        precision(job.mantissa_bits),
        rule(chance_rule(job)),
        outward_of(job.conversion.rounding),
        scale(static_cast<Value>(factor)),
        times(static_cast<Value>(smaller(1 / factor, 0x1.fffffep127F))),
        zero(static_cast<Value>(zero_point) * power_of_shift<C>(job.unit_exponent)),
        lowest(static_cast<Value>(job.lowest_integer) * power_of_shift<C>(job.unit_exponent)),
        highest(static_cast<Value>(job.highest_integer) * power_of_shift<C>(job.unit_exponent)) {}

  Value operator()(Bits x, std::uint32_t chance, bool reciprocal) const {
    const Bits quotient = as_bits<C>(reciprocal ? as_value<C>(x) * times : as_value<C>(x) / scale);
    const Bits sign = quotient & sign_mask<C>, within = smaller_magnitude<C>(quotient ^ sign, limit);
    const Rounded<C> rounded =
        round_magnitude<C, mode>(within, min_power, precision, outward_of.inside(sign), rule, chance);
    return as_value<C>(rounded_value<C>(rounded) | sign) + zero;
  }

  Value cut(Value integer) const { return smaller(larger(integer, lowest), highest); }
};

// Apart, so that what every block needs stays short.
template <class C, Round mode>
__attribute__((noinline)) void count_affine_events(const QuantizeJob& job, const MovedInteger<C, mode>& moved,
                                                   const Stretch<C>& s, Counts& counts) {
  const bool reciprocal = job.conversion.scale_apply == ScaleApply::reciprocal;
  for (std::int64_t i = 0; i < s.count; ++i) {
    const typename C::Bits magnitude = s.raw[i] & ~sign_mask<C>;
    if (magnitude >= infinity_bits<C>) continue;
    const auto integer = moved(s.row[i], chance_of(job, s.chances, i), reciprocal);
    counts.saturated += integer != moved.cut(integer);
    counts.underflowed += magnitude != 0 && moved.cut(integer) == moved.zero;
  }
}

// The elements of a block.
template <class C, Round mode, bool reciprocal, class Count>
inline void quantize_affine_block(const QuantizeJob& job, const MovedInteger<C, mode>& all, const Stretch<C>& s,
                                  Count known) {
  using Bits = typename C::Bits;
  const MovedInteger<C, mode> moved = all;
  const std::int64_t count = known;
  const Bits* row = s.row;
  const std::uint32_t* chances = s.chances;
  const auto integer = [=](std::int64_t i) {
    return moved.cut(moved(row[i], mode == Round::stochastic ? chances[i] : 0, reciprocal));
  };
  if (s.codes != nullptr) {
    const auto units = power_of_shift<C>(-job.unit_exponent);
    const std::uint32_t code_mask = job.code_mask;
    std::uint32_t* codes = s.codes;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i)
      codes[i] = static_cast<std::uint32_t>(static_cast<std::int32_t>(integer(i) * units)) & code_mask;
  }
  if (s.values != nullptr) {  // last: they may be written over the row
    Bits* values = s.values;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) values[i] = as_bits<C>((integer(i) - moved.zero) * moved.scale);
  }
}

// The blocks of a line.
template <class C, Round mode>
inline void quantize_affine(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, Stretch<C> s,
                            Rows<C>& rows, Counts& counts) {
  if constexpr (C::width == 32) {  // float scales are of no other
    using Bits = typename C::Bits;
    const Runs visit{at.first, s.count, job.geometry.block};
    const std::int64_t index = main_index(job, at), step = main_plane(job).step;
    Bits* above = rows.tops;
    Bits* below = rows.exponents;
    int* zeros = rows.block_exponents;
    std::int64_t blocks = 0;
    Bits highest = 0;
    visit([&](std::int64_t b, std::int64_t start, auto n) {
      const Extremes<C> e = extremes_of<C>(s.raw + start, n);
      above[b] = e.above;
      below[b] = e.below;
      highest = larger_magnitude<C>(highest, larger_magnitude<C>(e.above, e.below));
      blocks = b + 1;
    });
    const bool all_finite = highest < infinity_bits<C>;
    const bool all_made = !main_plane(job).given && !job.planes[static_cast<unsigned>(job.main + 1)].given;
    bool any_poisoned = false;
    if (all_finite && all_made) {
      make_affine_blocks(job, above, below, blocks, index, rows.factors, zeros, counts);
    } else {
      visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
        bool finite = true;
        const Extremes<C> e = counted_extremes<C>(job.skip_nonfinite, s.raw + start, n, finite);
        if (!finite) count_nonfinite<C>(job, s.raw + start, n, counts);
        const AffineBlock block = affine_block<C>(job, index + b * step, e, finite, counts);
        rows.factors[b] = block.scale;
        zeros[b] = block.poisoned ? 0 : block.zero;
        rows.poisoned[b] = block.poisoned;
        any_poisoned |= block.poisoned;
      });
      if (!all_finite && job.skip_nonfinite) {  // NaN is taken as zero, and Inf as a large number
        for (std::int64_t i = 0; i < s.count; ++i)
          rows.places[i] = (s.raw[i] & ~sign_mask<C>) > infinity_bits<C> ? 0 : s.raw[i];
        s.row = rows.places;
      }
    }
    const BlockTarget<C> target = block_target<C>(family, 0);
    const bool reciprocal = job.conversion.scale_apply == ScaleApply::reciprocal;
    visit([&](std::int64_t b, std::int64_t start, auto n) {
      const Stretch<C> part{s.raw + start,
                            s.row + start,
                            s.chances + start,
                            n,
                            s.values != nullptr ? s.values + start : nullptr,
                            s.codes != nullptr ? s.codes + start : nullptr};
      if (any_poisoned && rows.poisoned[b] != 0) return fill_poisoned<C>(n, part.values, part.codes);
      const MovedInteger<C, mode> moved(job, target, rows.factors[b], zeros[b]);
      if (job.count) count_affine_events<C, mode>(job, moved, part, counts);
      if (reciprocal)
        quantize_affine_block<C, mode, true>(job, moved, part, n);
      else
        quantize_affine_block<C, mode, false>(job, moved, part, n);
    });
  }
}

// Pruned codes are those of zero, which quantize_affine left with the blocks.
template <class C>
inline void prune_to_zero_points(const QuantizeJob& job, const Runs& visit, const Rows<C>& rows, std::uint32_t* codes) {
  visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
    const std::uint32_t zero = static_cast<std::uint32_t>(rows.block_exponents[b]) & job.code_mask;
    for (std::int64_t i = start; i < start + n; ++i) codes[i] = rows.keep[i] != 0 ? codes[i] : zero;
  });
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
