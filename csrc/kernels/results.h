// Where sums start and where they go: c in, scales that multiply at the end, bias, the machine's NaN, d out.
#pragma once

#include "multiply.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

inline void load_start(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count, float* acc) {
  if (job.c == nullptr) {
    std::memset(acc, 0, lanes * sizeof *acc);
    return;
  }
  for (std::int64_t l = 0; l < lanes; ++l)
    acc[l] = l < count ? job.c[row * job.d_row_stride + (column + l) * job.d_column_stride] : 0.0F;
}

// Scales that multiply at the end, the machine's NaN, and out.
inline void store_result(const MultiplyJob& job, std::int64_t row, std::int64_t column, std::int64_t count,
                         float* acc) {
  const bool all_at_end = scales_at_end(job.path);
  const bool decoded = multiplies_decoded(job.path) || job.path.reduce == Reduce::exact;
  const bool rows_scaled = all_at_end && (job.a.factors != nullptr || job.b.factors != nullptr);
  const bool scaled = !decoded && (rows_scaled || job.a.has_tensor_factor || job.b.has_tensor_factor);
  float* d = job.d + row * job.d_row_stride + column * job.d_column_stride;
  if (job.path.output == Output::int32) {
    for (std::int64_t l = 0; l < count; ++l) std::memcpy(d + l * job.d_column_stride, acc + l, sizeof *acc);
    return;
  }
  for (std::int64_t l = 0; scaled && l < count; ++l) {
    const float a = job.a.tensor_factor * (rows_scaled ? segment_factor(job, job.a, row, 0) : 1.0F);
    const float b = job.b.tensor_factor * (rows_scaled ? segment_factor(job, job.b, column + l, 0) : 1.0F);
    acc[l] = acc[l] * (a * b);
  }
  for (std::int64_t l = 0; job.bias != nullptr && l < count; ++l)
    acc[l] = acc[l] + job.bias[row * job.bias_row_stride + (column + l) * job.bias_column_stride];
  const float nan = as_value<Carrier32>(job.path.nan_bits);
  if (count == lanes && job.d_column_stride == 1) {
    for (int l = 0; l < lanes; ++l) d[l] = acc[l] == acc[l] ? acc[l] : nan;
    return;
  }
  for (std::int64_t l = 0; l < count; ++l) d[l * job.d_column_stride] = acc[l] == acc[l] ? acc[l] : nan;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
