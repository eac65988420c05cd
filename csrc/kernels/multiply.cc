// Decoding, and products of what was decoded.
#include "drive.h"
#include "entries.h"

namespace sparq::SPARQ_ISA_NAME {

void decode(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  decode_tiles(job, first, last, counts);
}

void multiply(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) noexcept {
  multiply_rows(job, first, last, workspace);
}

}  // namespace sparq::SPARQ_ISA_NAME
