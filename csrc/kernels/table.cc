// One instruction set's kernels, behind one table.
#include "entries.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

#define SPARQ_STRING_OF(name) #name
#define SPARQ_STRING(name) SPARQ_STRING_OF(name)

void quantize_either(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  job.wide ? quantize_wide(job, first, last, counts) : quantize(job, first, last, counts);
}

}  // namespace

extern const KernelTable table;
constinit const KernelTable table{
    SPARQ_STRING(SPARQ_ISA_NAME), quantize_either, amax, select, decode, multiply, compress, expand, pack, unpack};

}  // namespace sparq::SPARQ_ISA_NAME
