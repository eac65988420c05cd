// How a machine multiplies and adds (docs/numerics.md section 10).
#pragma once

#include <array>
#include <cstdint>

#include "format.h"

namespace sparq {

// What happens to the products of one step.
enum class Reduce : std::uint8_t {
  exact,   // all of K, one rounding
  blocks,  // a segment of constant block scales exactly, then one rounding into the accumulator
  fma,     // one product at a time, fused
  align,   // `group` products and the accumulator, cut at `fraction_bits` below the largest exponent
};

inline constexpr int max_operands = 4;

struct Datapath {
  Reduce reduce = Reduce::exact;
  int group = 0;                  // align: products per step
  int fraction_bits = 0;          // align: bits kept below 2^E
  int accumulator_fraction = 23;  // align: fraction bits of the accumulator, cut toward zero
  std::uint32_t nan_bits = 0x7FC00000;
  bool block_scales = true;                            // takes scales that vary along K
  std::array<ElementFormat, max_operands> operands{};  // element formats it accepts
  int operand_count = 0;                               // 0: any

  friend constexpr bool operator==(const Datapath&, const Datapath&) = default;
};

}  // namespace sparq
