// The encoder: load, mask, amax, scale, round, store, tile by tile.
#pragma once

#include "random.h"
#include "round_block.h"
#include "scale.h"
#include "select.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Working rows of one tile.
template <class C>
struct Rows {
  typename C::Bits input[tile_capacity];
  typename C::Bits values[tile_capacity];
  std::uint32_t codes[tile_capacity];
  std::uint32_t chances[tile_capacity];
  std::uint8_t keep[tile_capacity];
  int shifts[tile_capacity];
  BlockScale scales[tile_capacity];        // of the blocks of a line
  typename C::Bits tops[tile_capacity];    // their largest magnitudes
  typename C::Bits places[tile_capacity];  // elements that are no numbers, where they stay what they are; else 0
};

// A part of a line: whole blocks, or the part of a larger block that lies in this tile.
struct Place {
  std::int64_t batch, line, first;
};

template <class C>
inline void fill_signed_zeros(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count,
                              typename C::Bits* values, std::uint32_t* codes) {
  const typename C::Bits keep = job.negative_zero ? sign_mask<C> : 0;
  const std::uint32_t sign_bit = job.sign_bit;
  if (codes != nullptr)
    for (std::int64_t i = 0; i < count; ++i) codes[i] = (row[i] & keep) != 0 ? sign_bit : 0;
  if (values != nullptr)
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) values[i] = row[i] & keep;
}

template <class C>
inline void fill_poisoned(std::int64_t count, typename C::Bits* values, std::uint32_t* codes) {
  if (codes != nullptr)
    for (std::int64_t i = 0; i < count; ++i) codes[i] = 0;
  if (values != nullptr)
    for (std::int64_t i = 0; i < count; ++i) values[i] = nan_bits<C>;
}

// The float32 scale above the blocks of a line; 1 if there is none.
inline float outer_scale(const QuantizeJob& job, const Place& at) {
  if (job.main == 0) return 1;
  return static_cast<const float*>(job.planes[0].data)[scale_index(job.planes[0], at.batch, at.line, at.first)];
}

// The scale of one block, read or made.
template <class C>
inline BlockScale block_scale(const QuantizeJob& job, const Place& at, typename C::Bits amax, float outer,
                              Counts& counts) {
  const ScalePlane& plane = job.planes[static_cast<unsigned>(job.main)];
  const std::int64_t index = scale_index(plane, at.batch, at.line, at.first);
  BlockScale scale;
  if (!(outer == outer)) {
    scale.poisoned = true;
    if (!plane.given) store_scale(job, index, scale);
    return scale;
  }
  scale = plane.given ? load_scale(main_scale(job.format).format, job.scale_kind, plane, index)
                      : make_scale<C>(job, index, amax, outer, counts);
  return scale;
}

// A block with elements that are no numbers.
template <class C>
inline void count_nonfinite(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count, Counts& counts) {
  counts.refused += job.conversion.nonfinite == NonFinite::error;
  if (!job.count) return;
  for (std::int64_t i = 0; i < count; ++i) counts.nonfinite += (row[i] & ~sign_mask<C>) >= infinity_bits<C>;
}

// Elements under one power of two, or under none.
template <class C, Round mode>
inline void quantize_block(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, Stretch<C> s,
                           int* shifts, Counts& counts) {
  bool finite = true;
  const typename C::Bits amax = counted_magnitude<C>(job.skip_nonfinite, s.raw, s.count, finite);
  if (!finite) count_nonfinite<C>(job, s.raw, s.count, counts);
  BlockScale scale;
  if (job.scale_kind != ScaleKind::none) {
    scale = block_scale<C>(job, at, amax, 1, counts);
    const bool spoilt = !finite && !job.skip_nonfinite;
    counts.refused += spoilt && !scale.poisoned;  // below a given scale that is a number
    scale.poisoned |= spoilt;
    if (job.levels > 1) {
      micro_shifts<C>(job, at.batch, at.line, at.first, s.raw, s.count, scale, shifts);
      s.shifts = shifts;
    }
    if (scale.poisoned) return fill_poisoned<C>(s.count, s.values, s.codes);
    if (amax == 0 && finite) return fill_signed_zeros<C>(job, s.raw, s.count, s.values, s.codes);
  }
  const int exponent = scale.exponent + job.reach;
  if (job.count) count_events<C>(job, exponent, s, counts);
  round_block<C, mode>(job, family, exponent, finite, s, counts);
}

// The blocks of a line under float scales: each step is one IEEE operation in float32 (docs/numerics.md section 4). All
// of them are rounded at once, since what is divided needs no exponent.
template <class C, Round mode>
inline void quantize_divided(const QuantizeJob& job, const TargetFamily<C>& family, const Place& at, Stretch<C> s,
                             Rows<C>& rows, Counts& counts) {
  using Bits = typename C::Bits;
  using Value = typename C::Value;
  const std::int64_t block = job.geometry.block;
  const auto visit = [&](const auto& each) {
    const std::int64_t behind = at.first % block;
    std::int64_t b = 0, end = smaller(block - behind, s.count);
    for (std::int64_t start = 0; start < s.count; ++b, start = end, end = smaller(end + block, s.count))
      each(b, start, end - start);
  };
  bool all_finite = true, any_poisoned = false;
  visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
    bool finite = true;
    rows.tops[b] = counted_magnitude<C>(job.skip_nonfinite, s.raw + start, n, finite);
    if (!finite) count_nonfinite<C>(job, s.raw + start, n, counts);
    all_finite &= finite;
  });
  const float outer = outer_scale(job, at);
  visit([&](std::int64_t b, std::int64_t start, std::int64_t) {
    const Place here{at.batch, at.line, at.first + start};
    const bool finite = rows.tops[b] < infinity_bits<C>;
    BlockScale scale = block_scale<C>(job, here, rows.tops[b], outer, counts);
    counts.refused += !finite && !scale.poisoned;  // below a given scale that is a number
    scale.poisoned |= !finite;
    any_poisoned |= scale.poisoned;
    // The product may leave the positive numbers where the decoder's does; nothing is divided by that.
    if (job.main > 0) scale.factor = scale.factor * outer;
    rows.scales[b] = scale;
  });
  if (!all_finite && job.skip_nonfinite)  // results may overwrite input
    for (std::int64_t i = 0; i < s.count; ++i)
      rows.places[i] = (s.raw[i] & ~sign_mask<C>) >= infinity_bits<C> ? s.raw[i] : 0;
  Bits quotients[tile_capacity];
  const bool by_reciprocal = job.conversion.scale_apply == ScaleApply::reciprocal;
  visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
    const float divisor = smaller(larger(rows.scales[b].factor, 0x1p-149F), 0x1.fffffep127F);
    const auto factor = static_cast<Value>(divisor);
    if (by_reciprocal) {
      const auto times = static_cast<Value>(smaller(1 / divisor, 0x1.fffffep127F));
      for (std::int64_t i = start; i < start + n; ++i) quotients[i] = as_bits<C>(as_value<C>(s.raw[i]) * times);
    } else {
      for (std::int64_t i = start; i < start + n; ++i) quotients[i] = as_bits<C>(as_value<C>(s.raw[i]) / factor);
    }
    // A quotient beyond float32 (under a tiny scale) saturates like any large number: it may stay a large number.
    for (std::int64_t i = start; i < start + n; ++i) {
      const Bits bits = quotients[i], sign = bits & sign_mask<C>;
      quotients[i] = sign | smaller_magnitude<C>(bits ^ sign, infinity_bits<C> - 1);
    }
  });
  if (!all_finite && job.skip_nonfinite)
    for (std::int64_t i = 0; i < s.count; ++i) quotients[i] = rows.places[i] != 0 ? 0 : quotients[i];
  if (any_poisoned)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      for (std::int64_t i = start; rows.scales[b].poisoned && i < start + n; ++i) quotients[i] = 0;
    });
  s.row = quotients;
  if (job.levels > job.main + 1) {
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      micro_shifts<C>(job, at.batch, at.line, at.first + start, s.raw + start, n, rows.scales[b], rows.shifts + start);
    });
    s.shifts = rows.shifts;
  }
  if (job.count)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      Stretch<C> part{s.raw + start, s.row + start, s.chances + start, n, nullptr, nullptr};
      if (s.shifts != nullptr) part.shifts = s.shifts + start;
      if (!rows.scales[b].poisoned) count_events<C>(job, job.reach, part, counts);
    });
  round_block<C, mode>(job, family, job.reach, true, s, counts);
  // NaN and Inf that stay in their places were rounded as zeros.
  if (!all_finite && job.skip_nonfinite)
    for (std::int64_t i = 0; i < s.count; ++i) {
      if (rows.places[i] == 0) continue;
      bool exact = true;
      const RoundedElement<C> one = round_one<C>(job, rows.places[i], job.reach + s.shift(i), 0, exact);
      if (s.values != nullptr) s.values[i] = one.value;
      if (s.codes != nullptr) s.codes[i] = one.code;
      counts.refused += one.refused;
    }
  if (s.values != nullptr)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      const auto factor = static_cast<Value>(rows.scales[b].factor);
      Bits* values = s.values + start;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < n; ++i) values[i] = as_bits<C>(as_value<C>(values[i]) * factor);
    });
  if (any_poisoned)
    visit([&](std::int64_t b, std::int64_t start, std::int64_t n) {
      if (!rows.scales[b].poisoned) return;
      fill_poisoned<C>(n, s.values != nullptr ? s.values + start : nullptr,
                       s.codes != nullptr ? s.codes + start : nullptr);
    });
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
    if (choose) counts.ties += select_row<C>(row, t.length, RankBy::magnitude, job.sparsity, job.count, rows.keep);
    prune<C>(row, rows.keep, t.length, rows.input);
    row = rows.input;
  }
  if (job.prepare.any()) {
    Prepare how = job.prepare;
    how.to_largest = false;
    prepare_row<C>(how, row, t.length, rows.input);
    row = rows.input;
    if (job.prepare.to_largest) {
      count_nonfinite<C>(job, row, t.length, counts);
      prepare_row<C>({.to_largest = true}, row, t.length, rows.input);
    }
  }

  if constexpr (mode == Round::stochastic) fill_chances(job, offset, g.step, t.length, rows.chances);

  const Stretch<C> whole{row, row, rows.chances, t.length, values, codes};
  const Place at{t.batch, t.first_line + line, t.first_element};
  if (job.scale_kind == ScaleKind::floating) {
    quantize_divided<C, mode>(job, family, at, whole, rows, counts);
  } else {
    std::int64_t end = smaller((at.first / g.block + 1) * g.block - at.first, t.length);
    for (std::int64_t start = 0; start < t.length; start = end, end = smaller(end + g.block, t.length)) {
      const Stretch<C> block{row + start,
                             row + start,
                             rows.chances + start,
                             end - start,
                             values != nullptr ? values + start : nullptr,
                             codes != nullptr ? codes + start : nullptr};
      quantize_block<C, mode>(job, family, {at.batch, at.line, at.first + start}, block, rows.shifts, counts);
    }
  }

  if (quantize_first) {
    if (choose) counts.ties += select_row<C>(values, t.length, RankBy::magnitude, job.sparsity, job.count, rows.keep);
    // A poisoned value stays NaN: its scale says so, whatever the code.
    const Bits stays = job.scale_kind != ScaleKind::none ? infinity_bits<C> : ~sign_mask<C>;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < t.length; ++i)
      values[i] = (rows.keep[i] != 0) | ((values[i] & ~sign_mask<C>) > stays) ? values[i] : 0;
    if (codes != nullptr)
      for (std::int64_t i = 0; i < t.length; ++i) codes[i] = rows.keep[i] != 0 ? codes[i] : 0;
  }

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
        if (by_narrow)
          *to = as_value<Narrow>(smaller(counted_magnitude<Narrow>(job.skip_nonfinite, narrow_row + start, n, ignored),
                                         infinity_bits<Narrow>));
        else
          *to = as_value<Wide>(
              smaller(counted_magnitude<Wide>(job.skip_nonfinite, wide_row + start, n, ignored), infinity_bits<Wide>));
      }
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
