// Sums of integer products, two products of 16 bits per step of 32: formats whose elements are short integers of one
// unit (docs/numerics.md section 10, block_fp32). A tile of rows against a panel keeps its sums in registers.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "accumulate.h"
#include "results.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// A register of int32 sums and one of int16 pairs. 256 bits at most: what the widest processor at hand has run.
#if defined(__AVX2__)
constexpr int pair_bytes = 32, tile_rows = 4;
#else
constexpr int pair_bytes = 16, tile_rows = 2;
#endif
typedef std::int32_t PairSums __attribute__((vector_size(pair_bytes), aligned(4), may_alias));
typedef std::int16_t Pairs __attribute__((vector_size(pair_bytes), aligned(2), may_alias));
typedef float PairFloats __attribute__((vector_size(pair_bytes), aligned(4), may_alias));
constexpr int pair_width = pair_bytes / 4, pair_parts = lanes / pair_width;

// Each lane's x[0] * y[0] + x[1] * y[1].
inline PairSums multiply_pairs(Pairs x, Pairs y) {
#if defined(__AVX2__)
  return reinterpret_cast<PairSums>(_mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(y)));
#elif defined(__SSE2__)
  return reinterpret_cast<PairSums>(_mm_madd_epi16(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(y)));
#else
  PairSums sum{};
  for (int i = 0; i < pair_width; ++i)
    sum[i] = std::int32_t{x[2 * i]} * y[2 * i] + std::int32_t{x[2 * i + 1]} * y[2 * i + 1];
  return sum;
#endif
}

// sums = products of `count` pairs of a tile of rows, interleaved, with a panel.
inline __attribute__((always_inline)) void sum_pairs(const std::int16_t* rows, const std::int16_t* panel,
                                                     std::int64_t count, PairSums (&sums)[tile_rows][pair_parts]) {
  PairSums local[tile_rows][pair_parts] = {};
  for (std::int64_t p = 0; p < count; ++p) {
    const Pairs* from = reinterpret_cast<const Pairs*>(panel + p * 2 * lanes);
    for (int r = 0; r < tile_rows; ++r) {
      std::int32_t pair;
      std::memcpy(&pair, rows + (p * tile_rows + r) * 2, sizeof pair);
      const Pairs both = reinterpret_cast<Pairs>(PairSums{} + pair);
      for (int i = 0; i < pair_parts; ++i) local[r][i] += multiply_pairs(both, from[i]);
    }
  }
  for (int r = 0; r < tile_rows; ++r)
    for (int i = 0; i < pair_parts; ++i) sums[r][i] = local[r][i];
}

// A register of int16, and the codes for one.
typedef std::uint8_t CodeBytes __attribute__((vector_size(pair_bytes / 2), aligned(1), may_alias));
typedef std::uint16_t CodeWords __attribute__((vector_size(pair_bytes), aligned(2), may_alias));

// Elements as integers of one unit: all finite, all of 16 bits. `arithmetic`: what follows from their fields is what
// the table holds, for each code.
struct IntegerTable {
  bool fits = false, arithmetic = false, twos_complement = false;
  int unit;                                   // 2^unit
  int mantissa_bits = 0, magnitude_bits = 0;  // of codes; the same number for integers
  int shift_steps = 0;                        // bits of the largest shift
  int unused_bits = 0;                        // of a word above the code
  std::uint8_t nonzero_bits = 0;              // that zeros, of either sign, have not
  std::int16_t integers[256];

  explicit IntegerTable(const Operand& o) : unit(min_exponent(o.element) - o.element.mantissa_bits) {
    const ElementFormat& f = o.element;
    if (o.code_bytes != 1 || unit < -120 || unit > 120) return;
    const ElementTable table(f);
    for (std::uint32_t code = 0; code < 256; ++code) {
      const double integer = table.values[code] * power_of_two(-unit);
      if (!(integer <= INT16_MAX && integer >= -INT16_MAX)) return;
      integers[code] = static_cast<std::int16_t>(integer);
    }
    fits = true;
    mantissa_bits = f.mantissa_bits;
    magnitude_bits = f.exponent_bits + f.mantissa_bits;
    unused_bits = 16 - code_bits(f);
    shift_steps = f.exponent_bits;
    nonzero_bits = static_cast<std::uint8_t>(has_negative_zero(f) ? magnitude_mask(f) : (1U << code_bits(f)) - 1);
    twos_complement = f.signedness == Signedness::twos_complement;
    arithmetic = shift_steps <= 4 && is_signed(f) && follows();
  }

  // The integers of as many codes as a register holds.
  Pairs computed(const std::uint8_t* codes) const {
    const CodeWords words = __builtin_convertvector(*reinterpret_cast<const CodeBytes*>(codes), CodeWords);
    if (twos_complement) return reinterpret_cast<Pairs>(words << unused_bits) >> unused_bits;
    const std::uint16_t all = static_cast<std::uint16_t>((1 << magnitude_bits) - 1);
    const CodeWords magnitudes = words & all;
    Pairs result = reinterpret_cast<Pairs>(magnitudes);
    if (shift_steps > 0) {
      const std::int16_t mantissas = static_cast<std::int16_t>((1 << mantissa_bits) - 1);
      const std::int16_t hidden = static_cast<std::int16_t>(1 << mantissa_bits);
      const Pairs fields = reinterpret_cast<Pairs>(magnitudes >> mantissa_bits);
      const Pairs normal = fields != 0;  // -1 where they are
      const Pairs shifts = fields + normal;
      result = (result & mantissas) | (normal & hidden);
      for (int step = 0; step < shift_steps; ++step) {
        const std::int16_t bit = static_cast<std::int16_t>(1 << step);
        const Pairs wanted = (shifts & bit) != 0;
        result = (wanted & result << (1 << step)) | (~wanted & result);
      }
    }
    const Pairs negative = reinterpret_cast<Pairs>(words << unused_bits) >> 15;
    return (result ^ negative) - negative;
  }

  // Whether all codes are zeros; of some tables, no.
  bool zeros(const std::uint8_t* codes, std::int64_t count) const {
    std::uint64_t all = 0;
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      std::uint64_t some;
      std::memcpy(&some, codes + i, sizeof some);
      all |= some;
    }
    for (; i < count; ++i) all |= codes[i];
    return integers[0] == 0 && (all & 0x0101010101010101U * nonzero_bits) == 0;
  }

  // to[i] = the integer of codes[i].
  void operator()(const std::uint8_t* codes, std::int64_t count, std::int16_t* to) const {
    constexpr std::int64_t width = pair_bytes / 2;
    std::int64_t i = 0;
    if (arithmetic)
      for (; i + width <= count; i += width) *reinterpret_cast<Pairs*>(to + i) = computed(codes + i);
    for (; i < count; ++i) to[i] = integers[codes[i]];
  }

 private:
  bool follows() const {
    constexpr int width = pair_bytes / 2;
    for (int first = 0; first < 256; first += width) {
      std::uint8_t codes[width];
      for (int l = 0; l < width; ++l) codes[l] = static_cast<std::uint8_t>(first + l);
      const Pairs some = computed(codes);
      for (int l = 0; l < width; ++l)
        if (some[l] != integers[first + l]) return false;
    }
    return true;
  }
};

// Exponents of the scales of blocks that are not all zeros. Of a NaN, all there are.
struct Reach {
  int lowest = 1000, highest = -1000;

  void add(std::int32_t exponent) {
    if (exponent == poisoned_exponent) {
      lowest = -1000;
      highest = 1000;
      return;
    }
    lowest = smaller(lowest, exponent);
    highest = larger(highest, exponent);
  }
  void add(const Reach& other) {
    lowest = smaller(lowest, other.lowest);
    highest = larger(highest, other.highest);
  }
};

// Segments of pairs: those of an odd number of products end with a zero.
inline std::int64_t pairs_of(const MultiplyJob& job, std::int64_t s) {
  return (job.segment_end[s] - segment_begin(job, s) + 1) / 2;
}

inline bool floating(const MultiplyJob& job) { return job.a.factors != nullptr || job.b.factors != nullptr; }

// to[p * stride + (0 or 1)] = the integers of pairs of codes; the last pair of an odd number ends with a zero.
inline void pack_pairs(const IntegerTable& table, const std::uint8_t* codes, std::int64_t count, std::int64_t stride,
                       std::int16_t* to) {
  if (stride == 2) {
    table(codes, count, to);
    if (count % 2 != 0) to[count] = 0;
    return;
  }
  constexpr std::int64_t at_once = 256;  // an even number
  for (std::int64_t first = 0; first < count; first += at_once) {
    const std::int64_t some = smaller(at_once, count - first);
    std::int16_t integers[at_once];
    table(codes + first, some, integers);
    if (some % 2 != 0) integers[some] = 0;
    for (std::int64_t i = 0; i < some; i += 2, to += stride) std::memcpy(to, integers + i, 4);
  }
}

// One operand's rows as pairs: to[p * stride_p + r * 2 + (0 or 1)] where rows lie beside each other, with their scales
// at [s * stride_s + r * stride_r].
struct PairPacker {
  const MultiplyJob& job;
  const Operand& operand;
  const IntegerTable& table;
  int unit;  // added to the exponents

  // Of row `row`. A function of its own, like those that follow, keeps what its loops need in registers.
  __attribute__((noinline)) void operator()(std::int64_t row, std::int64_t stride_p, std::int16_t* to,
                                            std::int64_t stride_s, double* powers, float* near_powers, float* factors,
                                            Reach& reach) const {
    const auto* codes = static_cast<const std::uint8_t*>(operand.codes) + row * job.k;
    std::int64_t p = 0;
    for (std::int64_t s = 0; s < job.segments; ++s) {
      const std::int64_t begin = segment_begin(job, s), count = job.segment_end[s] - begin;
      const std::uint8_t* from = codes + begin;
      std::int16_t* own = to + p * stride_p;
      pack_pairs(table, from, count, stride_p, own);
      p += (count + 1) / 2;
      const std::int32_t exponent =
          operand.scale_kind == ScaleKind::power_of_two ? operand.exponents[row * job.segments + s] : 0;
      const bool poisoned = exponent == poisoned_exponent;
      // The scale of zeros does not matter unless it is NaN.
      const bool counts = poisoned || !table.zeros(from, count);
      if (counts) reach.add(poisoned ? exponent : exponent + unit);
      powers[s * stride_s] =
          poisoned ? as_value<Carrier64>(nan_bits<Carrier64>) : power_of_two(counts ? exponent + unit : 0);
      near_powers[s * stride_s] = static_cast<float>(powers[s * stride_s]);
      if (floating(job)) factors[s * stride_s] = segment_factor(job, operand, row, s);
    }
  }
};

// What the blocks of a tile of rows have in common with a panel.
struct PairTile {
  const std::int16_t* rows;  // [pairs][tile_rows][2]
  const double* row_powers;  // [tile_rows][segments]
  const float* row_factors;
  const float* near_row_powers;
  const std::int16_t* panel;
  const double* panel_powers;  // [segments][lanes]
  const float* panel_factors;
  const float* near_panel_powers;
  float* acc;  // [tile_rows][lanes]
};

// Segments [first, end) from pair `at` on, under scales whose products with a sum are float32 numbers, whatever the
// sum: each segment is one float32 addition. Functions of their own keep the sums in registers.
__attribute__((noinline)) void add_near(const MultiplyJob& job, const PairTile& t, std::int64_t first, std::int64_t end,
                                        std::int64_t at) {
  // In registers: stores to the sums could be to anything, for all that compilers know.
  const std::int64_t segments = job.segments;
  const std::int64_t* const ends = job.segment_end;
  const std::int16_t *const rows = t.rows, *const panel = t.panel;
  const float *const row_powers = t.near_row_powers, *const panel_powers = t.near_panel_powers;
  float* const all = t.acc;
  std::int64_t begin = segment_begin(job, first);
  for (std::int64_t s = first; s < end; ++s) {
    const std::int64_t count = (ends[s] - begin + 1) / 2;
    begin = ends[s];
    PairSums sums[tile_rows][pair_parts];
    sum_pairs(rows + at * 2 * tile_rows, panel + at * 2 * lanes, count, sums);
    at += count;
    const PairFloats* powers = reinterpret_cast<const PairFloats*>(panel_powers + s * lanes);
    for (int r = 0; r < tile_rows; ++r) {
      const float own = row_powers[r * segments + s];
      PairFloats* const acc = reinterpret_cast<PairFloats*>(all + r * lanes);
      for (int i = 0; i < pair_parts; ++i)
        acc[i] += __builtin_convertvector(sums[r][i], PairFloats) * (own * powers[i]);
    }
  }
}

// Under any scales: float64 terms, added with one rounding.
__attribute__((noinline)) void add_far(const MultiplyJob& job, const PairTile& t, std::int64_t first, std::int64_t end,
                                       std::int64_t at) {
  const bool scaled = floating(job);
  for (std::int64_t s = first; s < end; ++s) {
    const std::int64_t count = pairs_of(job, s);
    PairSums sums[tile_rows][pair_parts];
    sum_pairs(t.rows + at * 2 * tile_rows, t.panel + at * 2 * lanes, count, sums);
    at += count;
    for (int r = 0; r < tile_rows; ++r) {
      double terms[lanes];
      const auto* sum = reinterpret_cast<const std::int32_t*>(sums[r]);
      for (int l = 0; l < lanes; ++l)
        terms[l] = static_cast<double>(sum[l]) * (t.row_powers[r * job.segments + s] * t.panel_powers[s * lanes + l]);
      if (scaled) scale_terms(t.row_factors[r * job.segments + s], t.panel_factors + s * lanes, terms);
      add_once(terms, t.acc + r * lanes);
    }
  }
}

// K of a panel that stays near.
constexpr std::int64_t near_pairs = 256;

struct PairProduct {
  const MultiplyJob& job;
  IntegerTable a, b;
  bool applies;

  explicit PairProduct(const MultiplyJob& j)
      : job(j),
        a(j.a),
        b(j.b),
        applies(j.path.reduce == Reduce::blocks && accumulates_float32(j.path) && j.sum_bits <= 31 && a.fits &&
                b.fits) {}

  // No product of a sum and two scales leaves the normal numbers of float32, nor does a scale.
  bool is_near(const Reach& rows, const Reach& panel) const {
    return job.sum_bits <= 24 && rows.lowest + panel.lowest >= -126 &&
           rows.highest + panel.highest + job.sum_bits <= 127 && smaller(rows.lowest, panel.lowest) >= -126 &&
           larger(rows.highest, panel.highest) <= 127;
  }

  // Where the workspace holds what.
  struct Space {
    std::int64_t block, pairs = 0;
    std::int16_t *panel, *turned, *rows;
    float *acc, *row_factors, *near_row_powers, *panel_factors, *near_panel_powers;
    double *row_powers, *panel_powers;

    Space(const MultiplyJob& job, void* workspace) : block(rows_at_once(job.k)) {
      for (std::int64_t s = 0; s < job.segments; ++s) pairs += pairs_of(job, s);
      panel = static_cast<std::int16_t*>(workspace);
      turned = panel + lanes * 2 * pairs;
      rows = turned + lanes * 2 * pairs;
      acc = reinterpret_cast<float*>(rows + block * 2 * pairs);
      row_powers = reinterpret_cast<double*>(acc + block * lanes);
      panel_powers = row_powers + block * job.segments;
      row_factors = reinterpret_cast<float*>(panel_powers + lanes * job.segments);
      near_row_powers = row_factors + block * job.segments;
      panel_factors = near_row_powers + block * job.segments;
      near_panel_powers = panel_factors + lanes * job.segments;
    }
  };

  void operator()(std::int64_t first, std::int64_t last, void* workspace) const {
    const Space space(job, workspace);
    const PairPacker pack_a{job, job.a, a, 0}, pack_b{job, job.b, b, a.unit + b.unit};
    Reach reaches[most_rows_at_once / tile_rows];
    for (std::int64_t from = first; from < last; from += space.block) {
      const std::int64_t count = smaller(space.block, last - from);
      const std::int64_t tiles = (count + tile_rows - 1) / tile_rows;
      for (std::int64_t r = 0; r < tiles * tile_rows; ++r) {
        Reach& reach = reaches[r / tile_rows];
        if (r % tile_rows == 0) reach = Reach{};
        // Missing rows of the last tile are copies of the last one.
        const std::int64_t at = r * job.segments;
        pack_a(from + smaller(r, count - 1), 2 * tile_rows,
               space.rows + (r / tile_rows * tile_rows * space.pairs + r % tile_rows) * 2, 1, space.row_powers + at,
               space.near_row_powers + at, space.row_factors + at, reach);
      }
      for (std::int64_t column = 0; column < job.n; column += lanes) {
        const std::int64_t width = smaller<std::int64_t>(lanes, job.n - column);
        Reach panel_reach;
        for (std::int64_t l = 0; l < lanes; ++l)
          pack_b(column + smaller(l, width - 1), 2, space.turned + l * 2 * space.pairs, lanes, space.panel_powers + l,
                 space.near_panel_powers + l, space.panel_factors + l, panel_reach);
        turn_words(space.turned, space.pairs, space.panel);
        for (std::int64_t r = 0; r < tiles * tile_rows; ++r)
          load_start(job, from + smaller(r, count - 1), column, width, space.acc + r * lanes);
        multiply_panel(space, tiles, reaches, panel_reach);
        for (std::int64_t r = 0; r < count; ++r) store_result(job, from + r, column, width, space.acc + r * lanes);
      }
    }
  }

  // Every tile of rows against a panel, a part of K at a time.
  void multiply_panel(const Space& space, std::int64_t tiles, const Reach* reaches, const Reach& panel_reach) const {
    for (std::int64_t s = 0, p = 0; s < job.segments;) {
      std::int64_t end = s, stop = p;
      while (end < job.segments && (end == s || stop - p < near_pairs)) stop += pairs_of(job, end++);
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t row = t * tile_rows, at = row * job.segments;
        const PairTile tile{space.rows + row * 2 * space.pairs,
                            space.row_powers + at,
                            space.row_factors + at,
                            space.near_row_powers + at,
                            space.panel,
                            space.panel_powers,
                            space.panel_factors,
                            space.near_panel_powers,
                            space.acc + row * lanes};
        const bool near = !floating(job) && is_near(reaches[t], panel_reach);
        near ? add_near(job, tile, s, end, p) : add_far(job, tile, s, end, p);
      }
      s = end;
      p = stop;
    }
  }
};

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
