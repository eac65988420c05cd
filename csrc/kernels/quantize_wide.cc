// Quantizing in float64 bits, and what comes before quantizing: the largest of cells, and N:M selection.
#include "entries.h"
#include "quantize.h"

namespace sparq::SPARQ_ISA_NAME {

void quantize_wide(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  quantize_with<Carrier64>(job, first, last, counts);
}

void amax(const AmaxJob& job, std::int64_t first, std::int64_t last) noexcept { amax_tiles(job, first, last); }

void select(const SelectJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  job.input_type == FloatType::fp64 ? select_tiles<Carrier64>(job, first, last, counts)
                                    : select_tiles<Carrier32>(job, first, last, counts);
}

}  // namespace sparq::SPARQ_ISA_NAME
