// What memory holds of an encoded tensor (docs/numerics.md section 15). Functions return an empty string, or what is
// wrong; jobs are those of the kernels, whose lines are contiguous.
#pragma once

#include <cstdint>
#include <string>

#include "../kernel_table.h"
#include "encode.h"

namespace sparq::ops {

std::string check_fill(const Sparsity& sparsity, Fill fill);

// Of any kind of line: the codes and mask of a dense tensor are `lines` * length each.
std::string compress(const CompressJob& job, std::int64_t lines, int threads);
std::string expand(const ExpandJob& job, std::int64_t lines, int threads);

std::string check_pack(const PackJob& job);
std::string pack(const PackJob& job, std::int64_t lines, int threads);
std::string unpack(const PackJob& job, std::int64_t lines, int threads);

// Packed lines to values, a few lines at a time: codes and positions stay in a cache. Lines share no scales, but for
// one of the whole tensor.
struct DecodePackedRequest {
  DecodeRequest values;  // its codes are those of `elements`
  PackJob elements;      // its items are null
  Sparsity sparsity;     // group == 0: dense, and the rest says nothing
  PackJob positions;     // likewise: the unit of each stored one in its group
  bool repeats = false;  // as in ExpandJob
};

std::string check_decode_packed(const DecodePackedRequest& request);
std::string decode_packed(const DecodePackedRequest& request, Counts& counts);

}  // namespace sparq::ops
