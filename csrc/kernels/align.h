// Align-and-add (docs/numerics.md section 10, hopper_fp8): integers only, one int32 lane per output.
#pragma once

#include "multiply.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// A code's signed significand with mantissa_bits fraction bits (0 for zero and for non-finite codes), and its
// exponent: of a significand in [1, 2), or emin for subnormals.
struct SplitElement {
  std::int32_t significand;
  std::int32_t exponent;
};

// A zero product takes no part in the alignment: its exponent is far below any other.
constexpr std::int32_t absent_exponent = -(1 << 20);

inline SplitElement split_element(const ElementFormat& f, std::uint32_t memory_code) {
  if (classify(f, memory_code) != CodeClass::finite) return {0, absent_exponent};
  const std::uint32_t code = code_from_memory(f, memory_code);
  const Magnitude m = magnitude_of(f, code & magnitude_mask(f));
  if (m.significand == 0) return {0, absent_exponent};
  const auto significand = static_cast<std::int32_t>(m.significand);
  return {(code & sign_bit(f)) != 0 ? -significand : significand, m.exponent + f.mantissa_bits};
}

// Packed rows: significands and exponents in two planes of `plane` elements.
inline void pack_split(const Operand& o, const SplitElement* table, std::int64_t k_count, std::int64_t first_row,
                       std::int64_t count, std::int64_t slots, std::int64_t stride_k, std::int64_t stride_r,
                       std::int32_t* to, std::int64_t plane, bool* non_finite) {
  for (std::int64_t r = 0; r < slots; ++r) {
    non_finite[r] = false;
    for (std::int64_t k = 0; k < k_count; ++k) {
      SplitElement e{0, absent_exponent};
      if (r < count) {
        const std::uint32_t code = load_code(o.codes, o.code_bytes, (first_row + r) * k_count + k);
        e = table[code & 0xFF];
        non_finite[r] = non_finite[r] || classify(o.element, code) != CodeClass::finite;
      }
      to[k * stride_k + r * stride_r] = e.significand;
      to[plane + k * stride_k + r * stride_r] = e.exponent;
    }
  }
}

struct AlignStep {
  int shift_up;        // fraction_bits less the fraction bits of a product
  int fraction_bits;   // kept below 2^E
  std::uint32_t keep;  // float32 bits that the accumulator keeps
};

using Integers = Register<std::int32_t>::type;
constexpr std::size_t integer_parts = lanes / Register<std::int32_t>::width;

// top = max(top, exponents of the products).
inline void raise_to_largest(const std::int32_t* row, const std::int32_t* panel, std::int64_t count,
                             std::int32_t* top) {
  auto* largest = reinterpret_cast<Integers*>(top);
  Integers local[integer_parts];
  for (std::size_t i = 0; i < integer_parts; ++i) local[i] = largest[i];
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* from = reinterpret_cast<const Integers*>(panel + k * lanes);
    for (std::size_t i = 0; i < integer_parts; ++i) {
      const Integers exponent = row[k] + from[i];
      local[i] = exponent > local[i] ? exponent : local[i];
    }
  }
  for (std::size_t i = 0; i < integer_parts; ++i) largest[i] = local[i];
}

// sum += every product, cut toward zero in magnitude at fraction_bits below 2^top.
inline void add_cut_products(const AlignStep& step, const std::int32_t* row, std::int64_t row_plane,
                             const std::int32_t* panel, std::int64_t panel_plane, std::int64_t count,
                             const std::int32_t* top, std::int32_t* sum) {
  const auto* tops = reinterpret_cast<const Integers*>(top);
  auto* sums = reinterpret_cast<Integers*>(sum);
  const Integers farthest = Integers{} + 31;
  Integers local[integer_parts];
  for (std::size_t i = 0; i < integer_parts; ++i) local[i] = sums[i];
  for (std::int64_t k = 0; k < count; ++k) {
    const auto* significands = reinterpret_cast<const Integers*>(panel + k * lanes);
    const auto* exponents = reinterpret_cast<const Integers*>(panel + panel_plane + k * lanes);
    for (std::size_t i = 0; i < integer_parts; ++i) {
      const Integers product = row[k] * significands[i];
      const Integers sign = product >> 31;
      const Integers distance = tops[i] - (row[row_plane + k] + exponents[i]);
      const Integers shift = distance < farthest ? distance : farthest;
      const Integers cut = (((product ^ sign) - sign) << step.shift_up) >> shift;
      local[i] += (cut ^ sign) - sign;
    }
  }
  for (std::size_t i = 0; i < integer_parts; ++i) sums[i] = local[i];
}

// One group of products into the accumulators. Significands of a row and a panel, and their exponents a plane on.
inline void align_group(const AlignStep& step, const std::int32_t* row, std::int64_t row_plane,
                        const std::int32_t* panel, std::int64_t panel_plane, std::int64_t count, float* acc) {
  std::int32_t top[lanes], sum[lanes];
  std::uint32_t before[lanes];
  for (int l = 0; l < lanes; ++l) {
    before[l] = as_bits<Carrier32>(acc[l]);
    const auto field = static_cast<std::int32_t>(before[l] >> 23 & 0xFF);
    const std::int32_t exponent = (field > 1 ? field : 1) - 127;
    top[l] = (before[l] & 0x7FFFFFFF) == 0 ? absent_exponent : exponent;
  }
  raise_to_largest(row + row_plane, panel + panel_plane, count, top);
  // Terms are cut toward zero in magnitude: shift |term|, then give it back its sign.
  for (int l = 0; l < lanes; ++l) {
    const auto field = static_cast<std::int32_t>(before[l] >> 23 & 0xFF);
    const std::int32_t exponent = (field > 1 ? field : 1) - 127;
    const std::int32_t significand = static_cast<std::int32_t>(before[l] & 0x7FFFFF) | (field > 0 ? 1 << 23 : 0);
    const std::int32_t distance = 23 - step.fraction_bits + (top[l] - exponent);
    const std::int32_t cut = significand >> (distance < 31 ? distance : 31);
    sum[l] = before[l] >> 31 != 0 ? -cut : cut;
  }
  add_cut_products(step, row, row_plane, panel, panel_plane, count, top, sum);
  for (int l = 0; l < lanes; ++l) {
    if ((before[l] & 0x7F800000) == 0x7F800000) continue;  // NaN and Inf stay
    if (sum[l] == 0) {
      acc[l] = 0;
      continue;
    }
    // |sum| < 2^24 is exact in float32 at any exponent that it can have here; dropping low mantissa bits is the cut
    // toward zero, of normal and of subnormal numbers.
    const double scaled = static_cast<double>(sum[l]) * power_of_two(top[l] - step.fraction_bits);
    acc[l] = as_value<Carrier32>(as_bits<Carrier32>(static_cast<float>(scaled)) & step.keep);
  }
}

// Adds the IEEE class of a group's products where one of them is NaN or Inf.
inline void add_special(const MultiplyJob& job, const ElementTable& a_table, const ElementTable& b_table,
                        std::int64_t row, std::int64_t column, std::int64_t begin, std::int64_t end, float& acc) {
  double sum = 0;
  for (std::int64_t k = begin; k < end; ++k)
    sum += a_table(load_code(job.a.codes, job.a.code_bytes, row * job.k + k)) *
           b_table(load_code(job.b.codes, job.b.code_bytes, column * job.k + k));
  if (!is_finite(sum)) acc += static_cast<float>(sum);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
