// The encoder: load, mask, amax, scale, round, store, tile by tile.
#pragma once

#include "select.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

template <class C>
inline typename C::Bits largest_magnitude(const typename C::Bits* row, std::int64_t count) {
  typename C::Bits top = 0;
  for (std::int64_t i = 0; i < count; ++i) top = larger_magnitude<C>(top, row[i] & ~sign_mask<C>);
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

// The scale of a block whose largest magnitude is `amax`, stored.
template <class C>
inline BlockScale make_scale(const QuantizeJob& job, std::int64_t index, typename C::Bits amax, Counts& counts) {
  const bool finite = amax < infinity_bits<C>;
  BlockScale scale;
  scale.poisoned = !finite;
  if (job.scale_kind == ScaleKind::power_of_two)
    scale.exponent = finite && amax != 0 ? scale_exponent<C>(job, amax) : job.scale_min;
  else if (finite)
    scale.factor = float_scale(job, static_cast<float>(as_value<C>(amax)));
  counts.zero_blocks += amax == 0;
  const bool no_code = scale.poisoned && job.scale_kind == ScaleKind::power_of_two && !job.scale_nan;
  if (no_code || scale.factor > 0x1.fffffep127F) ++counts.refused;
  write_scale(job, index, scale);
  return scale;
}

// Working rows of one tile.
template <class C>
struct Rows {
  typename C::Bits input[tile_capacity];
  typename C::Bits values[tile_capacity];
  std::uint32_t codes[tile_capacity];
  std::uint8_t keep[tile_capacity];
};

// `loop(first, last)` over 0 to count. Most runs have a fixed length, so that the compiler lays a short block out
// as straight vector code.
template <class Loop>
inline void in_runs(std::int64_t count, const Loop& loop) {
  constexpr std::int64_t run = 32;
  std::int64_t done = 0;
  for (; done + run <= count; done += run) loop(done, done + run);
  if (done < count) loop(done, count);
}

// A rounded magnitude as a signed value.
template <class C>
struct SignedValue {
  using Bits = typename C::Bits;
  using Int = typename C::Int;
  Int max_value;
  Bits overflow_value;
  typename C::Value zero;  // x + -0 is x, and -0 + 0 is +0

  SignedValue(const QuantizeJob& job, const BlockTarget<C>& target)
      : max_value(static_cast<Int>(target.max_value)),
        overflow_value(target.overflow_value),
        zero(as_value<C>(job.negative_zero ? sign_mask<C> : 0)) {}

  Bits operator()(Bits rounded, Bits sign) const {
    const Bits value = static_cast<Int>(rounded) > max_value ? overflow_value : rounded;
    return as_bits<C>(as_value<C>(value | sign) + zero);
  }
};

// A magnitude's code with its sign.
struct SignedCode {
  std::uint32_t negate, or_sign, code_mask, keep_zero_sign;

  explicit SignedCode(const QuantizeJob& job)
      : negate(job.twos_complement ? ~std::uint32_t{0} : 0),
        or_sign(job.twos_complement ? 0 : job.sign_bit),
        code_mask(job.code_mask),
        keep_zero_sign(job.negative_zero ? ~std::uint32_t{0} : 0) {}

  std::uint32_t operator()(std::uint32_t code, bool minus) const {
    const std::uint32_t signs = code != 0 ? ~std::uint32_t{0} : keep_zero_sign;
    const std::uint32_t negative = signs & (minus ? ~std::uint32_t{0} : 0);
    const std::uint32_t flip = negative & negate;
    return (((code ^ flip) - flip) & code_mask) | (negative & or_sign);
  }
};

// The loops below may run in place (values == row, element by element), which is what ivdep promises.
template <class C, Rounding mode>
inline void round_values(const QuantizeJob& job, const BlockTarget<C>& target, bool aligned,
                         const typename C::Bits* row, std::int64_t count, typename C::Bits* values) {
  using Bits = typename C::Bits;
  const int mantissa_bits = job.mantissa_bits;
  const SignedValue<C> signed_value(job, target);
  if (aligned) {
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      values[i] = signed_value(aligned_value<C, mode>(row[i] ^ sign, mantissa_bits), sign);
    }
    return;
  }
  const Bits min_power = target.min_power, limit = target.limit;
  in_runs(count, [=](std::int64_t first, std::int64_t last) {
#pragma GCC ivdep
    for (std::int64_t i = first; i < last; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      const Bits within = smaller_magnitude<C>(row[i] ^ sign, limit);
      values[i] = signed_value(rounded_value<C>(round_magnitude<C, mode>(within, min_power, mantissa_bits)), sign);
    }
  });
}

template <class C, Rounding mode>
inline void round_codes(const QuantizeJob& job, const BlockTarget<C>& target, bool aligned, const typename C::Bits* row,
                        std::int64_t count, std::uint32_t* codes) {
  using Bits = typename C::Bits;
  const int mantissa_bits = job.mantissa_bits;
  const SignedCode signed_code(job);
  if (aligned) {
    const Bits max_code = job.max_code, overflow_code = job.overflow_code;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      const Bits code = aligned_value<C, mode>(row[i] ^ sign, mantissa_bits) >> (C::mantissa - mantissa_bits);
      codes[i] = signed_code(static_cast<std::uint32_t>(code > max_code ? overflow_code : code), sign != 0);
    }
    return;
  }
  const Bits min_power = target.min_power, limit = target.limit;
  in_runs(count, [=](std::int64_t first, std::int64_t last) {
#pragma GCC ivdep
    for (std::int64_t i = first; i < last; ++i) {
      const Bits sign = row[i] & sign_mask<C>;
      const Bits within = smaller_magnitude<C>(row[i] ^ sign, limit);
      const Rounded<C> rounded = round_magnitude<C, mode>(within, min_power, mantissa_bits);
      const Bits code = rounded_code<C>(rounded, min_power, mantissa_bits);
      codes[i] = signed_code(static_cast<std::uint32_t>(code), sign != 0);
    }
  });
}

// Element by element, any case.
template <class C>
__attribute__((noinline)) void round_each(const QuantizeJob& job, int exponent, const typename C::Bits* row,
                                          std::int64_t count, typename C::Bits* values, std::uint32_t* codes,
                                          Counts& counts) {
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

// Apart, like the function above, so that what every block needs stays short.
template <class C>
__attribute__((noinline)) void count_events(const QuantizeJob& job, int exponent, const typename C::Bits* raw,
                                            const typename C::Bits* row, std::int64_t count, Counts& counts) {
  for (std::int64_t i = 0; i < count; ++i) {
    bool ignored = true;
    const RoundedElement<C> one = round_one<C>(job, row[i], exponent, ignored);
    counts.saturated += one.saturated;
    counts.underflowed += one.zero && (raw[i] & ~sign_mask<C>) != 0;
  }
}

// A block whose elements share `exponent`, finite input guaranteed when `finite`. Either output may be null.
// `raw` is the input before any float scaling: what underflowed is judged by it.
template <class C, Rounding mode>
inline void round_block(const QuantizeJob& job, const TargetFamily<C>& family, int exponent, bool finite,
                        const typename C::Bits* raw, const typename C::Bits* row, std::int64_t count,
                        typename C::Bits* values, std::uint32_t* codes, Counts& counts) {
  if (job.count) count_events<C>(job, exponent, raw, row, count, counts);
  const bool by_addition = family.lowest <= exponent && exponent <= family.highest;
  const bool aligned = family.has_aligned && exponent == family.aligned;
  if (!finite || !(by_addition || aligned)) {
    round_each<C>(job, exponent, row, count, values, codes, counts);
    return;
  }
  const BlockTarget<C> target = block_target<C>(family, exponent);
  if (values != nullptr) round_values<C, mode>(job, target, !by_addition, row, count, values);
  if (codes != nullptr) round_codes<C, mode>(job, target, !by_addition, row, count, codes);
}

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
template <class C, Rounding mode>
inline void quantize_block(const QuantizeJob& job, const TargetFamily<C>& family, std::int64_t scale_index,
                           const typename C::Bits* row, std::int64_t count, typename C::Bits* values,
                           std::uint32_t* codes, Counts& counts) {
  using Bits = typename C::Bits;
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
      fill_poisoned<C>(count, values, codes);
      return;
    }
    if (amax == 0) {
      fill_signed_zeros<C>(job, row, count, values, codes);
      return;
    }
  }
  // Float scales: each step is one IEEE operation in float32 (docs/numerics.md section 4).
  const bool divided = job.scale_kind == ScaleKind::floating;
  const auto factor = static_cast<typename C::Value>(scale.factor);
  const Bits* elements = row;
  Bits quotients[tile_capacity];
  if (divided) {
    // A quotient beyond float32 (a tiny given scale) saturates like any large number: it may stay a large number.
    for (std::int64_t i = 0; i < count; ++i) {
      const Bits bits = as_bits<C>(as_value<C>(row[i]) / factor);
      const Bits sign = bits & sign_mask<C>;
      quotients[i] = sign | smaller_magnitude<C>(bits ^ sign, infinity_bits<C> - 1);
    }
    elements = quotients;
  }
  round_block<C, mode>(job, family, scale.exponent, finite, row, elements, count, values, codes, counts);
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
template <class C, Rounding mode>
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

  const std::int64_t scale_base = t.batch * g.scale_batch_stride + (t.first_line + line) * g.scale_line_stride;
  const std::int64_t first_block = t.first_element / g.block;
  std::int64_t scale_index = scale_base + first_block * g.scale_step;
  std::int64_t end = smaller((first_block + 1) * g.block - t.first_element, t.length);
  for (std::int64_t start = 0; start < t.length; start = end, end = smaller(end + g.block, t.length)) {
    quantize_block<C, mode>(job, family, scale_index, row + start, end - start,
                            values != nullptr ? values + start : nullptr, codes != nullptr ? codes + start : nullptr,
                            counts);
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

template <class C, Rounding mode>
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
