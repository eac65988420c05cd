// The encoder: load, mask, amax, scale, round, store, tile by tile.
#pragma once

#include "affine.h"
#include "divide.h"
#include "powers.h"
#include "random.h"
#include "select.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Elements that are first brought to the exponent of their block, by a rounding of its own (docs/numerics.md section
// 3). The wide carrier has room for every step; what is larger than four times the largest exponent saturates anyway.
template <class C, Round mode>
__attribute__((noinline)) void round_aligned(const QuantizeJob& job, const TargetFamily<C>& family, int exponent,
                                             bool finite, Stretch<C> s, Counts& counts) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  const int top = exponent + job.align_top, quantum = top - job.conversion.align_bits;
  const Value step = power_of_shift<C>(quantum), anchor = power_of_shift<C>(quantum + C::mantissa);
  const Value half = step / 2;
  const Bits limit = as_bits<C>(power_of_shift<C>(top + 2));
  const bool away = job.conversion.align_rounding == AlignRounding::nearest_away;
  const bool cut = job.conversion.align_rounding == AlignRounding::toward_zero;
  Bits aligned[tile_capacity];
  for (std::int64_t i = 0; i < s.count; ++i) {
    const Bits sign = s.row[i] & sign_mask<C>, bits = s.row[i] ^ sign;
    const Value magnitude = as_value<C>(smaller_magnitude<C>(bits, limit));
    Value near = (magnitude + anchor) - anchor;
    if (away)
      near = magnitude - near == half ? near + step : near;
    else if (cut)
      near = near > magnitude ? near - step : near;
    aligned[i] = sign | (bits < infinity_bits<C> ? as_bits<C>(near) : bits);
  }
  s.row = aligned;
  if (job.count) count_events<C>(job, exponent, s, counts);
  round_block<C, mode>(job, family, exponent, finite, s, counts);
}

// The exponent among the neighbours of `floor_exponent` that leaves the smallest error; the largest of equals.
template <class C, Round mode>
__attribute__((noinline)) int searched_exponent(const QuantizeJob& job, const TargetFamily<C>& family,
                                                int floor_exponent, bool finite, Stretch<C> s) {
  typename C::Bits values[tile_capacity];
  s.values = values;
  s.codes = nullptr;
  Counts ignored;
  int best = floor_exponent;
  double least = 0;
  bool first = true;
  for (int step = 1; step >= -1; --step) {
    const int exponent = smaller(larger(floor_exponent + step, job.scale_low), job.scale_max);
    round_block<C, mode>(job, family, exponent, finite, s, ignored);
    const double error = error_of<C>(job, s.raw, values, s.count);
    if (first || error < least) {
      least = error;
      best = exponent;
    }
    first = false;
  }
  return best;
}

// The elements of a block with the least scale, divided by another one: as codes, and as what they decode to.
template <class C>
__attribute__((noinline)) void round_under_least(const QuantizeJob& job, const Stretch<C>& s, Counts& counts) {
  using Value = typename C::Value;
  if (job.count) count_events<C>(job, job.least_exponent, s, counts);
  const double power = power_of_shift<Carrier64>(job.scale_min - job.least_exponent);
  for (std::int64_t i = 0; i < s.count; ++i) {
    bool ignored = true;
    const RoundedElement<Carrier64> one =
        round_one<Carrier64>(job, as_bits<Carrier64>(static_cast<double>(as_value<C>(s.row[i]))), job.least_exponent,
                             chance_of(job, s.chances, i), ignored);
    const double decoded = as_value<Carrier64>(one.value) * power;
    if (s.values != nullptr) {
      s.values[i] = decoded == decoded ? as_bits<C>(static_cast<Value>(decoded)) : nan_bits<C>;
      counts.inexact += static_cast<double>(as_value<C>(s.values[i])) != decoded && decoded == decoded;
    }
    if (s.codes != nullptr) s.codes[i] = one.code;
    counts.refused += one.refused;
  }
}

// Elements as float32 steps of a library leave them, before they are rounded (docs/numerics.md sections 2 and 3).
template <class C>
inline void adjust_row(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count, int exponent,
                       typename C::Bits* to) {
  using Bits = typename C::Bits;
  for (std::int64_t i = 0; i < count; ++i) to[i] = row[i];
  if (job.adds_halves) {
    const int quantum = job.min_exponent - job.mantissa_bits + exponent;
    bool exact = true;
    const Bits below_half = compose<C>((1U << 24) - 1, quantum - 25, exact);
    const Bits above_half = compose<C>(3, quantum - 2, exact);
    for (std::int64_t i = 0; exact && i < count; ++i) {
      const Bits sign = to[i] & sign_mask<C>;
      to[i] = (to[i] ^ sign) == below_half ? sign | above_half : to[i];
    }
  }
  if (job.promote_elements == nullptr) return;
  const int highest = job.top_exponent + job.mantissa_bits + 1 - job.min_exponent;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits sign = to[i] & sign_mask<C>, magnitude = to[i] ^ sign;
    if (magnitude == 0 || magnitude >= infinity_bits<C>) continue;
    const Split x = split<C>(magnitude);
    const int top = highest_bit(x.significand), binade = top + x.exponent - exponent - job.min_exponent;
    const std::uint64_t fraction = (x.significand << (52 - top)) & ((std::uint64_t{1} << 52) - 1);
    if (binade < 0 || binade > highest || fraction <= job.promote_elements[binade]) continue;
    // Cut to the quanta of the binade above: one below the power of two that the logarithm takes it for.
    bool exact = true;
    const int quantum = top + x.exponent + 1 - job.mantissa_bits;
    to[i] = sign | compose<C>((std::uint64_t{1} << job.mantissa_bits) - 1, quantum, exact);
  }
}

// A block whose elements are looked at first.
template <class C, Round mode>
__attribute__((noinline)) void round_adjusted(const QuantizeJob& job, const TargetFamily<C>& family, int exponent,
                                              bool finite, Stretch<C> s, Counts& counts) {
  const bool under_least = job.shifts_least && exponent == job.scale_min;
  typename C::Bits adjusted[tile_capacity];
  adjust_row<C>(job, s.row, s.count, under_least ? job.least_exponent : exponent, adjusted);
  s.row = adjusted;
  if (under_least) return round_under_least<C>(job, s, counts);
  if (job.count) count_events<C>(job, exponent, s, counts);
  round_block<C, mode>(job, family, exponent, finite, s, counts);
}

// A block with NaN or Inf as one of zeros.
template <class C>
__attribute__((noinline)) void quantize_as_zeros(const QuantizeJob& job, std::int64_t index, const Stretch<C>& s,
                                                 Counts& counts) {
  const BlockScale scale = block_scale<C>(job, index, 0, 1, counts);
  if (scale.poisoned) return fill_poisoned<C>(s.count, s.values, s.codes);  // by a given one
  for (std::int64_t i = 0; s.values != nullptr && i < s.count; ++i)
    s.values[i] = job.prepare.negative_zero ? sign_mask<C> : 0;
  for (std::int64_t i = 0; s.codes != nullptr && i < s.count; ++i)
    s.codes[i] = job.prepare.negative_zero ? job.sign_bit : 0;
}

// Elements under one power of two, or under none.
template <class C, Round mode>
inline void quantize_block(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, std::int64_t index,
                           Stretch<C> s, int* shifts, Counts& counts) {
  bool finite = true;
  const typename C::Bits amax = counted_magnitude<C>(job.skip_nonfinite, s.raw, s.count, finite);
  const bool counted = finite || job.skip_nonfinite || (job.infinite_counts && amax == infinity_bits<C>) ||
                       (job.nan_counts && amax > infinity_bits<C>);
  if (!finite) count_nonfinite<C>(job, s.raw, s.count, counts);
  if (!finite && job.zeros_blocks) return quantize_as_zeros<C>(job, index, s, counts);
  BlockScale scale;
  if (job.scale_kind != ScaleKind::none) {
    scale = block_scale<C>(job, index, amax, 1, counts);
    if (job.conversion.scale_rule == ScaleRule::fit && !main_plane(job).given && amax < infinity_bits<C> && amax != 0) {
      scale.exponent = fitting_exponent<C>(job, s.raw, s.count, scale.exponent);
      const bool lowest = job.poisons_lowest && scale.exponent == job.poison_above &&
                          rounds_to_lowest<C>(job, s.raw, s.count, scale.exponent);
      scale.poisoned |= (lowest || scale.exponent > job.poison_above) && job.overflow_poisons;
      scale.exponent = smaller(scale.exponent, job.scale_max);
      store_scale(job, index, scale);
    }
    if (searches(job.conversion.scale_rule) && !main_plane(job).given && !scale.poisoned && amax != 0 &&
        (finite || job.skip_nonfinite)) {
      scale.exponent = searched_exponent<C, mode>(job, family, scale.exponent, finite, s);
      store_scale(job, index, scale);
    }
    counts.refused += !counted && !scale.poisoned;  // below a given scale that is a number
    scale.poisoned |= !counted;
    if (job.levels > 1) {
      micro_shifts<C>(job, at.batch, at.line, at.first, s.raw, s.count, scale, shifts);
      s.shifts = shifts;
    }
    if (scale.poisoned) return fill_poisoned<C>(s.count, s.values, s.codes);
    if (amax == 0 && finite) return fill_signed_zeros<C>(job, s.raw, s.count, s.values, s.codes);
  }
  if (job.adjusts) return round_adjusted<C, mode>(job, family, scale.exponent, finite, s, counts);
  if (job.shifts_least && scale.exponent == job.scale_min) return round_under_least<C>(job, s, counts);
  const int exponent = scale.exponent + job.reach;
  if (job.conversion.align_bits > 0) return round_aligned<C, mode>(job, family, exponent, finite, s, counts);
  if (job.count) count_events<C>(job, exponent, s, counts);
  round_block<C, mode>(job, family, exponent, finite, s, counts);
}

// +0 where nothing is kept.
template <class C>
inline void prune(const typename C::Bits* from, const std::uint8_t* keep, std::int64_t count, typename C::Bits* to) {
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) to[i] = keep[i] != 0 ? from[i] : 0;
}

// The row of one line within a tile. `row` is the input (left alone), `rows` is working space.
template <class C, Round mode>
inline void quantize_row(const QuantizeJob& job, const TargetFamily<C>& family, const Tile& t, std::int64_t line,
                         const typename C::Bits* row, typename C::Bits* values, Rows<C>& rows, Counts& counts) {
  using Bits = typename C::Bits;
  const Geometry& g = job.geometry;
  const std::int64_t offset = element_offset(g, t, line);
  const bool sparse = job.mask_source != MaskSource::dense;
  const bool sparsify_first = sparse && job.order == Order::sparsify_first;
  const bool quantize_first = sparse && job.order == Order::quantize_first;
  const bool choose = job.mask_source == MaskSource::magnitude;
  std::uint32_t* codes = job.codes != nullptr ? rows.codes : nullptr;
  if (quantize_first && values == nullptr) values = rows.values;

  if (job.mask_source == MaskSource::given)
    for (std::int64_t i = 0; i < t.length; ++i) rows.keep[i] = job.mask_in[offset + i * g.step];
  if (sparsify_first) {
    if (choose) counts.ties += select_units<C>(row, t.length, RankBy::magnitude, job.sparsity, job.count, rows.keep);
    prune<C>(row, rows.keep, t.length, rows.input);
    row = rows.input;
  }
  if (job.prepare.any()) {
    const Prepare& all = job.prepare;
    Prepare how = all;
    how.to_largest = how.to_zero = how.infinite_to_largest = how.nan_to_infinity = false;
    prepare_row<C>(how, row, t.length, rows.input);
    row = rows.input;
    if (all.replaces() || all.nan_to_infinity) {
      const Bits last = all.to_largest || all.to_zero ? ~sign_mask<C> : infinity_bits<C>;  // of what is replaced
      for (std::int64_t i = 0; job.count && all.replaces() && i < t.length; ++i) {
        const Bits magnitude = row[i] & ~sign_mask<C>;
        counts.nonfinite += magnitude >= infinity_bits<C> && magnitude <= last;
      }
      how = {.to_largest = all.to_largest,
             .to_zero = all.to_zero,
             .infinite_to_largest = all.infinite_to_largest,
             .nan_to_infinity = all.nan_to_infinity};
      prepare_row<C>(how, row, t.length, rows.input);
    }
  }

  if constexpr (mode == Round::stochastic) fill_chances(job, offset, g.step, t.length, rows.chances);

  const Stretch<C> whole{row, row, rows.chances, t.length, values, codes};
  const Place at{t.batch, t.first_line + line, t.first_element};
  if (job.zero_points) {
    quantize_affine<C, mode>(job, family, at, whole, rows, counts);
  } else if (job.scale_kind == ScaleKind::floating) {
    quantize_divided<C, mode>(job, family, at, whole, rows, counts);
  } else if (!takes_short_blocks(job) || !quantize_powers<C, mode>(job, family, at, whole, rows, counts)) {
    std::int64_t index = main_index(job, at);
    const std::int64_t step = main_plane(job).step;
    std::int64_t end = smaller((at.first / g.block + 1) * g.block - at.first, t.length);
    for (std::int64_t start = 0; start < t.length; start = end, end = smaller(end + g.block, t.length)) {
      const Stretch<C> block{row + start,
                             row + start,
                             rows.chances + start,
                             end - start,
                             values != nullptr ? values + start : nullptr,
                             codes != nullptr ? codes + start : nullptr};
      quantize_block<C, mode>(job, family, {at.batch, at.line, at.first + start}, index, block, rows.shifts, counts);
      index += step;
    }
  }

  if (quantize_first) {
    if (choose) counts.ties += select_units<C>(values, t.length, RankBy::magnitude, job.sparsity, job.count, rows.keep);
    // A poisoned value stays NaN: its scale says so, whatever the code.
    const Bits stays = job.scale_kind != ScaleKind::none ? infinity_bits<C> : ~sign_mask<C>;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < t.length; ++i)
      values[i] = (rows.keep[i] != 0) | ((values[i] & ~sign_mask<C>) > stays) ? values[i] : 0;
    if (codes != nullptr && job.zero_points)
      prune_to_zero_points<C>(job, {at.first, t.length, g.block}, rows, codes);
    else if (codes != nullptr)
      for (std::int64_t i = 0; i < t.length; ++i) codes[i] = rows.keep[i] != 0 ? codes[i] : 0;
  }

  if (codes != nullptr && job.taper.first_size > 0)
    for (std::int64_t i = 0; i < t.length; ++i)
      codes[i] = (codes[i] & job.sign_bit) | job.taper.in_memory[codes[i] & (job.sign_bit - 1)];
  if (codes != nullptr)
    store_codes(codes, t.length, advance(job.codes, offset * job.code_bytes), job.code_bytes, g.step);
  if (job.mask_out != nullptr)
    for (std::int64_t i = 0; i < t.length; ++i) job.mask_out[offset + i * g.step] = rows.keep[i];
}

template <class C, Round mode>
inline void quantize_tiles(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  using Bits = typename C::Bits;
  const Geometry& g = job.geometry;
  const FloatType own = C::width == 32 ? FloatType::fp32 : FloatType::fp64;
  const bool read_in_place = g.step == 1 && job.input_type == own;
  const bool write_in_place = g.step == 1 && job.values_type == own;
  const int in_size = bytes_of(job.input_type), out_size = bytes_of(job.values_type);
  const TargetFamily<C> family = target_family<C>(job);
  Rows<C> rows;
  Bits tile[tile_capacity];  // input that had to be converted, then values that still have to be
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    if (!read_in_place) load_tile<C>(g, t, job.input, job.input_type, tile);
    for (std::int64_t l = 0; l < t.lines; ++l) {
      const std::int64_t offset = element_offset(g, t, l);
      const Bits* row = tile + l * t.length;
      Bits* values = job.values != nullptr ? tile + l * t.length : nullptr;
      if (read_in_place) row = static_cast<const Bits*>(advance(job.input, offset * in_size));
      if (values != nullptr && write_in_place) values = static_cast<Bits*>(advance(job.values, offset * out_size));
      quantize_row<C, mode>(job, family, t, l, row, values, rows, counts);
    }
    if (job.values != nullptr && !write_in_place)
      counts.inexact += store_tile<C>(g, t, tile, job.values, job.values_type);
  }
}

template <class C>
inline void quantize_with(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  switch (job.conversion.rounding) {
    case Rounding::nearest_even: return quantize_tiles<C, Round::nearest_even>(job, first, last, counts);
    case Rounding::nearest_away: return quantize_tiles<C, Round::nearest_away>(job, first, last, counts);
    case Rounding::nearest_zero: return quantize_tiles<C, Round::nearest_zero>(job, first, last, counts);
    case Rounding::nearest_up: return quantize_tiles<C, Round::nearest_up>(job, first, last, counts);
    case Rounding::toward_zero:
    case Rounding::up:
    case Rounding::down: return quantize_tiles<C, Round::directed>(job, first, last, counts);
    case Rounding::to_odd: return quantize_tiles<C, Round::to_odd>(job, first, last, counts);
    case Rounding::stochastic: return quantize_tiles<C, Round::stochastic>(job, first, last, counts);
  }
}

// The largest magnitudes of cells.
inline void amax_tiles(const AmaxJob& job, std::int64_t first, std::int64_t last) {
  using Narrow = Carrier32;
  using Wide = Carrier64;
  std::uint32_t narrow[tile_capacity];
  std::uint64_t wide[tile_capacity];
  const Geometry& g = job.geometry;
  const bool by_narrow = job.input_type != FloatType::fp64 || job.narrow;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    if (by_narrow)
      load_tile<Narrow>(g, t, job.input, job.input_type, narrow);
    else
      load_tile<Wide>(g, t, job.input, job.input_type, wide);
    for (std::int64_t l = 0; l < t.lines; ++l) {
      std::uint32_t* narrow_row = narrow + l * t.length;
      std::uint64_t* wide_row = wide + l * t.length;
      if (job.mask_in != nullptr) {
        const std::uint8_t* keep = job.mask_in + element_offset(g, t, l);
        for (std::int64_t i = 0; i < t.length; ++i) {
          if (keep[i * g.step] != 0) continue;
          narrow_row[i] = 0;
          wide_row[i] = 0;
        }
      }
      if (job.prepare.any()) {
        if (by_narrow)
          prepare_row<Narrow>(job.prepare, narrow_row, t.length, narrow_row);
        else
          prepare_row<Wide>(job.prepare, wide_row, t.length, wide_row);
      }
      bool ignored = true;
      const std::int64_t line = t.batch * g.lines + t.first_line + l;
      double* to = job.largest + line * job.cells + t.first_element / job.cell;
      for (std::int64_t start = 0; start < t.length; start += job.cell, ++to) {
        const std::int64_t n = smaller(job.cell, t.length - start);
        if (job.least != nullptr) {  // under float scales, so in float32
          const Extremes<Narrow> found = counted_extremes<Narrow>(job.skip_nonfinite, narrow_row + start, n, ignored);
          job.least[to - job.largest] = -as_value<Narrow>(smaller(found.below, infinity_bits<Narrow>));
          *to = as_value<Narrow>(smaller(found.above, infinity_bits<Narrow>));
          continue;
        }
        if (by_narrow)
          *to = as_value<Narrow>(counted_magnitude<Narrow>(job.skip_nonfinite, narrow_row + start, n, ignored));
        else
          *to = as_value<Wide>(counted_magnitude<Wide>(job.skip_nonfinite, wide_row + start, n, ignored));
      }
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
