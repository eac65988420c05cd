// What memory holds of an encoded tensor (docs/numerics.md section 15). Functions return an empty string, or what is
// wrong; jobs are those of the kernels, whose lines are contiguous.
#pragma once

#include <cstdint>
#include <string>

#include "../kernel_table.h"

namespace sparq::ops {

std::string check_fill(const Sparsity& sparsity, Fill fill);

// Of any kind of line: the codes and mask of a dense tensor are `lines` * length each.
std::string compress(const CompressJob& job, std::int64_t lines, int threads);
std::string expand(const ExpandJob& job, std::int64_t lines, int threads);

std::string check_pack(const PackJob& job);
std::string pack(const PackJob& job, std::int64_t lines, int threads);
std::string unpack(const PackJob& job, std::int64_t lines, int threads);

}  // namespace sparq::ops
