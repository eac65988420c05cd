#include "dispatch.h"

#include <cstdlib>

namespace sparq {

namespace reference {
extern const KernelTable table;
}
namespace baseline {
extern const KernelTable table;
}
#ifdef SPARQ_X86_64
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif

namespace {

struct Candidate {
  const KernelTable* table;
  bool (*supported)();
};

bool always() { return true; }
#ifdef SPARQ_X86_64
bool has_v3() { return __builtin_cpu_supports("x86-64-v3") != 0; }
#ifdef SPARQ_V4_LANES_ON_V3
bool has_v4() { return has_v3(); }
#else
bool has_v4() { return __builtin_cpu_supports("x86-64-v4") != 0; }
#endif
#endif

constexpr Candidate candidates[] = {
    {&reference::table, always},
    {&baseline::table, always},
#ifdef SPARQ_X86_64
    {&avx2::table, has_v3},
    {&avx512::table, has_v4},
#endif
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates)
    if (c.supported()) names.emplace_back(c.table->name);
  return names;
}

const KernelTable* find_table(const std::string& name) {
  for (const Candidate& c : candidates)
    if (name == c.table->name && c.supported()) return c.table;
  return nullptr;
}

const KernelTable* active_table(std::string& error) {
  const char* forced = std::getenv("SPARQ_ISA");
  const std::vector<std::string> names = available_isas();
  if (forced == nullptr || *forced == '\0') return find_table(names.back());
  const KernelTable* table = find_table(forced);
  if (table == nullptr) {
    error = "SPARQ_ISA=" + std::string(forced) + " names no implementation that this processor can run; available:";
    for (const std::string& name : names) error += " " + name;
  }
  return table;
}

}  // namespace sparq
