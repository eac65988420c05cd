// The encoder: load, mask, amax, scale, round, store, tile by tile.
#pragma once

#include "select.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

template <class C>
inline typename C::Bits largest_magnitude(const typename C::Bits* row, std::int64_t count) {
  typename C::Bits top = 0;
  for (std::int64_t i = 0; i < count; ++i) top = larger(top, row[i] & ~sign_mask<C>);
  return top;
}

// docs/numerics.md section 3. `amax` is finite and not zero.
template <class C>
inline int scale_exponent(const QuantizeJob& job, typename C::Bits amax) {
  const Split x = split<C>(amax);
  const int top = highest_bit(x.significand);
  const std::uint64_t fraction = (x.significand << (52 - top)) & ((std::uint64_t{1} << 52) - 1);
  const int exponent = top + x.exponent - job.scale_shift + (fraction > job.promote_above ? 1 : 0);
  return smaller(larger(exponent, job.scale_min), job.scale_max);
}

// What a block is scaled by: an exponent that is subtracted, or a float that divides.
struct BlockScale {
  int exponent = 0;
  float factor = 1;
  bool poisoned = false;
};

inline BlockScale read_scale(const QuantizeJob& job, std::int64_t index) {
  BlockScale scale;
  if (job.scale_kind == ScaleKind::floating) {
    scale.factor = static_cast<const float*>(job.scales)[index];
    scale.poisoned = !(scale.factor == scale.factor);
  } else if (job.scale_kind == ScaleKind::power_of_two) {
    const std::uint32_t code = load_code(job.scales, job.scale_bytes, index);
    scale.poisoned = job.scale_nan && code == job.scale_nan_code;
    scale.exponent = static_cast<int>(code) + job.scale_min;
  }
  return scale;
}

inline void write_scale(const QuantizeJob& job, std::int64_t index, const BlockScale& scale) {
  if (job.scales == nullptr) return;
  if (job.scale_kind == ScaleKind::floating) {
    static_cast<float*>(job.scales)[index] = scale.poisoned ? as_value<Carrier32>(nan_bits<Carrier32>) : scale.factor;
    return;
  }
  const std::uint32_t code =
      scale.poisoned ? job.scale_nan_code : static_cast<std::uint32_t>(scale.exponent - job.scale_min);
  if (job.scale_bytes == 1)
    static_cast<std::uint8_t*>(job.scales)[index] = static_cast<std::uint8_t>(code);
  else
    static_cast<std::uint16_t*>(job.scales)[index] = static_cast<std::uint16_t>(code);
}

// docs/numerics.md section 4, step 2.
inline float float_scale(const QuantizeJob& job, float amax) {
  if (amax == 0) return 1;
  const float scale = amax / job.scale_divisor;
  return scale == 0 ? 0x1p-149f : scale;
}

// Working rows of one tile.
template <class C>
struct Rows {
  typename C::Bits input[tile_capacity];
  typename C::Bits values[tile_capacity];
  std::uint32_t codes[tile_capacity];
  std::uint8_t keep[tile_capacity];
};

// The loops below may run in place (values == row, element by element), which is what ivdep promises.
template <class C, Rounding mode>
inline void round_values(const QuantizeJob& job, const BlockTarget<C>& target, const typename C::Bits* row,
                         std::int64_t count, typename C::Bits* values) {
  using Bits = typename C::Bits;
  const Bits keep_zero_sign = job.negative_zero ? sign_mask<C> : 0;
  const int mantissa_bits = job.mantissa_bits;
  const Bits max_value = target.max_value, overflow_value = target.overflow_value;
  if (target.fast) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      const Bits rounded = fast_value<C, mode>(row[i] ^ sign, target, mantissa_bits);
      const Bits value = rounded > max_value ? overflow_value : rounded;
      values[i] = value | (sign & (value != 0 ? sign_mask<C> : keep_zero_sign));
    }
  } else {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      const Bits rounded = aligned_value<C, mode>(row[i] ^ sign, mantissa_bits);
      const Bits value = rounded > max_value ? overflow_value : rounded;
      values[i] = value | (sign & (value != 0 ? sign_mask<C> : keep_zero_sign));
    }
  }
}

template <class C, Rounding mode>
inline void round_codes(const QuantizeJob& job, const BlockTarget<C>& target, const typename C::Bits* row,
                        std::int64_t count, std::uint32_t* codes) {
  using Bits = typename C::Bits;
  const int mantissa_bits = job.mantissa_bits;
  const int shift = C::mantissa - mantissa_bits;
  const std::uint32_t max_code = job.max_code, overflow_code = job.overflow_code, sign_bit = job.sign_bit;
  const std::uint32_t negate = job.twos_complement ? ~std::uint32_t{0} : 0;
  const std::uint32_t or_sign = job.twos_complement ? 0 : sign_bit;
  const std::uint32_t code_mask = job.code_mask, keep_zero_sign = job.negative_zero ? ~std::uint32_t{0} : 0;
  const bool fast = target.fast;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits sign = row[i] & sign_mask<C>;
    const Bits magnitude = row[i] ^ sign;
    const Bits wide = fast ? fast_code<C, mode>(magnitude, target, mantissa_bits)
                           : aligned_value<C, mode>(magnitude, mantissa_bits) >> shift;
    const auto narrow = static_cast<std::uint32_t>(wide);
    const std::uint32_t code = narrow > max_code ? overflow_code : narrow;
    const std::uint32_t negative = sign != 0 ? (code != 0 ? ~std::uint32_t{0} : keep_zero_sign) : 0;
    const std::uint32_t flip = negative & negate;
    codes[i] = (((code ^ flip) - flip) & code_mask) | (negative & or_sign);
  }
}

// A block whose elements share `exponent`, finite input guaranteed when `finite`. Either output may be null.
// `raw` is the input before any float scaling: what underflowed is judged by it.
template <class C, Rounding mode>
inline void round_block(const QuantizeJob& job, int exponent, bool finite, const typename C::Bits* raw,
                        const typename C::Bits* row, std::int64_t count, typename C::Bits* values,
                        std::uint32_t* codes, Counts& counts) {
  bool exact = true;
  const BlockTarget<C> target = block_target<C>(job, exponent, exact);
  if (job.count) {
    for (std::int64_t i = 0; i < count; ++i) {
      bool ignored = true;
      const RoundedElement<C> one = round_one<C>(job, row[i], exponent, ignored);
      counts.saturated += one.saturated;
      counts.underflowed += one.zero && (raw[i] & ~sign_mask<C>) != 0;
    }
  }
  // When the largest element value is beyond the carrier, results may be too: those are looked at one by one, and
  // so are formats whose overflow is a NaN, which has no sign.
  if (finite && exact && !job.overflow_is_nan && (target.fast || target.aligned)) {
    if (values != nullptr) round_values<C, mode>(job, target, row, count, values);
    if (codes != nullptr) round_codes<C, mode>(job, target, row, count, codes);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    bool kept_exactly = true;
    const RoundedElement<C> one = round_one<C>(job, row[i], exponent, kept_exactly);
    if (values != nullptr) {
      values[i] = one.value;
      counts.inexact += !kept_exactly;
    }
    if (codes != nullptr) codes[i] = one.code;
    counts.refused += one.refused;
  }
}

template <class C>
inline void fill_signed_zeros(const QuantizeJob& job, const typename C::Bits* row, std::int64_t count,
                              typename C::Bits* values, std::uint32_t* codes) {
  const typename C::Bits keep = job.negative_zero ? sign_mask<C> : 0;
  if (codes != nullptr)
    for (std::int64_t i = 0; i < count; ++i) codes[i] = (row[i] & keep) != 0 ? job.sign_bit : 0;
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
template <class C, Rounding mode>
inline void quantize_block(const QuantizeJob& job, std::int64_t scale_index, const typename C::Bits* row,
                           std::int64_t count, typename C::Bits* values, std::uint32_t* codes, Counts& counts) {
  using Bits = typename C::Bits;
  const Bits amax = largest_magnitude<C>(row, count);
  const bool finite = amax < infinity_bits<C>;
  if (job.count && !finite)
    for (std::int64_t i = 0; i < count; ++i) counts.nonfinite += (row[i] & ~sign_mask<C>) >= infinity_bits<C>;
  if (job.scale_kind == ScaleKind::none) {
    round_block<C, mode>(job, 0, finite, row, row, count, values, codes, counts);
    return;
  }
  BlockScale scale;
  if (job.scale_source == ScaleSource::given) {
    scale = read_scale(job, scale_index);
  } else {
    scale.poisoned = !finite;
    scale.exponent = job.scale_min;
    if (finite && job.scale_kind == ScaleKind::floating)
      scale.factor = float_scale(job, static_cast<float>(as_value<C>(amax)));
    else if (finite && amax != 0)
      scale.exponent = scale_exponent<C>(job, amax);
    counts.zero_blocks += amax == 0;
    const bool no_code = scale.poisoned && job.scale_kind == ScaleKind::power_of_two && !job.scale_nan;
    if (no_code || scale.factor > 0x1.fffffep127F) ++counts.refused;
    write_scale(job, scale_index, scale);
  }
  if (scale.poisoned) {
    fill_poisoned<C>(count, values, codes);
    return;
  }
  if (!finite) {  // below a given scale that is a number
    ++counts.refused;
    fill_poisoned<C>(count, values, codes);
    return;
  }
  if (amax == 0) {
    fill_signed_zeros<C>(job, row, count, values, codes);
    return;
  }
  if (job.scale_kind == ScaleKind::power_of_two) {
    round_block<C, mode>(job, scale.exponent, true, row, row, count, values, codes, counts);
    return;
  }
  // Float scales: each step is one IEEE operation in float32 (docs/numerics.md section 4).
  using Value = typename C::Value;
  const Value factor = static_cast<Value>(scale.factor);
  // A quotient beyond float32 (a tiny given scale) saturates like any large number, so it may stay a large number.
  typename C::Bits quotients[tile_capacity];
#pragma GCC ivdep
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits bits = as_bits<C>(as_value<C>(row[i]) / factor);
    const Bits sign = bits & sign_mask<C>, magnitude = bits ^ sign;
    quotients[i] = sign | smaller(magnitude, infinity_bits<C> - 1);
  }
  round_block<C, mode>(job, 0, true, row, quotients, count, values, codes, counts);
  if (values != nullptr)
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) values[i] = as_bits<C>(as_value<C>(values[i]) * factor);
}

template <class C>
inline void prune(const std::uint8_t* keep, std::int64_t count, typename C::Bits* row) {
  for (std::int64_t i = 0; i < count; ++i) row[i] &= ~(static_cast<typename C::Bits>(keep[i]) - 1);
}

// The row of one line within a tile. `row` is the input (left alone), `rows` is working space.
template <class C, Rounding mode>
inline void quantize_row(const QuantizeJob& job, const Tile& t, std::int64_t line, const typename C::Bits* row,
                         typename C::Bits* values, Rows<C>& rows, Counts& counts) {
  using Bits = typename C::Bits;
  const Geometry& g = job.geometry;
  const std::int64_t offset = element_offset(g, t, line);
  const bool sparse = job.mask_source != MaskSource::dense;
  const bool sparsify_first = sparse && job.order == Order::sparsify_first;
  const bool quantize_first = sparse && job.order == Order::quantize_first;
  std::uint32_t* codes = job.codes != nullptr ? rows.codes : nullptr;
  if (quantize_first && values == nullptr) values = rows.values;

  if (job.mask_source == MaskSource::given)
    for (std::int64_t i = 0; i < t.length; ++i) rows.keep[i] = job.mask_in[offset + i * g.step];
  if (sparsify_first) {
    if (job.mask_source == MaskSource::magnitude) {
      for (std::int64_t i = 0; i < t.length; ++i) rows.values[i] = row[i];
      magnitude_keys<C>(rows.values, t.length);
      select_row<C>(rows.values, t.length, job.sparsity, rows.keep);
      if (job.count) counts.ties += count_ties<C>(rows.values, t.length, job.sparsity, rows.keep);
    }
    if (row != rows.input)
      for (std::int64_t i = 0; i < t.length; ++i) rows.input[i] = row[i];
    prune<C>(rows.keep, t.length, rows.input);
    row = rows.input;
  }

  const std::int64_t scale_base = t.batch * g.scale_batch_stride + (t.first_line + line) * g.scale_line_stride;
  std::int64_t count = 0;
  for (std::int64_t start = 0; start < t.length; start += count) {
    const std::int64_t block = (t.first_element + start) / g.block;
    count = smaller((block + 1) * g.block - t.first_element, t.length) - start;
    quantize_block<C, mode>(job, scale_base + block * g.scale_step, row + start, count,
                            values != nullptr ? values + start : nullptr,
                            codes != nullptr ? codes + start : nullptr, counts);
  }

  if (quantize_first) {
    if (job.mask_source == MaskSource::magnitude) {
      for (std::int64_t i = 0; i < t.length; ++i) rows.input[i] = values[i];
      magnitude_keys<C>(rows.input, t.length);
      select_row<C>(rows.input, t.length, job.sparsity, rows.keep);
      if (job.count) counts.ties += count_ties<C>(rows.input, t.length, job.sparsity, rows.keep);
    }
    for (std::int64_t i = 0; i < t.length; ++i) {
      // A poisoned value stays NaN: its scale says so, whatever the code.
      const Bits magnitude = values[i] & ~sign_mask<C>;
      const bool keep = rows.keep[i] != 0;
      values[i] = keep || (magnitude > infinity_bits<C> && job.scale_kind != ScaleKind::none) ? values[i] : 0;
      if (codes != nullptr && !keep) codes[i] = 0;
    }
  }

  if (codes != nullptr)
    store_codes(codes, t.length, advance(job.codes, offset * job.code_bytes), job.code_bytes, g.step);
  if (job.mask_out != nullptr)
    for (std::int64_t i = 0; i < t.length; ++i) job.mask_out[offset + i * g.step] = rows.keep[i];
}

template <class C, Rounding mode>
inline void quantize_tiles(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  using Bits = typename C::Bits;
  const Geometry& g = job.geometry;
  const FloatType own = C::width == 32 ? FloatType::fp32 : FloatType::fp64;
  const bool read_in_place = g.step == 1 && job.input_type == own;
  const bool write_in_place = g.step == 1 && job.values_type == own;
  const int in_size = bytes_of(job.input_type), out_size = bytes_of(job.values_type);
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
      quantize_row<C, mode>(job, t, l, row, values, rows, counts);
    }
    if (job.values != nullptr && !write_in_place)
      counts.inexact += store_tile<C>(g, t, tile, job.values, job.values_type);
  }
}

template <class C>
inline void quantize_with(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) {
  switch (job.conversion.rounding) {
    case Rounding::nearest_even: return quantize_tiles<C, Rounding::nearest_even>(job, first, last, counts);
    case Rounding::nearest_away: return quantize_tiles<C, Rounding::nearest_away>(job, first, last, counts);
    case Rounding::toward_zero: return quantize_tiles<C, Rounding::toward_zero>(job, first, last, counts);
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
