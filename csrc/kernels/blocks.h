// What the blocks of a line have in common, whatever their scales are.
#pragma once

#include "round_block.h"
#include "scale.h"

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
  float factors[tile_capacity];    // what the blocks of a line are divided and multiplied by
  float quotients[tile_capacity];  // the same before it became a code
  std::uint8_t poisoned[tile_capacity];
  typename C::Bits exponents[tile_capacity];  // of elements, as exponent fields
  int block_exponents[tile_capacity];
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

inline const ScalePlane& main_plane(const QuantizeJob& job) { return job.planes[static_cast<unsigned>(job.main)]; }

inline std::int64_t main_index(const QuantizeJob& job, const Place& at) {
  return scale_index(main_plane(job), at.batch, at.line, at.first);
}

// The scale of one block, read or made.
template <class C>
inline BlockScale block_scale(const QuantizeJob& job, std::int64_t index, typename C::Bits amax, float outer,
                              Counts& counts) {
  const ScalePlane& plane = main_plane(job);
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

// Blocks of a line, the first of which may begin before it.
struct Runs {
  std::int64_t first, count, block;

  // each(number, start, length): most lengths are known to the compiler where blocks are short.
  template <class Each>
  void operator()(const Each& each) const {
    std::int64_t b = 0, start = 0, end = smaller(block - first % block, count);
    for (; start < count; ++b, start = end, end = smaller(end + block, count)) {
      if (end - start == 16)
        each(b, start, Known<16>{});
      else if (end - start == 32)
        each(b, start, Known<32>{});
      else
        each(b, start, end - start);
    }
  }

  template <std::int64_t value>
  struct Known {
    constexpr operator std::int64_t() const { return value; }
  };
};

// What the rules mse and mae add up over a block: float64, in the order of the elements, each step one operation.
template <class C>
inline double error_of(const QuantizeJob& job, const typename C::Bits* raw, const typename C::Bits* values,
                       std::int64_t count) {
  const bool squares = job.conversion.scale_rule == ScaleRule::mse;
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if ((raw[i] & ~sign_mask<C>) >= infinity_bits<C>) continue;
    const double error = static_cast<double>(as_value<C>(values[i])) - static_cast<double>(as_value<C>(raw[i]));
    sum += squares ? error * error : error < 0 ? -error : error;
  }
  return sum;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
