// The order of work of a matrix product: blocks of rows of a, panels of rows of b, one reduction per row and panel.
#pragma once

#include "align.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

inline void load_start(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count, float* acc) {
  for (std::int64_t l = 0; l < lanes; ++l)
    acc[l] = job.c != nullptr && l < count ? job.c[row * job.d_row_stride + (column + l) * job.d_column_stride] : 0.0F;
}

// Scales that multiply at the end, the machine's NaN, and out.
inline void store_result(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count,
                         float* acc) {
  const bool all_at_end = job.path.reduce == Reduce::align;
  const bool decoded = job.path.reduce == Reduce::fma || job.path.reduce == Reduce::exact;
  const bool rows_scaled = all_at_end && (job.a.factors != nullptr || job.b.factors != nullptr);
  const bool scaled = !decoded && (rows_scaled || job.a.has_tensor_factor || job.b.has_tensor_factor);
  for (std::int64_t l = 0; l < count; ++l) {
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
  // fma32 multiplies decoded float32 values; exact does so where decoding rounds, which is under float scales.
  const auto decoded = [&](const Operand& o) {
    return job.path.reduce == Reduce::fma || (job.path.reduce == Reduce::exact && o.scale_kind == ScaleKind::floating);
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
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      pack_b(column, count, lanes, lanes, 1, panel, b_powers, b_factors);
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
          if (job.path.reduce == Reduce::blocks) reduce_blocks<Value>(job, in, acc);
          if (job.path.reduce == Reduce::exact) reduce_exact<Value>(job, in, sums, acc);
        }
        store_result(job, block + r, column, count, acc);
      }
    }
  }
}

inline void multiply_aligned(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  SplitElement a_split[256], b_split[256];
  for (std::uint32_t code = 0; code < 256; ++code) {
    a_split[code] = split_element(job.a.element, code);
    b_split[code] = split_element(job.b.element, code);
  }
  const ElementTable a_table(job.a.element), b_table(job.b.element);
  const AlignStep step{job.path.fraction_bits - job.a.element.mantissa_bits - job.b.element.mantissa_bits,
                       job.path.fraction_bits, ~((std::uint32_t{1} << (23 - job.path.accumulator_fraction)) - 1)};
  auto* a_rows = static_cast<std::int32_t*>(workspace);
  const std::int64_t row_plane = job.k, panel_plane = lanes * job.k;
  std::int32_t* panel = a_rows + 2 * block_rows * job.k;
  bool a_special[block_rows], b_special[lanes];
  for (std::int64_t block = first; block < last; block += block_rows) {
    const std::int64_t rows = smaller<std::int64_t>(block_rows, last - block);
    for (std::int64_t r = 0; r < rows; ++r)
      pack_split(job.a, a_split, job.k, block + r, 1, 1, 1, 0, a_rows + r * 2 * job.k, row_plane, a_special + r);
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      pack_split(job.b, b_split, job.k, column, count, lanes, lanes, 1, panel, panel_plane, b_special);
      for (std::int64_t r = 0; r < rows; ++r) {
        float acc[lanes];
        load_start(job, block + r, column, count, acc);
        for (std::int64_t k = 0; k < job.k; k += job.path.group) {
          const std::int64_t end = smaller<std::int64_t>(k + job.path.group, job.k);
          align_group(step, a_rows + r * 2 * job.k + k, row_plane, panel + k * lanes, panel_plane, end - k, acc);
          for (int l = 0; l < count; ++l)
            if (a_special[r] || b_special[l]) add_special(job, a_table, b_table, block + r, column + l, k, end, acc[l]);
        }
        store_result(job, block + r, column, count, acc);
      }
    }
  }
}

inline void multiply_rows(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  if (job.path.reduce == Reduce::align) return multiply_aligned(job, first, last, workspace);
  if (job.path.reduce == Reduce::fma || job.sum_bits <= 24) return multiply_values<float>(job, first, last, workspace);
  multiply_values<double>(job, first, last, workspace);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
