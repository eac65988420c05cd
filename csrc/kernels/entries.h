// What the objects of one instruction set give to its table.
#pragma once

#include "kernel_table.h"

namespace sparq::SPARQ_ISA_NAME {

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void quantize_wide(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void amax(const AmaxJob& job, std::int64_t first, std::int64_t last) noexcept;
void select(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void decode(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void multiply(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) noexcept;
void compress(const CompressJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void expand(const ExpandJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;
void pack(const PackJob& job, std::int64_t first, std::int64_t last) noexcept;
void unpack(const PackJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept;

}  // namespace sparq::SPARQ_ISA_NAME
