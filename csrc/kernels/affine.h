// Blocks of two's complement with a zero point beside each float32 scale (docs/numerics.md section 4).
#pragma once

#include "blocks.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// A choice that a loop is compiled for.
template <bool value>
struct Fixed {
  constexpr operator bool() const { return value; }
};

// How far elements reach above and below zero, as magnitudes.
template <class C>
struct Extremes {
  typename C::Bits above = 0, below = 0;
};

// Bits of positive numbers are positive integers in their order, and without its sign a negative one is such a number.
template <class C>
inline Extremes<C> extremes_of(const typename C::Bits* row, std::int64_t count) {
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

// The elements of a block. `row` is what is rounded, and `raw` what it was, by which events are judged.
template <class C, Round mode>
inline void quantize_affine_block(const QuantizeJob& job, const TargetFamily<C>& family, const AffineBlock& block,
                                  const Stretch<C>& s, Counts& counts) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  // Everything below is in units of the element, in which it is exact but for the first and the last step.
  const BlockTarget<C> target = block_target<C>(family, 0);
  const Bits min_power = target.min_power, limit = target.limit;
  const Bits* row = s.row;
  const std::uint32_t* chances = s.chances;
  const FixedPrecision<C> precision(job.mantissa_bits);
  const ChanceRule rule = chance_rule(job);
  const Outward<C, mode> outward_of(job.conversion.rounding);
  const Value unit = power_of_shift<C>(job.unit_exponent), units = power_of_shift<C>(-job.unit_exponent);
  const Value zero = static_cast<Value>(block.zero) * unit, scale = static_cast<Value>(block.scale);
  const Value lowest = static_cast<Value>(job.lowest_integer) * unit;
  const Value highest = static_cast<Value>(job.highest_integer) * unit;
  const Value times = static_cast<Value>(smaller(1 / block.scale, 0x1.fffffep127F));
  const std::uint32_t code_mask = job.code_mask;
  // x over the scale, rounded to an integer, plus the zero point.
  const auto moved = [=](std::int64_t i, auto reciprocal) {
    const Bits quotient = as_bits<C>(reciprocal ? as_value<C>(row[i]) * times : as_value<C>(row[i]) / scale);
    const Bits sign = quotient & sign_mask<C>, within = smaller_magnitude<C>(quotient ^ sign, limit);
    const std::uint32_t chance = mode == Round::stochastic ? chances[i] : 0;
    const Rounded<C> rounded = round_magnitude<C, mode>(within, min_power, precision, outward_of(sign), rule, chance);
    return as_value<C>(rounded_value<C>(rounded) | sign) + zero;
  };
  const auto within = [=](Value integer) { return smaller(larger(integer, lowest), highest); };
  const auto run = [&](auto reciprocal) {
    if (job.count)
      for (std::int64_t i = 0; i < s.count; ++i) {
        const Bits magnitude = s.raw[i] & ~sign_mask<C>;
        if (magnitude >= infinity_bits<C>) continue;
        const Value integer = moved(i, reciprocal);
        counts.saturated += integer < lowest || integer > highest;
        counts.underflowed += magnitude != 0 && within(integer) == zero;
      }
    if (s.codes != nullptr) {
      std::uint32_t* codes = s.codes;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < s.count; ++i)
        codes[i] =
            static_cast<std::uint32_t>(static_cast<std::int32_t>(within(moved(i, reciprocal)) * units)) & code_mask;
    }
    if (s.values != nullptr) {  // last: they may be written over the row
      Bits* values = s.values;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < s.count; ++i) values[i] = as_bits<C>((within(moved(i, reciprocal)) - zero) * scale);
    }
  };
  if (job.conversion.scale_apply == ScaleApply::reciprocal)
    run(Fixed<true>{});
  else
    run(Fixed<false>{});
}

// The blocks of a line.
template <class C, Round mode>
inline void quantize_affine(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, const Stretch<C>& s,
                            Rows<C>& rows, Counts& counts) {
  if constexpr (C::width == 32) {  // float scales are of no other
    const Runs visit{at.first, s.count, job.geometry.block};
    const std::int64_t index = main_index(job, at), step = main_plane(job).step;
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      bool finite = true;
      const Extremes<C> e = counted_extremes<C>(job.skip_nonfinite, s.raw + start, n, finite);
      if (!finite) count_nonfinite<C>(job, s.raw + start, n, counts);
      const AffineBlock block = affine_block<C>(job, index + b * step, e, finite, counts);
      Stretch<C> part{s.raw + start,
                      s.row + start,
                      s.chances + start,
                      n,
                      s.values != nullptr ? s.values + start : nullptr,
                      s.codes != nullptr ? s.codes + start : nullptr};
      rows.block_exponents[b] = block.poisoned ? 0 : block.zero & static_cast<int>(job.code_mask);
      if (block.poisoned) return fill_poisoned<C>(n, part.values, part.codes);
      if (!finite) {  // NaN is taken as zero, and Inf as a large number
        for (std::int64_t i = 0; i < n; ++i)
          rows.places[i] = (part.raw[i] & ~sign_mask<C>) > infinity_bits<C> ? 0 : part.raw[i];
        part.row = rows.places;
      }
      quantize_affine_block<C, mode>(job, family, block, part, counts);
    });
  }
}

// Pruned codes are those of zero, which quantize_affine left with the blocks.
template <class C>
inline void prune_to_zero_points(const Runs& visit, const Rows<C>& rows, std::uint32_t* codes) {
  visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
    const auto zero = static_cast<std::uint32_t>(rows.block_exponents[b]);
    for (std::int64_t i = start; i < start + n; ++i) codes[i] = rows.keep[i] != 0 ? codes[i] : zero;
  });
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
