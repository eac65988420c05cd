// N:M sparsity: what is kept and how ties fall (docs/numerics.md section 8).
#pragma once

#include <cstdint>

namespace sparq {

// Which of equals is kept; topk: those that torch.topk keeps on a CPU.
enum class Ties : std::uint8_t { lowest_index, highest_index, topk };

enum class Order : std::uint8_t { sparsify_first, quantize_first };

// Which positions a stored group takes that keeps fewer than it has room for (docs/numerics.md section 15).
enum class Fill : std::uint8_t { lowest, highest, cutlass2, cutlass3 };

inline constexpr int max_group = 32;

// Keeps `kept` of every `group` consecutive elements, `unit` neighbours together; group == 0 means dense.
struct Sparsity {
  int kept = 0;
  int group = 0;
  Ties ties = Ties::lowest_index;
  int unit = 1;

  friend constexpr bool operator==(const Sparsity&, const Sparsity&) = default;
};

// Units that a group stores and has.
static constexpr int stored_units(const Sparsity& s) { return s.kept / s.unit; }
static constexpr int group_units(const Sparsity& s) { return s.group / s.unit; }

// Whether a fill rule says anything of a pattern: those of CUTLASS are tables of 2:4 (and 1:2, two halves of an
// element).
static constexpr bool fills(Fill fill, const Sparsity& s) {
  const bool two_of_four = stored_units(s) == 2 && group_units(s) == 4;
  const bool one_of_two = stored_units(s) == 1 && group_units(s) == 2;
  return fill == Fill::lowest || fill == Fill::highest || two_of_four || (one_of_two && fill == Fill::cutlass2);
}

// The units that CUTLASS stores for a group of two units or four that keeps fewer than it has room for, by the bits of
// those kept: second * 4 + first, as its metadata has them (docs/numerics.md section 15). -1: none is missing.
static constexpr std::int8_t cutlass2_of_four[16] = {14, 8, 9, -1, 14, -1, -1, -1, 14, -1, -1, -1, -1, -1, -1, -1};
static constexpr std::int8_t cutlass3_of_four[16] = {0, 12, 13, -1, 14, -1, -1, -1, 12, -1, -1, -1, -1, -1, -1, -1};
static constexpr int cutlass2_of_two = 1;  // of a group that keeps none

// Stored codes of a line: groups are stored whole, a ragged last one too.
static constexpr std::int64_t stored_length(const Sparsity& s, std::int64_t length) {
  return (length + s.group - 1) / s.group * s.kept;
}

}  // namespace sparq
