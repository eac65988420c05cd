// What happens in dot products beside their results: a function of the definitions alone, since fast kernels never see
// single terms.
#pragma once

#include "../kernel_table.h"

namespace sparq::reference {

// docs/numerics.md section 10. Python reads the fields in this order.
struct DotCounts {
  std::int64_t truncated = 0;   // terms that lost something when they were cut, or rounded to a leaf of a tree
  std::int64_t cancelled = 0;   // steps whose sum is below half of their largest term
  std::int64_t overflowed = 0;  // finite numbers that rounding made Inf, or the largest number
  std::int64_t wrapped = 0;     // integer sums that left their range

  void add(const DotCounts& more) {
    truncated += more.truncated;
    cancelled += more.cancelled;
    overflowed += more.overflowed;
    wrapped += more.wrapped;
  }
};

// Rows [first, last) of the product; what happened is added to counts[0], or with `each` to the item of each d.
void multiply_counted(const MultiplyJob& job, std::int64_t first, std::int64_t last, DotCounts* counts,
                      bool each) noexcept;

}  // namespace sparq::reference
