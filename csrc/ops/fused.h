// Elementwise steps around a product (docs/numerics.md section 10). Functions return an empty string, or what is wrong.
#pragma once

#include <cstdint>
#include <string>

namespace sparq::ops {

// A float32 matrix, or a row, column or number that stands for one: its strides are 0 then.
struct Strided {
  const float* data = nullptr;
  std::int64_t row_stride = 0, column_stride = 0;
};

// d[i, j] = RN32(x[i, j] * y[i, j] + z[i, j]), one rounding (IEEE 754-2019 fusedMultiplyAdd); NaN has `nan_bits`.
// Any of x, y, z may be d.
struct FusedRequest {
  std::int64_t m = 0, n = 0;
  Strided x, y, z;
  float* d = nullptr;  // [m, n]
  std::uint32_t nan_bits = 0x7FC00000;
  int threads = 0;
};

std::string fused_multiply_add(const FusedRequest& request);

}  // namespace sparq::ops
