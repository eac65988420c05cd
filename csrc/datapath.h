// How a machine multiplies and adds (docs/numerics.md section 10).
#pragma once

#include <array>
#include <cstdint>

#include "format.h"

namespace sparq {

// What happens to the products of one step.
enum class Reduce : std::uint8_t {
  exact,    // all of K, one rounding
  blocks,   // a segment of constant block scales exactly, then one rounding into the accumulator
  fma,      // one product at a time, fused
  align,    // `group` products, cut at `fraction_bits` below the largest exponent
  tree,     // `group` rounded products in a balanced tree of rounded sums, then added to the accumulator
  integer,  // a segment's integer products in an accumulator of `integer_bits`, then one float addition
};

// How products are cut when they are aligned, and how the accumulator is rounded. to_odd: toward zero, and where
// anything is lost the last bit is 1.
enum class Cut : std::uint8_t { toward_zero, down, nearest_even, to_odd };
enum class AccumulatorRounding : std::uint8_t { toward_zero, nearest_even, nearest_away, down, to_odd };

// Whether zero products count when the largest exponent is sought, which public models dispute.
enum class ZeroProducts : std::uint8_t {
  absent,
  lowest,  // they do, and a zero operand's exponent is -126
};

// Where the accumulator meets the products.
enum class Start : std::uint8_t {
  aligned,            // it is one more term of each step
  after_instruction,  // the steps of an instruction begin with +0, and their result is added to it, nearest even
  late_floor,         // step by step after the products, both rounded down
};

enum class FloatOverflow : std::uint8_t { infinity, saturate };
enum class IntegerOverflow : std::uint8_t { wrap, saturate };

// What a machine writes.
enum class Output : std::uint8_t { fp32, fp32_or_fp16, int32 };

inline constexpr int max_operands = 6;
inline constexpr int max_align_lanes = 4;
inline constexpr int no_exponent_floor = -1000;

struct Datapath {
  Reduce reduce = Reduce::exact;
  // Which products meet.
  int group = 0;        // products per step; blocks, integer, tree: 0 for all that could be
  int instruction = 0;  // K of one instruction, zero-padded; 0: that of a step
  int run = 0;          // neighbours in K that go to one step of an instruction before the next step's; 0: all of it
  int lanes = 1;        // partial sums of a step, each with its own largest exponent
  int presum = 1;       // products that are summed exactly before they are aligned, and then scaled
  int chunk = 0;        // K after which a fresh accumulator is added to the total in float32; 0: never
  // Alignment.
  int fraction_bits = 0;  // bits kept below 2^E
  Cut align_rounding = Cut::toward_zero;
  bool normalize = false;  // products of 2 or more count with an exponent one higher
  ZeroProducts zero_products = ZeroProducts::absent;
  int exponent_floor = no_exponent_floor;  // least E
  bool product_overflow = false;           // a product of 2^128 or more is Inf where all else is finite
  Start start = Start::aligned;
  int sum_fraction = 0;    // late_floor: bits below the largest exponent that the sum keeps
  int start_fraction = 0;  // late_floor: and the accumulator
  int start_reach = 0;     // late_floor: an accumulator further below is left out; 0: never
  // The accumulator.
  int accumulator_exponent_bits = 8;
  int accumulator_fraction = 23;
  AccumulatorRounding accumulator_rounding = AccumulatorRounding::nearest_even;
  FloatOverflow overflow = FloatOverflow::infinity;
  bool flush_inputs = false;   // subnormal operands and starting values are +0
  bool flush_results = false;  // subnormal results are zeros of their sign
  int integer_bits = 0;
  int integer_tree = 0;  // products added exactly between two looks at overflow; 0: all of a step
  IntegerOverflow integer_overflow = IntegerOverflow::wrap;
  // What goes in and out.
  int dropped_bits = 0;  // low bits of a float32 word that the machine does not read (tf32)
  Output output = Output::fp32;
  std::uint32_t nan_bits = 0x7FC00000;
  bool block_scales = true;  // takes scales that vary along K
  // Of scales that come as codes: powers of two, or with presum a short float.
  ElementFormat scale{8, 0, 127, Specials::fn, Signedness::unsigned_code, false};
  std::array<ElementFormat, max_operands> operands{};  // element formats it accepts
  int operand_count = 0;                               // 0: any

  friend constexpr bool operator==(const Datapath&, const Datapath&) = default;
};

// The machine as it works when its result is fp16: accumulator and starting value are fp16, nearest even.
static constexpr Datapath with_fp16_result(Datapath path) {
  path.accumulator_exponent_bits = 5;
  path.accumulator_fraction = 10;
  path.accumulator_rounding = AccumulatorRounding::nearest_even;
  return path;
}

// K of one instruction of an aligning machine.
static constexpr std::int64_t instruction_length(const Datapath& path) {
  return path.instruction > 0 ? path.instruction : path.group;
}

// Whether segments of K end at every step: their sums are exact, and rounded one after the other.
static constexpr bool sums_segments(const Datapath& path) {
  return path.reduce == Reduce::blocks || path.reduce == Reduce::integer;
}

// Whether scales of rows and tensors multiply the result and nothing else.
static constexpr bool scales_at_end(const Datapath& path) {
  return path.reduce == Reduce::align || path.reduce == Reduce::integer;
}

// Whether sums are rounded as float32 arithmetic rounds them.
static constexpr bool accumulates_float32(const Datapath& path) {
  return path.accumulator_exponent_bits == 8 && path.accumulator_fraction == 23 &&
         path.accumulator_rounding == AccumulatorRounding::nearest_even && path.overflow == FloatOverflow::infinity;
}

// Whether operands are decoded to float32 before they are multiplied.
static constexpr bool multiplies_decoded(const Datapath& path) {
  return path.reduce == Reduce::fma || path.reduce == Reduce::tree;
}

}  // namespace sparq
