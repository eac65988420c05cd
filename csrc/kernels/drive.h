// The order of work of a matrix product: blocks of rows of a, panels of rows of b, one reduction per row and panel.
#pragma once

#include "align.h"
#include "steps.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

inline void load_start(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count, float* acc) {
  for (std::int64_t l = 0; l < lanes; ++l)
    acc[l] = job.c != nullptr && l < count ? job.c[row * job.d_row_stride + (column + l) * job.d_column_stride] : 0.0F;
}

// Scales that multiply at the end, the machine's NaN, and out.
inline void store_result(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count,
                         float* acc) {
  const bool all_at_end = scales_at_end(job.path);
  const bool decoded = multiplies_decoded(job.path) || job.path.reduce == Reduce::exact;
  const bool rows_scaled = all_at_end && (job.a.factors != nullptr || job.b.factors != nullptr);
  const bool scaled = !decoded && (rows_scaled || job.a.has_tensor_factor || job.b.has_tensor_factor);
  for (std::int64_t l = 0; l < count; ++l) {
    if (job.path.output == Output::int32) {
      std::memcpy(job.d + row * job.d_row_stride + (column + l) * job.d_column_stride, acc + l, sizeof *acc);
      continue;
    }
    if (scaled) {
      const float a = job.a.tensor_factor * (rows_scaled ? segment_factor(job, job.a, row, 0) : 1.0F);
      const float b = job.b.tensor_factor * (rows_scaled ? segment_factor(job, job.b, column + l, 0) : 1.0F);
      acc[l] = acc[l] * (a * b);
    }
    if (job.bias != nullptr)
      acc[l] = acc[l] + job.bias[row * job.bias_row_stride + (column + l) * job.bias_column_stride];
    float* to = job.d + row * job.d_row_stride + (column + l) * job.d_column_stride;
    *to = acc[l] == acc[l] ? acc[l] : as_value<Carrier32>(job.path.nan_bits);
  }
}

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
  auto* a_powers = static_cast<double*>(workspace);
  double* b_powers = a_powers + block_rows * job.segments;
  auto* a_factors = reinterpret_cast<float*>(b_powers + lanes * job.segments);
  float* b_factors = a_factors + block_rows * job.segments;
  auto* a_rows = reinterpret_cast<Value*>(b_powers + (2 * lanes + block_rows) * job.segments);
  Value* panel = a_rows + block_rows * job.k;
  WideSum sums[lanes];
  for (std::int64_t block = first; block < last; block += block_rows) {
    const std::int64_t rows = smaller<std::int64_t>(block_rows, last - block);
    for (std::int64_t r = 0; r < rows; ++r)
      pack_a(block + r, 1, 1, 1, 0, a_rows + r * job.k, a_powers + r * job.segments, a_factors + r * job.segments);
    if constexpr (sizeof(Value) == 4)
      if (job.path.flush_inputs) flush_operands(job.a.element, rows * job.k, a_rows);
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      pack_b(column, count, lanes, lanes, 1, panel, b_powers, b_factors);
      if constexpr (sizeof(Value) == 4)
        if (job.path.flush_inputs) flush_operands(job.b.element, lanes * job.k, panel);
      bool panel_special[lanes];
      for (std::int64_t l = 0; l < lanes; ++l) {
        bool special = false;
        for (std::int64_t k = 0; wide && k < job.k; ++k)
          special |= !is_finite(static_cast<double>(panel[k * lanes + l]));
        for (std::int64_t s = 0; s < job.segments; ++s) special |= !is_finite(b_powers[s * lanes + l]);
        panel_special[l] = special;
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        const Value* row = a_rows + r * job.k;
        const double* powers = a_powers + r * job.segments;
        bool special[lanes], row_special = false;
        for (std::int64_t s = 0; s < job.segments; ++s) row_special |= !is_finite(powers[s]);
        for (std::int64_t k = 0; wide && k < job.k; ++k) row_special |= !is_finite(static_cast<double>(row[k]));
        for (int l = 0; l < lanes; ++l) special[l] = row_special || panel_special[l];
        const RowPanel<Value> in{row, panel, powers, b_powers, a_factors + r * job.segments, b_factors, special};
        float acc[lanes];
        load_start(job, block + r, column, count, acc);
        if constexpr (sizeof(Value) == 8) {
          if (job.path.reduce == Reduce::blocks)
            wide ? reduce_blocks_wide(job, in, sums[0], acc) : reduce_blocks<Value>(job, in, acc);
          else
            wide ? reduce_exact_wide(job, in, sums[0], acc) : reduce_exact<Value>(job, in, sums, acc);
        } else {
          if (job.path.reduce == Reduce::fma) reduce_fma(job, in, acc);
          if (job.path.reduce == Reduce::tree) reduce_tree(job, in, acc);
          if (job.path.reduce == Reduce::blocks) reduce_blocks<Value>(job, in, acc);
          if (job.path.reduce == Reduce::exact) reduce_exact<Value>(job, in, sums, acc);
        }
        store_result(job, block + r, column, count, acc);
      }
    }
  }
}

// K that panels are worked on at once, so that a panel's part stays near: whole instructions and chunks.
inline std::int64_t near_length(const AlignPlan& plan) {
  const std::int64_t unit = plan.job.path.chunk > 0 ? plan.job.path.chunk : plan.instruction;
  return unit >= 256 ? unit : 256 / unit * unit;
}

inline void multiply_aligned(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  const AlignPlan plan(job);
  const Splitter a_split(plan, job.a), b_split(plan, job.b);
  const ElementTable a_table(job.a.element), b_table(job.b.element);
  auto* a_rows = static_cast<std::int32_t*>(workspace);
  const std::int64_t row_plane = plan.packed, panel_plane = lanes * plan.packed, near = near_length(plan);
  std::int32_t* panel = a_rows + 2 * block_rows * plan.packed;
  bool a_special[block_rows], b_special[lanes];
  float acc[block_rows][lanes];
  for (std::int64_t block = first; block < last; block += block_rows) {
    const std::int64_t rows = smaller<std::int64_t>(block_rows, last - block);
    for (std::int64_t r = 0; r < rows; ++r)
      a_split.pack(block + r, 1, 1, 1, 0, a_rows + r * 2 * row_plane, row_plane, a_special + r);
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      b_split.pack(column, count, lanes, lanes, 1, panel, panel_plane, b_special);
      for (std::int64_t r = 0; r < rows; ++r) load_start(job, block + r, column, count, acc[r]);
      for (std::int64_t k = 0; k < plan.packed; k += near) {
        const std::int64_t end = smaller(k + near, plan.packed);
        for (std::int64_t r = 0; r < rows; ++r) {
          bool special[lanes];
          for (int l = 0; l < lanes; ++l) special[l] = a_special[r] || b_special[l];
          const AlignRows in{a_rows + r * 2 * row_plane, row_plane, panel, panel_plane, block + r, column};
          if (job.path.chunk == 0) {
            align_chain(plan, in, a_table, b_table, special, k, end, acc[r]);
            continue;
          }
          for (std::int64_t c = k; c < end; c += job.path.chunk) {
            float part[lanes] = {};
            align_chain(plan, in, a_table, b_table, special, c, smaller(c + job.path.chunk, end), part);
            for (int l = 0; l < lanes; ++l) acc[r][l] += part[l];
          }
        }
      }
      for (std::int64_t r = 0; r < rows; ++r) store_result(job, block + r, column, count, acc[r]);
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
  if (multiplies_decoded(job.path) || job.sum_bits <= 24) return multiply_values<float>(job, first, last, workspace);
  multiply_values<double>(job, first, last, workspace);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
