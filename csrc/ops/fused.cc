#include "fused.h"

#include <bit>
#include <cmath>

#include "guard.h"
#include "parallel.h"

namespace sparq::ops {
namespace {

// Elements that repay a thread.
constexpr std::int64_t elements_per_thread = std::int64_t{1} << 18;

float at(const Strided& matrix, std::int64_t i, std::int64_t j) {
  return matrix.data[i * matrix.row_stride + j * matrix.column_stride];
}

}  // namespace

std::string fused_multiply_add(const FusedRequest& request) {
  return guarded([&]() -> std::string {
    const FusedRequest& r = request;
    const int threads = thread_count(r.m * r.n, elements_per_thread, r.threads, r.m);
    parallel_for(r.m, threads, [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t i = first; i < last; ++i)
        for (std::int64_t j = 0; j < r.n; ++j) {
          const float value = std::fma(at(r.x, i, j), at(r.y, i, j), at(r.z, i, j));
          r.d[i * r.n + j] = std::isnan(value) ? std::bit_cast<float>(r.nan_bits) : value;
        }
    });
    return {};
  });
}

}  // namespace sparq::ops
