// Sums of short integers that are aligned whole and scaled (docs/numerics.md section 10): sums of 16-bit pairs, then
// terms in float64, which holds them. Rows and panels with a NaN scale go through align.h.
#pragma once

#include "far.h"
#include "pairs.h"
#include "truncate.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Cut toward zero; sizes are below 2^52.
inline Doubles cut(Doubles x) {
  constexpr std::int64_t sign = INT64_MIN;
  const Doubles size = as_doubles(as_words(x) & ~sign), magic = Doubles{} + 0x1p52, near = (size + magic) - magic;
  const Doubles kept = near - as_doubles(as_words(Doubles{} + 1.0) & (near > size));
  return as_doubles(as_words(kept) | (as_words(x) & sign));
}

struct PresumProduct {
  const MultiplyJob& job;
  const AlignPlan& plan;
  const Splitter a_split, b_split;
  const IntegerTable a, b;
  bool applies;
  std::int64_t length, pairs, sums, per_step, per_chunk;  // of a sum: products, pairs; sums of K, a step, a chunk

  explicit PresumProduct(const AlignPlan& p)
      : job(p.job),
        plan(p),
        a_split(p, p.job.a),
        b_split(p, p.job.b),
        a(p.job.a),
        b(p.job.b),
        applies(p.job.path.presum > 1 && p.job.path.align_rounding == Cut::toward_zero && a.fits && b.fits &&
                p.job.path.group / p.job.path.presum <= most_sums),
        length(p.job.path.presum),
        pairs((length + 1) / 2),
        sums((p.job.k + length - 1) / length),
        per_step(p.job.path.group / length),
        per_chunk(p.job.path.chunk / length) {}

  static constexpr int most_sums = 16;  // of a step

  // One operand's row, in a function of its own as in pairs.h: pairs with zeros where a sum is shorter, and what each
  // sum is multiplied by. False if a scale is NaN.
  __attribute__((noinline)) bool pack(const Operand& o, const IntegerTable& table, std::int64_t row,
                                      std::int64_t stride, std::int16_t* to, std::int64_t stride_s,
                                      std::int32_t* exponents, std::int32_t* significands) const {
    const auto* codes = static_cast<const std::uint8_t*>(o.codes) + row * job.k;
    bool number = true;
    for (std::int64_t i = 0, s = 0; i < sums; ++i) {
      const std::int64_t begin = i * length, count = smaller(length, job.k - begin);
      while (job.segment_end[s] <= begin) ++s;
      std::int16_t* own = to + i * pairs * stride;
      pack_pairs(table, codes + begin, count, stride, own);
      for (std::int64_t p = (count + 1) / 2; p < pairs; ++p) own[p * stride] = own[p * stride + 1] = 0;
      const std::int32_t exponent = o.exponents == nullptr ? 0 : o.exponents[row * job.segments + s];
      exponents[i * stride_s] = exponent != poisoned_exponent ? exponent : 0;
      significands[i * stride_s] = o.significands == nullptr ? 1 : o.significands[row * job.segments + s];
      number &= exponent != poisoned_exponent;
    }
    return number;
  }

  // Where the workspace holds what.
  struct Space {
    std::int64_t block;
    std::int16_t *panel, *turned, *rows;
    float* acc;
    std::int32_t *row_exponents, *row_significands, *panel_exponents, *panel_significands, *far_rows, *far_panel;

    Space(const PresumProduct& product, void* workspace) : block(rows_at_once(product.job.k)) {
      const std::int64_t sums = product.sums, row = sums * product.pairs * 2;
      panel = static_cast<std::int16_t*>(workspace);
      turned = panel + lanes * row;
      rows = turned + lanes * row;
      acc = reinterpret_cast<float*>(rows + block * row);
      row_exponents = reinterpret_cast<std::int32_t*>(acc + block * lanes);
      row_significands = row_exponents + block * sums;
      panel_exponents = row_significands + block * sums;
      panel_significands = panel_exponents + lanes * sums;
      far_rows = panel_significands + lanes * sums;
      far_panel = far_rows + block * FarProduct::row_words(product.plan);
    }
  };

  void operator()(std::int64_t first, std::int64_t last, void* workspace) const {
    const Space space(*this, workspace);
    FarProduct far(plan, a_split, b_split, space.far_rows, space.far_panel);
    bool near[most_rows_at_once];
    for (std::int64_t from = first; from < last; from += space.block) {
      const std::int64_t count = smaller(space.block, last - from);
      const std::int64_t tiles = (count + tile_rows - 1) / tile_rows;
      far.begin_rows();
      for (std::int64_t r = 0; r < tiles * tile_rows; ++r)
        near[r] = pack(job.a, a, from + smaller(r, count - 1), 2 * tile_rows,
                       space.rows + (r / tile_rows * tile_rows * sums * pairs + r % tile_rows) * 2, 1,
                       space.row_exponents + r * sums, space.row_significands + r * sums);
      for (std::int64_t column = 0; column < job.n; column += lanes) {
        const std::int64_t width = smaller<std::int64_t>(lanes, job.n - column);
        bool panel_near = true;
        for (std::int64_t l = 0; l < lanes; ++l)
          panel_near &= pack(job.b, b, column + smaller(l, width - 1), 2, space.turned + l * sums * pairs * 2, lanes,
                             space.panel_exponents + l, space.panel_significands + l);
        turn_words(space.turned, sums * pairs, space.panel);
        far.begin_panel();
        for (std::int64_t r = 0; r < tiles * tile_rows; r += tile_rows) {
          float* acc = space.acc + r * lanes;
          for (int i = 0; i < tile_rows; ++i)
            load_start(job, from + smaller(r + i, count - 1), column, width, acc + i * lanes);
          bool finite[tile_rows];
          for (int i = 0; i < tile_rows; ++i) finite[i] = panel_near && near[r + i] && all_finite(acc + i * lanes);
          if (panel_near) multiply_tile(space, r, acc);
          for (std::int64_t i = 0; i < tile_rows && r + i < count; ++i) {
            if (!finite[i] || !all_finite(acc + i * lanes)) far(from, r + i, column, width, acc + i * lanes);
            store_result(job, from + r + i, column, width, acc + i * lanes);
          }
        }
      }
    }
  }

  // Every step of a tile, a chunk at a time where there are chunks.
  void multiply_tile(const Space& space, std::int64_t r, float* acc) const {
    const std::int64_t chunk = per_chunk > 0 ? per_chunk : sums;
    for (std::int64_t c = 0; c < sums; c += chunk) {
      float fresh[tile_rows * lanes] = {};
      float* own = per_chunk > 0 ? fresh : acc;
      for (std::int64_t i = c; i < smaller(c + chunk, sums); i += per_step)
        step(space, r, i, smaller(smaller(i + per_step, c + chunk), sums), own);
      for (int l = 0; per_chunk > 0 && l < tile_rows * lanes; ++l) acc[l] += fresh[l];
    }
  }

  // Sums [first, end) of a tile: one step of each row.
  __attribute__((noinline)) void step(const Space& space, std::int64_t r, std::int64_t first, std::int64_t end,
                                      float* acc) const {
    const std::int64_t count = end - first;
    PairSums all[most_sums][tile_rows][pair_parts];
    for (std::int64_t i = 0; i < count; ++i)
      sum_pairs(space.rows + (r * sums + (first + i) * tile_rows) * pairs * 2,
                space.panel + (first + i) * pairs * 2 * lanes, pairs, all[i]);
    for (int row = 0; row < tile_rows; ++row) {
      const std::int32_t* exponents = space.row_exponents + (r + row) * sums + first;
      const std::int32_t* significands = space.row_significands + (r + row) * sums + first;
      add_terms(space, first, count, all, row, exponents, significands, acc + row * lanes);
    }
  }

  void add_terms(const Space& space, std::int64_t first, std::int64_t count,
                 const PairSums (*all)[tile_rows][pair_parts], int row, const std::int32_t* exponents,
                 const std::int32_t* significands, float* acc) const {
    const StartLanes start(plan, acc);
    const bool zeros_count = plan.zero_exponent != absent_exponent;
    std::int32_t top[lanes];
    for (int l = 0; l < lanes; ++l) top[l] = larger(start.counted[l], plan.least_top);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto* sum = reinterpret_cast<const std::int32_t*>(all[i][row]);
      const std::int32_t* others = space.panel_exponents + (first + i) * lanes;
      const std::int32_t* scales = space.panel_significands + (first + i) * lanes;
      for (int l = 0; l < lanes; ++l) {
        // A scale of zero makes a term of zero.
        const bool counts = zeros_count || (sum[l] != 0 && significands[i] * scales[l] != 0);
        const std::int32_t exponent = counts ? exponents[i] + others[l] : absent_exponent;
        top[l] = top[l] > exponent ? top[l] : exponent;
      }
    }
    const int fraction = plan.job.path.fraction_bits;
    const int unit = plan.integer_unit - job.a.scale_fraction - job.b.scale_fraction;
    double total[lanes], terms[lanes], powers[lanes];
    for (int l = 0; l < lanes; ++l) {
      terms[l] = static_cast<double>(acc[l]);
      powers[l] = power_of_two(fraction - top[l]);
    }
    const Doubles* powers_of = reinterpret_cast<const Doubles*>(powers);
    Doubles* totals = reinterpret_cast<Doubles*>(total);
    const Doubles* term = reinterpret_cast<const Doubles*>(terms);
    for (int v = 0; v < lanes / double_width; ++v) totals[v] = cut(term[v] * powers_of[v]);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto* sum = reinterpret_cast<const std::int32_t*>(all[i][row]);
      const std::int32_t* others = space.panel_exponents + (first + i) * lanes;
      const std::int32_t* scales = space.panel_significands + (first + i) * lanes;
      for (int l = 0; l < lanes; ++l)
        terms[l] = static_cast<double>(sum[l]) * static_cast<double>(significands[i] * scales[l]) *
                   power_of_two(exponents[i] + others[l] + unit);
      for (int v = 0; v < lanes / double_width; ++v) totals[v] += cut(term[v] * powers_of[v]);
    }
    for (int l = 0; l < lanes; ++l) total[l] *= power_of_two(top[l] - fraction);
    round_lanes(plan.accumulator, total, acc);
  }
};

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
