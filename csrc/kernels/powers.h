// Short blocks under powers of two, a whole line at once: every element carries the exponent of its block.
#pragma once

#include "blocks.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Longer blocks are as fast one by one.
inline constexpr std::int64_t longest_short_block = 64;

// Pairs under one bit that halves their scale, as shared micro-exponents have them, made here.
inline bool has_halving_pairs(const QuantizeJob& job) {
  if (job.levels != 2) return false;
  const ScaleLevel& level = job.format.levels[1];
  return level.along == 2 && level.combine == Combine::divide && highest_shift(level) == 0 &&
         lowest_shift(level) == -1 && !job.planes[1].given;
}

// Whether lines of this job can go through quantize_powers at all.
inline bool takes_short_blocks(const QuantizeJob& job) {
  return job.scale_kind == ScaleKind::power_of_two && job.geometry.block <= longest_short_block && !job.count &&
         job.taper.first_size == 0 && job.promote_by_exponent == nullptr && !job.flush_elements && !job.full_range &&
         job.conversion.align_bits == 0 && !job.adjusts && job.conversion.scale_rule != ScaleRule::fit &&
         !searches(job.conversion.scale_rule) && (job.levels == 1 || has_halving_pairs(job));
}

// What carries into the exponent of a magnitude whose fraction passes the threshold of the rule.
template <class C>
inline typename C::Bits promotion_carry(const QuantizeJob& job) {
  using Bits = typename C::Bits;
  constexpr Bits one = Bits{1} << C::mantissa;
  const auto above = static_cast<Bits>(job.promote_above >> (52 - C::mantissa));
  return above < one ? one - 1 - above : 0;
}

// Exponents of blocks from their largest magnitudes, docs/numerics.md section 3: wanted_exponent, without a branch.
// Numbers below the smallest normal one are looked at by themselves.
template <class C>
inline void exponents_of(const QuantizeJob& job, const typename C::Bits* tops, std::int64_t blocks, int* to) {
  using Bits = typename C::Bits;
  constexpr Bits one = Bits{1} << C::mantissa;
  const Bits carry = promotion_carry<C>(job);
  const int shift = C::bias + job.scale_shift, low = job.scale_low, high = job.scale_max, zero = job.zero_exponent;
  int subnormal = 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const int exponent = static_cast<int>((tops[b] + carry) >> C::mantissa) - shift;
    const int within = smaller(larger(exponent, low), high);
    to[b] = tops[b] == 0 ? zero : within;
    subnormal += static_cast<int>(tops[b] < one && tops[b] != 0);
  }
  for (std::int64_t b = 0; subnormal != 0 && b < blocks; ++b)
    if (tops[b] < one && tops[b] != 0) to[b] = smaller(larger(wanted_exponent<C>(job, tops[b]), low), high);
}

// Halves the scale of every pair whose own exponent is below that of its block.
template <class C>
inline void halve_pairs(const QuantizeJob& job, const Place& at, const Stretch<C>& s, const int* of_block,
                        typename C::Bits* exponents) {
  using Bits = typename C::Bits;
  constexpr Bits one = Bits{1} << C::mantissa;
  const Bits carry = promotion_carry<C>(job);
  const int shift = C::bias + job.scale_shift;
  std::uint8_t codes[tile_capacity / 2 + 1];
  // A tile begins with a whole pair; the last pair of a line may be one element.
  const std::int64_t pairs = s.count / 2;
  Bits half[tile_capacity / 2 + 1];
  for (std::int64_t p = 0; p < pairs; ++p) {
    const Bits a = s.raw[2 * p] & ~sign_mask<C>, b = s.raw[2 * p + 1] & ~sign_mask<C>;
    half[p] = larger_magnitude<C>(a, b);
  }
  if (s.count % 2 != 0) half[pairs] = s.raw[s.count - 1] & ~sign_mask<C>;
  const std::int64_t all = (s.count + 1) / 2;
  const Runs visit{at.first / 2, all, (main_plane(job).along + 1) / 2};  // an odd block is a whole line
  visit([&](std::int64_t b, std::int64_t start, auto n) {
    const int exponent = of_block[b];
    for (std::int64_t p = start; p < start + n; ++p)
      // Subnormal numbers count as the smallest binade, which is below any block that has a normal number.
      codes[p] = (static_cast<int>((half[p] + carry) >> C::mantissa) - shift < exponent) | (half[p] == 0) ? 1 : 0;
  });
  for (std::int64_t p = 0; p < pairs; ++p) {
    const Bits lower = codes[p] != 0 ? one : 0;
    exponents[2 * p] -= lower;
    exponents[2 * p + 1] -= lower;
  }
  if (s.count % 2 != 0) exponents[s.count - 1] -= codes[pairs] != 0 ? one : 0;
  const ScalePlane& plane = job.planes[1];
  if (plane.data == nullptr) return;
  const std::int64_t index = scale_index(plane, at.batch, at.line, at.first);
  for (std::int64_t p = 0; p < all; ++p) store_code(plane, index + p * plane.step, codes[p]);
}

// The blocks of a line. False, and nothing done, where some of them need to be looked at one by one.
template <class C, Round mode>
inline bool quantize_powers(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, Stretch<C> s,
                            Rows<C>& rows, Counts& counts) {
  using Bits = typename C::Bits;
  const Runs visit{at.first, s.count, job.geometry.block};
  std::int64_t blocks = 0, zeros = 0;
  Bits highest = 0;
  visit([&](std::int64_t b, std::int64_t start, auto n) {
    rows.tops[b] = largest_magnitude<C>(s.raw + start, n);
    highest = larger_magnitude<C>(highest, rows.tops[b]);
    blocks = b + 1;
  });
  if (highest >= infinity_bits<C>) return false;
  // The largest numbers are looked at one by one where they may have no scale, and the least scale where it is special.
  if (job.overflow_poisons && highest >= from_float<C>(job.look_from)) return false;
  const ScalePlane& plane = main_plane(job);
  const std::int64_t index = main_index(job, at);
  int* exponents = rows.block_exponents;
  if (plane.given) {
    const ElementFormat& format = main_scale(job.format).format;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const BlockScale scale = load_scale(format, job.scale_kind, plane, index + b * plane.step);
      if (scale.poisoned) return false;
      exponents[b] = scale.exponent;
    }
  } else {
    exponents_of<C>(job, rows.tops, blocks, exponents);
  }
  // Zeros are zeros under any exponent; the loops get one that they can do.
  const int lowest = family.lowest + job.shift_range - job.reach, highest_exponent = family.highest - job.reach;
  const bool pairs = job.levels > 1;
  int outside = lowest > highest_exponent ? 1 : 0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const bool zero = rows.tops[b] == 0;
    outside += static_cast<int>(!zero && (exponents[b] < lowest || exponents[b] > highest_exponent));
    outside += static_cast<int>(!zero && job.shifts_least && exponents[b] == job.scale_min);
    // A pair of subnormal numbers in such a block may have the exponent of the block.
    outside += static_cast<int>(pairs && !zero && rows.tops[b] < (Bits{1} << C::mantissa));
    zeros += zero;
  }
  if (outside != 0) return false;
  if (!plane.given) {
    counts.zero_blocks += zeros;
    for (std::int64_t b = 0; b < blocks; ++b)
      store_code(plane, index + b * plane.step, static_cast<std::uint32_t>(exponents[b] - job.scale_min));
  }
  visit([&](std::int64_t b, std::int64_t start, auto n) {
    const int exponent = rows.tops[b] == 0 ? lowest : exponents[b];
    const Bits field = static_cast<Bits>(static_cast<typename C::Int>(exponent + job.reach)) << C::mantissa;
    for (std::int64_t i = 0; i < n; ++i) rows.exponents[start + i] = field;
  });
  if (pairs) halve_pairs<C>(job, at, s, exponents, rows.exponents);
  s.exponents = rows.exponents;
  const FixedPrecision<C> precision(job.mantissa_bits);
  if (s.values != nullptr) round_values<C, mode, true>(job, block_target<C>(family, 0), precision, false, s);
  if (s.codes != nullptr) round_codes<C, mode, true>(job, block_target<C>(family, 0), precision, false, s);
  return true;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
