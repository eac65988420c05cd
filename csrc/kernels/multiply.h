// Matrix products on a described datapath (docs/numerics.md section 10): panels of 16 rows of b against single rows
// of a. Packing and the order of work are shared; a datapath is a way to reduce one row against one panel.
#pragma once

#include "decode.h"
#include "wide_sum.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

constexpr int lanes = panel_rows;

inline float segment_factor(const MultiplyJob& job, const Operand& o, std::int64_t row, std::int64_t segment) {
  return o.factors != nullptr ? o.factors[row * job.segments + segment] : 1.0F;
}

inline std::int64_t segment_begin(const MultiplyJob& job, std::int64_t s) {
  return s == 0 ? 0 : job.segment_end[s - 1];
}

inline double segment_power(const MultiplyJob& job, const Operand& o, std::int64_t row, std::int64_t segment) {
  if (o.scale_kind != ScaleKind::power_of_two) return 1;
  const std::int32_t exponent = o.exponents[row * job.segments + segment];
  return exponent == poisoned_exponent ? as_value<Carrier64>(nan_bits<Carrier64>) : power_of_two(exponent);
}

// Packs one row of an operand. Scales of the segments go to `powers` and `factors`, `stride` apart.
template <class Value>
struct Packer {
  const MultiplyJob& job;
  const Operand& operand;
  const ElementTable& table;
  bool decoded;

  void operator()(std::int64_t row, Value* to, std::int64_t stride, double* powers, float* factors) const {
    // Elements below it, before any scale, are +0; integers have no subnormals.
    const bool flush = job.path.flush_inputs && operand.element.exponent_bits > 0;
    const double least = flush ? power_of_two(min_exponent(operand.element)) : 0;
    const auto* bytes =
        table.tabled && operand.code_bytes == 1 ? static_cast<const std::uint8_t*>(operand.codes) : nullptr;
    for (std::int64_t s = 0; s < job.segments; ++s) {
      const std::int64_t begin = segment_begin(job, s), end = job.segment_end[s];
      const double power = segment_power(job, operand, row, s);
      const float own_factor = segment_factor(job, operand, row, s);
      // Decoding applies every scale, and then none is left to apply.
      powers[s * stride] = decoded ? 1 : power;
      factors[s * stride] = decoded ? 1 : own_factor;
      const float factor = own_factor * operand.tensor_factor;
      for (std::int64_t k = begin; k < end; ++k) {
        const double element = bytes != nullptr ? table.values[bytes[row * job.k + k]]
                                                : table(load_code(operand.codes, operand.code_bytes, row * job.k + k));
        double value = element;
        if (flush && element < least && element > -least) value = 0;
        if (decoded) {
          value = operand.scale_kind == ScaleKind::floating ? static_cast<float>(value) * factor
                                                            : static_cast<float>(value * power);
        }
        to[k] = static_cast<Value>(value);
      }
    }
  }
};

// Words of 16 rows that lie one after the other, to panels: those of one place beside each other.
template <std::int64_t bytes = 4>
__attribute__((noinline)) void turn_words(const void* rows, std::int64_t count, void* panel) {
  constexpr std::int64_t together = 16;
  const auto* from = static_cast<const char*>(rows);
  auto* to = static_cast<char*>(panel);
  for (std::int64_t first = 0; first < count; first += together) {
    const std::int64_t last = smaller(first + together, count);
    for (int l = 0; l < lanes; ++l)
      for (std::int64_t i = first; i < last; ++i)
        std::memcpy(to + (i * lanes + l) * bytes, from + (l * count + i) * bytes, bytes);
  }
}

// Compilers turn the loops over lanes inside out; vectors as wide as the instruction set's registers keep them as
// they are meant.
template <class T>
struct Register {
  typedef T type __attribute__((vector_size(SPARQ_REGISTER_BYTES), aligned(4), may_alias));
  static constexpr int width = SPARQ_REGISTER_BYTES / static_cast<int>(sizeof(T));
};

// Sums of one segment's products for each row, exact in Value because job.sum_bits says so.
template <class Value, int rows>
inline void sum_segment(const Value* const (&row)[static_cast<std::size_t>(rows)], const Value* panel,
                        std::int64_t begin, std::int64_t end, Value (*sums)[lanes]) {
  using Vector = typename Register<Value>::type;
  constexpr int parts = lanes / Register<Value>::width;
  Vector local[static_cast<std::size_t>(rows)][static_cast<std::size_t>(parts)] = {};
  for (std::int64_t k = begin; k < end; ++k) {
    const Vector* from = reinterpret_cast<const Vector*>(panel + k * lanes);
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < parts; ++i) local[r][i] += row[r][k] * from[i];
  }
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < parts; ++i) reinterpret_cast<Vector*>(sums[r])[i] = local[r][i];
}

// A segment's exact sum of one lane, when no machine type holds it.
inline void sum_segment_wide(const double* row, const double* panel, std::int64_t begin, std::int64_t end, int lane,
                             double power, WideSum& sum) {
  const Split scale = split<Carrier64>(as_bits<Carrier64>(power));
  const int scale_exponent = scale.exponent + Carrier64::mantissa;
  for (std::int64_t k = begin; k < end; ++k) {
    const std::uint64_t a = as_bits<Carrier64>(row[k]), b = as_bits<Carrier64>(panel[k * lanes + lane]);
    const Split x = split<Carrier64>(a & ~sign_mask<Carrier64>), y = split<Carrier64>(b & ~sign_mask<Carrier64>);
    // Element and float32 significands have 24 bits at most: drop the trailing zeros of float64.
    sum.add((x.significand >> 28) * (y.significand >> 28), (a ^ b) >> 63 != 0,
            x.exponent + y.exponent + 56 + scale_exponent);
  }
}

inline bool is_finite(double value) { return value - value == 0; }

// One row of a against a panel, everything that a reduction needs.
template <class Value>
struct RowPanel {
  const Value* row;
  const Value* panel;
  const double* row_powers;    // [segments]
  const double* panel_powers;  // [segments][lanes]
  const float* row_factors;    // [segments]
  const float* panel_factors;  // [segments][lanes]
  const bool* special;         // [lanes]: a non-finite operand or scale takes part
};

// The IEEE class of a sum that holds a NaN or an Inf somewhere; finite terms cannot overflow float64.
inline float classify_dot(const MultiplyJob& job, const RowPanel<double>& in, int lane, double start) {
  double sum = start;
  for (std::int64_t s = 0; s < job.segments; ++s) {
    const double factor = static_cast<double>(in.row_factors[s] * in.panel_factors[s * lanes + lane]);
    const double power = in.row_powers[s] * in.panel_powers[s * lanes + lane] * factor;
    for (std::int64_t k = segment_begin(job, s); k < job.segment_end[s]; ++k)
      sum += in.row[k] * in.panel[k * lanes + lane] * power;
  }
  return static_cast<float>(sum);
}

// Float scales: the segment's sum is rounded to float32 and multiplied by the rounded product of the scales, which
// float64 holds exactly.
inline void scale_terms(float row_factor, const float* panel_factors, double* terms) {
  for (int l = 0; l < lanes; ++l)
    terms[l] = static_cast<double>(static_cast<float>(terms[l])) * static_cast<double>(row_factor * panel_factors[l]);
}

template <class Value>
inline void reduce_exact(const MultiplyJob& job, const RowPanel<Value>& in, WideSum* sums, float* acc) {
  Value segment[1][lanes];
  const Value* const rows[1] = {in.row};
  for (int l = 0; l < lanes; ++l) {
    sums[l].clear();
    if (is_finite(acc[l])) sums[l].add(acc[l]);
  }
  double special[lanes] = {};
  for (std::int64_t s = 0; s < job.segments; ++s) {
    sum_segment<Value, 1>(rows, in.panel, segment_begin(job, s), job.segment_end[s], segment);
    for (int l = 0; l < lanes; ++l) {
      const double p = static_cast<double>(segment[0][l]) * (in.row_powers[s] * in.panel_powers[s * lanes + l]);
      if (is_finite(p))
        sums[l].add(p);
      else
        special[l] += p;
    }
  }
  for (int l = 0; l < lanes; ++l)
    acc[l] = special[l] == 0 && is_finite(acc[l]) ? sums[l].round() : acc[l] + static_cast<float>(special[l]);
}

inline void reduce_exact_wide(const MultiplyJob& job, const RowPanel<double>& in, WideSum& sum, float* acc) {
  for (int l = 0; l < lanes; ++l) {
    if (in.special[l] || !is_finite(acc[l])) {
      acc[l] = classify_dot(job, in, l, acc[l]);
      continue;
    }
    sum.clear();
    sum.add(acc[l]);
    for (std::int64_t s = 0; s < job.segments; ++s)
      sum_segment_wide(in.row, in.panel, segment_begin(job, s), job.segment_end[s], l,
                       in.row_powers[s] * in.panel_powers[s * lanes + l], sum);
    acc[l] = sum.round();
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
