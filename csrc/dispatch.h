// Which implementation runs: the best that the processor has, or the one that SPARQ_ISA names.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.h"

namespace sparq {

// Implementations that this processor can run, slowest first: reference, baseline, avx2, avx512.
std::vector<std::string> available_isas();

// The table of a name, or null if there is none or this processor cannot run it.
const KernelTable* find_table(const std::string& name);

// What SPARQ_ISA names (read at every call), else the last of available_isas(). On an unknown or unsupported name
// returns null and fills `error`.
const KernelTable* active_table(std::string& error);

}  // namespace sparq
