// One instruction set's kernels, behind one exported table.
#include "drive.h"
#include "quantize.h"
#include "storage.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

#define SPARQ_STRING_OF(name) #name
#define SPARQ_STRING(name) SPARQ_STRING_OF(name)

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  job.wide ? quantize_with<Carrier64>(job, first, last, counts) : quantize_with<Carrier32>(job, first, last, counts);
}

void amax(const AmaxJob& job, std::int64_t first, std::int64_t last) noexcept { amax_tiles(job, first, last); }

void select(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  job.input_type == FloatType::fp64 ? select_tiles<Carrier64>(job, first, last, counts)
                                    : select_tiles<Carrier32>(job, first, last, counts);
}

void decode(const DecodeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  decode_tiles(job, first, last, counts);
}

void multiply(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) noexcept {
  multiply_rows(job, first, last, workspace);
}

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

}  // namespace

extern const KernelTable table;
constinit const KernelTable table{
    SPARQ_STRING(SPARQ_ISA_NAME), quantize, amax, select, decode, multiply, compress, expand, pack, unpack};

}  // namespace sparq::SPARQ_ISA_NAME
