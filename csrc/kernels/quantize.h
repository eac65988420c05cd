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

// One block (or the part of a larger block that lies in this tile): its scale, then its elements.
template <class C, Round mode>
inline void quantize_block(const QuantizeJob& job, const TargetFamily<C>& family, std::int64_t scale_index,
                           Stretch<C> s, Counts& counts) {
  using Bits = typename C::Bits;
  const Bits* row = s.raw;
  Bits* values = s.values;
  const std::int64_t count = s.count;
  const Bits amax = largest_magnitude<C>(row, count);
  const bool finite = amax < infinity_bits<C>;
  if (job.count && !finite)
    for (std::int64_t i = 0; i < count; ++i) counts.nonfinite += (row[i] & ~sign_mask<C>) >= infinity_bits<C>;
  BlockScale scale;
  if (job.scale_kind != ScaleKind::none) {
    scale = job.scale_source == ScaleSource::given ? read_scale(job, scale_index)
                                                   : make_scale<C>(job, scale_index, amax, counts);
    if (scale.poisoned || !finite) {
      counts.refused += !scale.poisoned;  // below a given scale that is a number
      fill_poisoned<C>(count, values, s.codes);
      return;
    }
    if (amax == 0) {
      fill_signed_zeros<C>(job, row, count, values, s.codes);
      return;
    }
  }
  // Float scales: each step is one IEEE operation in float32 (docs/numerics.md section 4).
  const bool divided = job.scale_kind == ScaleKind::floating;
  const auto factor = static_cast<typename C::Value>(scale.factor);
  Bits quotients[tile_capacity];
  if (divided) {
    // A quotient beyond float32 (a tiny given scale) saturates like any large number: it may stay a large number.
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits bits = as_bits<C>(as_value<C>(row[i]) / factor);
      const Bits sign = bits & sign_mask<C>;
      quotients[i] = sign | smaller_magnitude<C>(bits ^ sign, infinity_bits<C> - 1);
    }
    s.row = quotients;
  }
  round_block<C, mode>(job, family, scale.exponent, finite, s, counts);
  if (divided && values != nullptr)
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) values[i] = as_bits<C>(as_value<C>(values[i]) * factor);
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

  if constexpr (mode == Round::stochastic) fill_chances(job, offset, g.step, t.length, rows.chances);

  const std::int64_t scale_base = t.batch * g.scale_batch_stride + (t.first_line + line) * g.scale_line_stride;
  const std::int64_t first_block = t.first_element / g.block;
  std::int64_t scale_index = scale_base + first_block * g.scale_step;
  std::int64_t end = smaller((first_block + 1) * g.block - t.first_element, t.length);
  for (std::int64_t start = 0; start < t.length; start = end, end = smaller(end + g.block, t.length)) {
    const Stretch<C> block{row + start,
                           row + start,
                           rows.chances + start,
                           end - start,
                           values != nullptr ? values + start : nullptr,
                           codes != nullptr ? codes + start : nullptr};
    quantize_block<C, mode>(job, family, scale_index, block, counts);
    scale_index += g.scale_step;
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

// Per tile and line the largest magnitude, for blocks that a tile cannot hold.
inline void amax_tiles(const AmaxJob& job, std::int64_t first, std::int64_t last) {
  using C = Carrier64;
  typename C::Bits rows[tile_capacity];
  std::uint32_t narrow[tile_capacity];
  const Geometry& g = job.geometry;
  for (std::int64_t index = first; index < last; ++index) {
    const Tile t = tile_at(g, index);
    double* partial = job.partial + index * g.tile_lines;
    if (job.input_type != FloatType::fp64 || job.narrow) {
      load_tile<Carrier32>(g, t, job.input, job.input_type, narrow);
      for (std::int64_t i = 0; i < t.lines * t.length; ++i) narrow[i] &= ~sign_mask<Carrier32>;
    } else {
      load_tile<C>(g, t, job.input, job.input_type, rows);
    }
    for (std::int64_t l = 0; l < t.lines; ++l) {
      if (job.mask_in != nullptr) {
        const std::uint8_t* keep = job.mask_in + element_offset(g, t, l);
        for (std::int64_t i = 0; i < t.length; ++i) {
          if (keep[i * g.step] != 0) continue;
          narrow[l * t.length + i] = 0;
          rows[l * t.length + i] = 0;
        }
      }
      if (job.input_type != FloatType::fp64 || job.narrow) {
        const std::uint32_t top = largest_magnitude<Carrier32>(narrow + l * t.length, t.length);
        partial[l] = as_value<Carrier32>(smaller(top, infinity_bits<Carrier32>));
      } else {
        partial[l] = as_value<C>(smaller(largest_magnitude<C>(rows + l * t.length, t.length), infinity_bits<C>));
      }
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
