// Quantizing in float32 bits.
#include "quantize.h"

#include "entries.h"

namespace sparq::SPARQ_ISA_NAME {

void quantize(const QuantizeJob& job, std::int64_t first, std::int64_t last, Counts& counts) noexcept {
  quantize_with<Carrier32>(job, first, last, counts);
}

}  // namespace sparq::SPARQ_ISA_NAME
