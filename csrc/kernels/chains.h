// Chains of rounded sums (docs/numerics.md section 10): one per product, fused, or one per segment of constant scales.
#pragma once

#if defined(__FMA__)
#include <immintrin.h>
#endif

#include "accumulate.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Rows whose segments are summed together: each element of a panel is loaded once for all of them.
constexpr int rows_summed = 2;

// acc = acc + terms, rounded once to the machine's accumulator; an exact zero is +0.
inline void add_terms(const MultiplyJob& job, const Rounder& round, const double* terms, float* acc) {
  if (accumulates_float32(job.path)) return add_once(terms, acc);
  round.with_rounding([&](auto how) {
    for (int i = 0; i < double_parts; ++i) {
      const Doubles sum = odd_sum(load_doubles(acc, i), reinterpret_cast<const Doubles*>(terms)[i]);
      store_floats(round.round<how.value>(with_plus_zero(sum)), acc, i);
    }
  });
}

// The scaled sums of a segment, added to one row's accumulators.
template <class Value>
inline void add_segment(const MultiplyJob& job, const Rounder& round, const RowPanel<Value>& in, std::int64_t s,
                        const Value* sums, float* acc) {
  double terms[lanes];
  for (int l = 0; l < lanes; ++l)
    terms[l] = static_cast<double>(sums[l]) * (in.row_powers[s] * in.panel_powers[s * lanes + l]);
  if (job.a.factors != nullptr || job.b.factors != nullptr)
    scale_terms(in.row_factors[s], in.panel_factors + s * lanes, terms);
  add_terms(job, round, terms, acc);
}

template <class Value>
inline void reduce_blocks(const MultiplyJob& job, const RowPanel<Value> (&in)[rows_summed], float (*acc)[lanes]) {
  const Rounder round{Accumulator(job.path)};
  const Value* const rows[rows_summed] = {in[0].row, in[1].row};
  Value sums[rows_summed][lanes];
  for (std::int64_t s = 0; s < job.segments; ++s) {
    sum_segment<Value, rows_summed>(rows, in[0].panel, segment_begin(job, s), job.segment_end[s], sums);
    for (int r = 0; r < rows_summed; ++r) add_segment(job, round, in[r], s, sums[r], acc[r]);
  }
}

// What the NaN and Inf of one segment and lane add up to; 0 if there are none.
inline double special_sum(const MultiplyJob& job, const RowPanel<double>& in, std::int64_t segment, int lane) {
  const double power = in.row_powers[segment] * in.panel_powers[segment * lanes + lane];
  double sum = is_finite(power) ? 0 : power;
  for (std::int64_t k = segment_begin(job, segment); k < job.segment_end[segment]; ++k) {
    const double product = in.row[k] * in.panel[k * lanes + lane];
    if (!is_finite(product)) sum += product;
  }
  return sum;
}

inline void reduce_blocks_wide(const MultiplyJob& job, const RowPanel<double>& in, WideSum& sum, float* acc) {
  const bool floating = job.a.factors != nullptr || job.b.factors != nullptr;
  const bool narrow = !accumulates_float32(job.path);
  const Rounder round{Accumulator(job.path)};
  for (std::int64_t s = 0; s < job.segments; ++s) {
    double terms[lanes];
    for (int l = 0; l < lanes; ++l) {
      terms[l] = in.special[l] ? special_sum(job, in, s, l) : 0;
      // Under float scales a segment's sum is a float32 of its own, which may be the Inf that meets acc's.
      if (terms[l] != 0 || (!floating && !is_finite(acc[l]))) continue;
      sum.clear();
      if (!floating) sum.add(acc[l]);
      sum_segment_wide(in.row, in.panel, segment_begin(job, s), job.segment_end[s], l,
                       in.row_powers[s] * in.panel_powers[s * lanes + l], sum);
      terms[l] = narrow && !floating ? sum.to_odd() : static_cast<double>(sum.round());
    }
    if (floating) {
      scale_terms(in.row_factors[s], in.panel_factors + s * lanes, terms);
      add_terms(job, round, terms, acc);
      continue;
    }
    auto* rounded = reinterpret_cast<Doubles*>(terms);
    if (narrow)
      round.with_rounding([&](auto how) {
        for (int i = 0; i < double_parts; ++i) rounded[i] = round.round<how.value>(rounded[i]);
      });
    // A finite term already holds the sum; finite sums that overflowed may meet an Inf later.
    for (int l = 0; l < lanes; ++l) {
      if (!is_finite(terms[l]))
        acc[l] += static_cast<float>(terms[l]);
      else if (is_finite(acc[l]))
        acc[l] = static_cast<float>(terms[l]);
    }
  }
}

// Products of float32 are exact in float64.
template <AccumulatorRounding how>
inline void reduce_fma_narrow(const MultiplyJob& job, const Rounder& round, const RowPanel<float> (&in)[rows_summed],
                              float (*acc)[lanes]) {
  Doubles local[rows_summed][std::size_t{double_parts}];
  for (int r = 0; r < rows_summed; ++r)
    for (int i = 0; i < double_parts; ++i) local[r][i] = load_doubles(acc[r], i);
  for (std::int64_t k = 0; k < job.k; ++k)
    for (int i = 0; i < double_parts; ++i) {
      const Doubles own = load_doubles(in[0].panel + k * lanes, i);
      for (int r = 0; r < rows_summed; ++r)
        local[r][i] = round.round<how>(odd_sum(local[r][i], static_cast<double>(in[r].row[k]) * own));
    }
  for (int r = 0; r < rows_summed; ++r)
    for (int i = 0; i < double_parts; ++i) store_floats(local[r][i], acc[r], i);
}

inline void reduce_fma_float32(const MultiplyJob& job, const RowPanel<float> (&in)[rows_summed], float (*acc)[lanes]) {
#if defined(__FMA__)
  // There is no fused product of two vectors in the language. Registers of 256 bits, as the processor at hand has them.
  constexpr int parts = lanes / 8;
  __m256 local[rows_summed][parts];
  for (int r = 0; r < rows_summed; ++r)
    for (int i = 0; i < parts; ++i) local[r][i] = _mm256_loadu_ps(acc[r] + 8 * i);
  for (std::int64_t k = 0; k < job.k; ++k)
    for (int r = 0; r < rows_summed; ++r)
      for (int i = 0; i < parts; ++i)
        local[r][i] = _mm256_fmadd_ps(_mm256_set1_ps(in[r].row[k]), _mm256_loadu_ps(in[0].panel + k * lanes + 8 * i),
                                      local[r][i]);
  for (int r = 0; r < rows_summed; ++r)
    for (int i = 0; i < parts; ++i) _mm256_storeu_ps(acc[r] + 8 * i, local[r][i]);
#else
  for (int r = 0; r < rows_summed; ++r)
    for (std::int64_t k = 0; k < job.k; ++k)
      for (int l = 0; l < lanes; ++l) acc[r][l] = __builtin_fmaf(in[r].row[k], in[0].panel[k * lanes + l], acc[r][l]);
#endif
}

inline void reduce_fma(const MultiplyJob& job, const RowPanel<float> (&in)[rows_summed], float (*acc)[lanes]) {
  if (accumulates_float32(job.path)) return reduce_fma_float32(job, in, acc);
  const Rounder round{Accumulator(job.path)};
  round.with_rounding([&](auto how) { reduce_fma_narrow<how.value>(job, round, in, acc); });
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
