// The order of work of a matrix product: blocks of rows of a, panels of rows of b, one reduction per row and panel.
#pragma once

#include "aligned.h"
#include "chains.h"
#include "pairs.h"
#include "steps.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// Value reductions: `Value` holds element values or decoded ones, as the datapath wants.
template <class Value>
inline void multiply_values(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  const bool wide = job.sum_bits > 53;
  // fma and tree multiply decoded float32 values; exact does so where decoding rounds, which is under float scales.
  const auto decoded = [&](const Operand& o) {
    return multiplies_decoded(job.path) || (job.path.reduce == Reduce::exact && o.scale_kind == ScaleKind::floating);
  };
  const ElementTable a_table(job.a.element), b_table(job.b.element);
  const Packer<Value> pack_a{job, job.a, a_table, decoded(job.a)}, pack_b{job, job.b, b_table, decoded(job.b)};
  const std::int64_t block = rows_at_once(job.k);
  auto* panel = static_cast<Value*>(workspace);
  Value* turned = panel + lanes * job.k;
  Value* a_rows = turned + lanes * job.k;
  auto* a_powers = reinterpret_cast<double*>(a_rows + block * job.k);
  double* b_powers = a_powers + block * job.segments;
  auto* a_factors = reinterpret_cast<float*>(b_powers + lanes * job.segments);
  float* b_factors = a_factors + block * job.segments;
  bool row_special[most_rows_at_once];
  const bool together = job.path.reduce == Reduce::fma || (job.path.reduce == Reduce::blocks && !wide);
  WideSum sums[lanes];
  const bool narrow = !accumulates_float32(job.path);
  const Rounder round{Accumulator(job.path)};
  for (std::int64_t from = first; from < last; from += block) {
    const std::int64_t rows = smaller(block, last - from);
    for (std::int64_t r = 0; r < rows; ++r) {
      Value* row = a_rows + r * job.k;
      const double* powers = a_powers + r * job.segments;
      pack_a(from + r, row, 1, a_powers + r * job.segments, a_factors + r * job.segments);
      bool special = false;
      for (std::int64_t s = 0; s < job.segments; ++s) special |= !is_finite(powers[s]);
      for (std::int64_t k = 0; wide && k < job.k; ++k) special |= !is_finite(static_cast<double>(row[k]));
      row_special[r] = special;
    }
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      bool panel_special[lanes];
      for (std::int64_t l = 0; l < lanes; ++l) {
        // Missing rows are copies of the last one.
        Value* row = turned + l * job.k;
        pack_b(column + smaller(l, count - 1), row, lanes, b_powers + l, b_factors + l);
        bool special = false;
        for (std::int64_t k = 0; wide && k < job.k; ++k) special |= !is_finite(static_cast<double>(row[k]));
        for (std::int64_t s = 0; s < job.segments; ++s) special |= !is_finite(b_powers[s * lanes + l]);
        panel_special[l] = special;
      }
      turn_words<sizeof(Value)>(turned, job.k, panel);
      bool special[lanes];
      const auto row_panel = [&](std::int64_t r) {
        return RowPanel<Value>{
            a_rows + r * job.k, panel,  a_powers + r * job.segments, b_powers, a_factors + r * job.segments,
            b_factors,          special};
      };
      for (std::int64_t r = 0; together && r < rows; r += rows_summed) {
        // Of an odd number of rows the last one goes twice.
        const std::int64_t second = smaller(r + 1, rows - 1);
        const RowPanel<Value> in[rows_summed] = {row_panel(r), row_panel(second)};
        float acc[rows_summed][lanes];
        load_start(job, from + r, column, count, acc[0]);
        load_start(job, from + second, column, count, acc[1]);
        if (job.path.reduce == Reduce::blocks) reduce_blocks<Value>(job, in, acc);
        if constexpr (sizeof(Value) == 4)
          if (job.path.reduce == Reduce::fma) reduce_fma(job, in, acc);
        store_result(job, from + r, column, count, acc[0]);
        if (second != r) store_result(job, from + second, column, count, acc[1]);
      }
      for (std::int64_t r = 0; !together && r < rows; ++r) {
        for (int l = 0; l < lanes; ++l) special[l] = row_special[r] || panel_special[l];
        const RowPanel<Value> in = row_panel(r);
        float acc[lanes];
        load_start(job, from + r, column, count, acc);
        if constexpr (sizeof(Value) == 8) {
          if (job.path.reduce == Reduce::blocks) reduce_blocks_wide(job, in, sums[0], acc);
          if (job.path.reduce == Reduce::exact)
            wide ? reduce_exact_wide(job, in, sums[0], acc) : reduce_exact<Value>(job, in, sums, acc);
        } else {
          const bool flush = job.path.flush_results;
          if (job.path.reduce == Reduce::tree && !narrow) reduce_tree(job, in, FloatTree{flush}, acc);
          if (job.path.reduce == Reduce::tree && narrow)
            round.with_rounding([&](auto how) { reduce_tree(job, in, NarrowTree<how.value>{round, flush}, acc); });
          if (job.path.reduce == Reduce::exact) reduce_exact<Value>(job, in, sums, acc);
        }
        store_result(job, from + r, column, count, acc);
      }
    }
  }
}

inline void multiply_integers(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  auto* a_rows = static_cast<std::int32_t*>(workspace);
  std::int32_t* panel = a_rows + block_rows * job.k;
  for (std::int64_t block = first; block < last; block += block_rows) {
    const std::int64_t rows = smaller<std::int64_t>(block_rows, last - block);
    for (std::int64_t r = 0; r < rows; ++r) pack_integers(job.a, job.k, block + r, 1, 1, 1, 0, a_rows + r * job.k);
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      pack_integers(job.b, job.k, column, count, lanes, lanes, 1, panel);
      for (std::int64_t r = 0; r < rows; ++r) {
        float acc[lanes];
        load_start(job, block + r, column, count, acc);
        if (job.path.output == Output::int32)
          reduce_to_int32(job, a_rows + r * job.k, panel, acc);
        else
          reduce_integer(job, a_rows + r * job.k, panel, block + r, column, acc);
        store_result(job, block + r, column, count, acc);
      }
    }
  }
}

inline void multiply_rows(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  if (job.path.reduce == Reduce::align) return multiply_aligned(job, first, last, workspace);
  if (job.path.reduce == Reduce::integer) return multiply_integers(job, first, last, workspace);
  if (job.path.reduce == Reduce::blocks) {
    const PairProduct pairs(job);
    if (pairs.applies) return pairs(first, last, workspace);
  }
  if (multiplies_decoded(job.path) || job.sum_bits <= 24) return multiply_values<float>(job, first, last, workspace);
  multiply_values<double>(job, first, last, workspace);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
