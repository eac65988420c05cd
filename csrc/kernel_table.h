// The functions that every implementation has: csrc/reference (the definitions) and csrc/kernels (the same, fast,
// once per instruction set). Arguments were checked by csrc/ops; nothing here allocates for the caller or throws.
#pragma once

#include <array>
#include <cstdint>

#include "conversion.h"
#include "datapath.h"
#include "format.h"
#include "layout.h"
#include "random.h"
#include "sparsity.h"

namespace sparq {

// Counted over a range of tiles; docs/numerics.md section 13, and two reasons to refuse.
struct Counts {
  std::int64_t saturated = 0, underflowed = 0, nonfinite = 0, zero_blocks = 0, ties = 0;
  std::int64_t inexact = 0;  // values that the result type does not hold
  std::int64_t refused = 0;  // non-finite elements that neither element nor scale can express
};

enum class ScaleKind : std::uint8_t { none, power_of_two, floating };

// How each tile gets its mask.
enum class MaskSource : std::uint8_t { dense, given, magnitude };

using ScalePlanes = std::array<ScalePlane, max_levels>;

// What happens to input before anything is scaled (docs/numerics.md section 2).
struct Prepare {
  bool to_fp32 = false, to_bf16 = false, cut_to_bf16 = false, flush = false, no_negative_zero = false,
       negative_zero = false;
  bool to_largest = false, to_zero = false;  // what is no number
  bool infinite_to_largest = false;
  bool nan_to_infinity = false;

  // By numbers.
  constexpr bool replaces() const { return to_largest || to_zero || infinite_to_largest; }

  constexpr bool any() const {
    return to_fp32 || to_bf16 || cut_to_bf16 || flush || no_negative_zero || negative_zero || nan_to_infinity ||
           replaces();
  }
};

// A tapered element as the kernels see it (docs/numerics.md section 1).
struct Taper {
  int first_size = 0;                         // of an exponent that costs a mantissa bit; 0: the element is not tapered
  std::array<std::uint32_t, 64> offsets{};    // by binade: from quanta to codes
  std::array<std::uint8_t, 128> in_memory{};  // by magnitude code
};

// The raw records are here for the reference; the derived fields, which ops fills from them, are all that the kernels
// read besides the levels of micro-exponents.
struct QuantizeJob {
  BlockFormat format;
  Conversion conversion;
  Sparsity sparsity;
  Order order = Order::sparsify_first;
  MaskSource mask_source = MaskSource::dense;
  ScaleKind scale_kind = ScaleKind::none;  // of the main level
  Geometry geometry;
  ScalePlanes planes;  // one per level of the format; the outer one is always given

  const void* input = nullptr;
  FloatType input_type = FloatType::fp32;
  bool wide = false;       // compute in float64 bits instead of float32 bits
  void* values = nullptr;  // decoded result, or null
  FloatType values_type = FloatType::fp32;
  void* codes = nullptr;  // one code per element in code_bytes, or null
  int code_bytes = 1;
  const std::uint8_t* mask_in = nullptr;  // 0 or 1 per element, laid out like the input
  std::uint8_t* mask_out = nullptr;
  bool count = false;  // fill the events of Counts, not only inexact and refused
  // Of stochastic rounding: integers below 2^random_bits, laid out like the input; null: from Philox, whose index is
  // the place of an element.
  const std::uint32_t* random = nullptr;
  Philox philox;

  // Derived from the element that is rounded to (format.element, or a wider integer above zero points) and conversion.
  Prepare prepare;
  bool skip_nonfinite = false;  // scales are those of the finite elements
  // A block with Inf, and no NaN, has a scale: that of 2^128, or the largest.
  bool infinite_counts = false, infinite_is_top = false;
  bool nan_counts = false;        // a block with NaN has the least scale
  bool zeros_blocks = false;      // a block with NaN or Inf is one of zeros
  float poison_below = 0;         // an amax other than zero that is less than this has no scale
  bool adjusts = false;           // elements are looked at before they are rounded, for one of the next two
  bool adds_halves = false;       // the number just below half of the least quantum counts as that
  bool overflow_poisons = false;  // an exponent beyond scale_max, or beyond `poison_above` for amax rounded to 2^128
  int poison_above = 0;
  float look_from = 0;          // no smaller amax is beyond it
  bool poisons_lowest = false;  // the lowest integer under poison_above is beyond it
  bool shifts_least = false;    // elements under the least scale are rounded under that of least_exponent
  int least_exponent = 0;
  bool flush_elements = false, full_range = false;
  int mantissa_bits = 0, min_exponent = 0, top_exponent = 0;
  std::uint32_t top_significand = 0;  // largest finite magnitude = top_significand * 2^top_exponent
  std::uint32_t max_code = 0, overflow_code = 0, infinity_code = 0, nan_code = 0;
  std::uint32_t sign_bit = 0, code_mask = 0;
  bool overflow_is_nan = false, overflow_is_infinity = false;
  bool twos_complement = false, negative_zero = false, element_nan = false;
  // Derived from the main level and the rule: exponent = floor(log2 amax) - scale_shift, plus one if the 52-bit
  // fraction of amax exceeds promote_above; clamped to scale_low and scale_max, and stored as exponent - scale_min.
  int scale_shift = 0, scale_min = 0, scale_low = 0, scale_max = 0;
  int zero_exponent = 0;  // of a block of zeros
  // Of short floats: codes below the least become the second, blocks of zeros have the third.
  std::uint32_t least_code = 0, underflow_code = 0, zero_code = 0;
  std::uint64_t promote_above = 0;
  bool scale_nan = false;
  std::uint32_t scale_nan_code = 0;
  int main = 0, levels = 0;  // the level of the blocks, and the number of levels that scale
  float scale_divisor = 1;   // float scales: amax / divisor
  float outer_divisor = 1;   // of the level above others: the largest scale of the main level, or 1 if that divides
  float largest_scale = 1;   // of short float scales
  bool multiplies_directly = false;  // elements are multiplied by what both float levels make, not divided by scales
  bool in_float64 = false;           // what both make (divide_top)
  bool makes_outer = false;          // the job is about that level alone
  bool encode_scale = false;         // that level is one that encoders multiply by
  bool short_scale = false;          // float scales in codes of scale_format
  bool by_quotient = false;          // elements are divided by what was rounded to the scale
  ElementFormat scale_format;
  float scale_reciprocal = 0;  // of scale_divisor; 0: amax is divided
  // For amax_exponent=log2: like promote_above, by the exponent of amax from -149 on; null: promote_above is for all.
  const std::uint64_t* promote_by_exponent = nullptr;
  // For element_exponent=log2: the same of elements, from the smallest normal exponent to the one above the largest.
  const std::uint64_t* promote_elements = nullptr;
  Taper taper;
  int align_top = 0;               // the largest exponent of an element, which align_bits counts from
  int reach = 0, shift_range = 0;  // by how much micro-levels can lift an exponent, and change it
  int chance_bits = 0;             // stochastic rounding compares fractions as integers of this many bits
  bool zero_points = false;        // in planes[main + 1]; codes are k plus theirs, cut to these integers
  int lowest_integer = 0, highest_integer = 0, unit_exponent = 0;
};

// The largest magnitude of each cell (as float64; Inf and NaN become Inf): the first step to the scales of blocks that
// span lines or that a tile cannot hold. A tile holds whole cells, but for the last of a line.
struct AmaxJob {
  const void* input = nullptr;
  FloatType input_type = FloatType::fp32;
  bool narrow = false;  // round to float32 first (float scales)
  Prepare prepare;
  bool skip_nonfinite = false;
  const std::uint8_t* mask_in = nullptr;
  Geometry geometry;
  std::int64_t cell = 1;      // elements of a line
  std::int64_t cells = 0;     // of a line
  double* largest = nullptr;  // [batch, lines, cells]
  // Where not null, [batch, lines, cells] too: the least element or 0, and `largest` is the largest element or 0. Cells
  // with NaN have Inf.
  double* least = nullptr;
};

// N:M selection by |x| or by a signed score.
struct SelectJob {
  const void* input = nullptr;
  FloatType input_type = FloatType::fp32;
  bool by_score = false;  // input is a score: larger is kept, sign counts
  Sparsity sparsity;
  Geometry geometry;
  std::uint8_t* mask_out = nullptr;
  bool count = false;
};

// Codes and scales to values.
struct DecodeJob {
  BlockFormat format;
  ScaleKind scale_kind = ScaleKind::none;
  Geometry geometry;
  ScalePlanes planes;
  const void* codes = nullptr;
  int code_bytes = 1;
  void* values = nullptr;
  FloatType values_type = FloatType::fp32;
};

// One side of a product: rows of K codes, each code scaled by its segment's scale.
struct Operand {
  const void* codes = nullptr;
  int code_bytes = 1;
  ElementFormat element;
  ScaleKind scale_kind = ScaleKind::none;
  const std::int32_t* exponents = nullptr;  // [rows, segments]; poisoned_exponent for a NaN scale
  const float* factors = nullptr;           // [rows, segments]: float scales, NaN where poisoned
  // Of scales that are short floats (presum): [rows, segments], `exponents` beside them; null: powers of two.
  const std::int32_t* significands = nullptr;
  int scale_fraction = 0;  // fraction bits of significands
  int code_shift = 0;      // low bits of a word above which the element lies
  float tensor_factor = 1;
  bool has_tensor_factor = false;
};

inline constexpr std::int32_t poisoned_exponent = INT32_MIN;

// d[i, j] = sum over k of a[i, k] * b[j, k], by `path`; c and d are strided so that either side may be the wide one.
struct MultiplyJob {
  Datapath path;
  Operand a, b;
  std::int64_t m = 0, n = 0, k = 0;
  const std::int64_t* segment_end = nullptr;  // ascending, the last is k
  std::int64_t segments = 0;
  const float* c = nullptr;  // null: starts at +0
  float* d = nullptr;
  std::int64_t d_row_stride = 0, d_column_stride = 1;  // of c too
  const float* bias = nullptr;                         // added last, one float32 addition; null: none
  std::int64_t bias_row_stride = 0, bias_column_stride = 1;
  // Derived: bits that hold any partial sum of a segment exactly, as an integer multiple of the smallest product.
  int sum_bits = 0;
};

// Kernels work on blocks of rows of a against panels of rows of b.
inline constexpr int panel_rows = 16;
inline constexpr int block_rows = 32;

// Rows of a that stay packed while the panels of b go by: many, since b is packed again for each block of them, but no
// more than stay near the processor.
inline constexpr std::int64_t least_rows_at_once = 32, most_rows_at_once = 256;
static constexpr std::int64_t rows_at_once(std::int64_t k) {
  constexpr std::int64_t elements = std::int64_t{1} << 19;
  const std::int64_t rows = elements / k / least_rows_at_once * least_rows_at_once;
  return rows < least_rows_at_once ? least_rows_at_once : rows > most_rows_at_once ? most_rows_at_once : rows;
}

// Bytes that one call of `multiply` may use for packed operands and sums; `padding` is what may be added to K. How many
// rows there are at once follows from K alone, here and in the kernels.
static constexpr std::int64_t multiply_workspace(std::int64_t k, std::int64_t padding, std::int64_t segments) {
  return (2 * panel_rows + rows_at_once(k)) * ((k + padding + segments) * 16 + 4 * panel_rows) + 64;
}

// Lines of codes under an N:M mask, to what is stored of them: `stored` codes and the position of each unit in its
// group (docs/numerics.md section 15). Lines are contiguous.
struct CompressJob {
  Sparsity sparsity;
  Fill fill = Fill::lowest;
  std::int64_t length = 0;  // of a line
  const void* codes = nullptr;
  int code_bytes = 1;
  const std::uint8_t* mask = nullptr;  // 0 or 1
  void* stored = nullptr;
  std::uint8_t* positions = nullptr;
};

// The way back: pruned codes are 0. Counts.refused: groups whose positions are none.
struct ExpandJob {
  Sparsity sparsity;
  std::int64_t length = 0;
  const void* stored = nullptr;
  const std::uint8_t* positions = nullptr;
  int code_bytes = 1;
  bool repeats = false;  // the positions of a group may all be 0, over codes of 0
  void* codes = nullptr;
  std::uint8_t* mask = nullptr;  // may be null
};

// Lines of items in few bits, to bytes or back. Item i of a run takes container_bits from bit i * container_bits on,
// the lowest bits of a byte first, and lies `shift` bits above the lowest of them. Runs follow each other in run_bytes
// each. Everything else is 0, and Counts.refused counts bytes in which it is not.
struct PackJob {
  int item_bytes = 1, item_bits = 8, container_bits = 8, shift = 0;
  bool from_top = false;    // the first item of a byte lies in its highest bits; containers then divide a byte
  std::int64_t length = 0;  // items of a line
  std::int64_t run = 0, run_bytes = 0;
  void* items = nullptr;
  std::uint8_t* bytes = nullptr;
};

static constexpr std::int64_t line_bytes(const PackJob& j) { return (j.length + j.run - 1) / j.run * j.run_bytes; }

struct KernelTable {
  const char* name;
  void (*quantize)(const QuantizeJob&, std::int64_t first_tile, std::int64_t last_tile, Counts&) noexcept;
  void (*amax)(const AmaxJob&, std::int64_t first_tile, std::int64_t last_tile) noexcept;
  void (*select)(const SelectJob&, std::int64_t first_tile, std::int64_t last_tile, Counts&) noexcept;
  void (*decode)(const DecodeJob&, std::int64_t first_tile, std::int64_t last_tile, Counts&) noexcept;
  void (*multiply)(const MultiplyJob&, std::int64_t first_row, std::int64_t last_row, void* workspace) noexcept;
  void (*compress)(const CompressJob&, std::int64_t first_line, std::int64_t last_line, Counts&) noexcept;
  void (*expand)(const ExpandJob&, std::int64_t first_line, std::int64_t last_line, Counts&) noexcept;
  void (*pack)(const PackJob&, std::int64_t first_line, std::int64_t last_line) noexcept;
  void (*unpack)(const PackJob&, std::int64_t first_line, std::int64_t last_line, Counts&) noexcept;
};

}  // namespace sparq
