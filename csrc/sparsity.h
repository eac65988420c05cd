// N:M sparsity: what is kept and how ties fall (docs/numerics.md section 8).
#pragma once

#include <cstdint>

namespace sparq {

enum class Ties : std::uint8_t { lowest_index, highest_index };

enum class Order : std::uint8_t { sparsify_first, quantize_first };

inline constexpr int max_group = 32;

// Keeps `kept` of every `group` consecutive elements; group == 0 means dense.
struct Sparsity {
  int kept = 0;
  int group = 0;
  Ties ties = Ties::lowest_index;

  friend constexpr bool operator==(const Sparsity&, const Sparsity&) = default;
};

}  // namespace sparq
