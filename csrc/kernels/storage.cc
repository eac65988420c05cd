// Codes to what memory holds of them, and back.
#include "storage.h"

#include "entries.h"

namespace sparq::SPARQ_ISA_NAME {

void compress(const CompressJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  compress_lines(job, first, last, counts);
}

void expand(const ExpandJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  expand_lines(job, first, last, counts);
}

void pack(const PackJob& job, std::int64_t first, std::int64_t last) noexcept { pack_lines(job, first, last); }

void unpack(const PackJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  unpack_lines(job, first, last, counts);
}

}  // namespace sparq::SPARQ_ISA_NAME
