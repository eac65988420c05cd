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

// Packs `count` rows of an operand: to[k * stride_k + r * stride_r], zeros in the missing rows up to `slots`.
// Scales of the segments go to `powers` and `factors` by the same strides.
template <class Value>
struct Packer {
  const MultiplyJob& job;
  const Operand& operand;
  const ElementTable& table;
  bool decoded;

  void operator()(std::int64_t first_row, std::int64_t count, std::int64_t slots, std::int64_t stride_k,
                  std::int64_t stride_r, Value* to, double* powers, float* factors) const {
    const auto* bytes =
        table.tabled && operand.code_bytes == 1 ? static_cast<const std::uint8_t*>(operand.codes) : nullptr;
    for (std::int64_t r = 0; r < slots; ++r) {
      for (std::int64_t s = 0; s < job.segments; ++s) {
        const std::int64_t begin = segment_begin(job, s), end = job.segment_end[s];
        if (r >= count) {
          for (std::int64_t k = begin; k < end; ++k) to[k * stride_k + r * stride_r] = 0;
          powers[s * stride_k + r * stride_r] = 1;
          factors[s * stride_k + r * stride_r] = 1;
          continue;
        }
        const std::int64_t row = first_row + r;
        const double power = segment_power(job, operand, row, s);
        const float own_factor = segment_factor(job, operand, row, s);
        // Decoding applies every scale, and then none is left to apply.
        powers[s * stride_k + r * stride_r] = decoded ? 1 : power;
        factors[s * stride_k + r * stride_r] = decoded ? 1 : own_factor;
        const float factor = own_factor * operand.tensor_factor;
        for (std::int64_t k = begin; k < end; ++k) {
          const double element = bytes != nullptr
                                     ? table.values[bytes[row * job.k + k]]
                                     : table(load_code(operand.codes, operand.code_bytes, row * job.k + k));
          double value = element;
          if (decoded) {
            value = operand.scale_kind == ScaleKind::floating ? static_cast<float>(element) * factor
                                                              : static_cast<float>(element * power);
          }
          to[k * stride_k + r * stride_r] = static_cast<Value>(value);
        }
      }
    }
  }
};

// Compilers turn the loops over lanes inside out; vectors as wide as the instruction set's registers keep them as
// they are meant.
template <class T>
struct Register {
  typedef T type __attribute__((vector_size(__BIGGEST_ALIGNMENT__), aligned(8), may_alias));
  static constexpr int width = __BIGGEST_ALIGNMENT__ / static_cast<int>(sizeof(T));
};

// acc = RN32(acc + p), one rounding: the float64 sum is rounded to odd with the help of its exact error, and then to
// float32, which has fewer than half as many bits. An exact zero is +0.
inline void add_once(const double* p, float* acc) {
  using Doubles = Register<double>::type;
  using Words = Register<std::int64_t>::type;
  for (int first = 0; first < lanes; first += Register<double>::width) {
    Doubles a{};
    for (int i = 0; i < Register<double>::width; ++i) a[i] = acc[first + i];
    const Doubles term = *reinterpret_cast<const Doubles*>(p + first);
    const Doubles sum = a + term;
    const Doubles virtual_term = sum - a;
    const Doubles error = (a - (sum - virtual_term)) + (term - virtual_term);
    const Words bits = reinterpret_cast<const Words&>(sum);
    // One step away from zero if the error points there, else one step toward it; only for even, finite sums.
    const Words outward = (error > 0) == (sum > 0);
    const Words step = (outward & 2) - 1;
    const Words adjust = (error != 0) & ((bits & 1) == 0) & ((sum - sum) == 0);
    const Words odd = bits + (step & adjust);
    const Words zero = sum == 0;
    const Words chosen = odd & ~zero;
    const Doubles result = reinterpret_cast<const Doubles&>(chosen);
    for (int i = 0; i < Register<double>::width; ++i) acc[first + i] = static_cast<float>(result[i]);
  }
}

// Sums of one segment's products, exact in Value because job.sum_bits says so.
template <class Value>
inline void sum_segment(const Value* row, const Value* panel, std::int64_t begin, std::int64_t end, Value* sums) {
  using Vector = typename Register<Value>::type;
  constexpr std::size_t parts = lanes / Register<Value>::width;
  Vector local[parts] = {};
  for (std::int64_t k = begin; k < end; ++k) {
    const auto* from = reinterpret_cast<const Vector*>(panel + k * lanes);
    for (std::size_t i = 0; i < parts; ++i) local[i] += row[k] * from[i];
  }
  for (std::size_t i = 0; i < parts; ++i) reinterpret_cast<Vector*>(sums)[i] = local[i];
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
inline void reduce_blocks(const MultiplyJob& job, const RowPanel<Value>& in, float* acc) {
  const bool floating = job.a.factors != nullptr || job.b.factors != nullptr;
  Value sums[lanes];
  for (std::int64_t s = 0; s < job.segments; ++s) {
    sum_segment<Value>(in.row, in.panel, segment_begin(job, s), job.segment_end[s], sums);
    double terms[lanes];
    for (int l = 0; l < lanes; ++l)
      terms[l] = static_cast<double>(sums[l]) * (in.row_powers[s] * in.panel_powers[s * lanes + l]);
    if (floating) scale_terms(in.row_factors[s], in.panel_factors + s * lanes, terms);
    add_once(terms, acc);
  }
}

// What the NaN and Inf of one segment and lane add up to; 0 if there are none.
inline double special_sum(const MultiplyJob& job, const RowPanel<double>& in, std::int64_t segment, int lane) {
  const double power = in.row_powers[segment] * in.panel_powers[segment * lanes + lane];
  double sum = is_finite(power) ? 0 : power;
  for (std::int64_t k = segment_begin(job, segment); k < job.segment_end[segment]; ++k) {
    const double product = in.row[k] * in.panel[k * lanes + lane];
    if (!is_finite(product)) sum += product;
  }
  return sum;
}

inline void reduce_blocks_wide(const MultiplyJob& job, const RowPanel<double>& in, WideSum& sum, float* acc) {
  const bool floating = job.a.factors != nullptr || job.b.factors != nullptr;
  for (std::int64_t s = 0; s < job.segments; ++s) {
    double terms[lanes];
    for (int l = 0; l < lanes; ++l) {
      terms[l] = in.special[l] ? special_sum(job, in, s, l) : 0;
      // Under float scales a segment's sum is a float32 of its own, which may be the Inf that meets acc's.
      if (terms[l] != 0 || (!floating && !is_finite(acc[l]))) continue;
      sum.clear();
      if (!floating) sum.add(acc[l]);
      sum_segment_wide(in.row, in.panel, segment_begin(job, s), job.segment_end[s], l,
                       in.row_powers[s] * in.panel_powers[s * lanes + l], sum);
      terms[l] = sum.round();
    }
    if (floating) {
      scale_terms(in.row_factors[s], in.panel_factors + s * lanes, terms);
      add_once(terms, acc);
      continue;
    }
    // A finite term already holds the sum; finite sums that overflowed may meet an Inf later.
    for (int l = 0; l < lanes; ++l) {
      if (!is_finite(terms[l]))
        acc[l] += static_cast<float>(terms[l]);
      else if (is_finite(acc[l]))
        acc[l] = static_cast<float>(terms[l]);
    }
  }
}

template <class Value>
inline void reduce_exact(const MultiplyJob& job, const RowPanel<Value>& in, WideSum* sums, float* acc) {
  Value segment[lanes];
  for (int l = 0; l < lanes; ++l) {
    sums[l].clear();
    if (is_finite(acc[l])) sums[l].add(acc[l]);
  }
  double special[lanes] = {};
  for (std::int64_t s = 0; s < job.segments; ++s) {
    sum_segment<Value>(in.row, in.panel, segment_begin(job, s), job.segment_end[s], segment);
    for (int l = 0; l < lanes; ++l) {
      const double p = static_cast<double>(segment[l]) * (in.row_powers[s] * in.panel_powers[s * lanes + l]);
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

inline void reduce_fma(const MultiplyJob& job, const RowPanel<float>& in, float* acc) {
  // A loop over lanes: there is no fused product of two vectors in the language.
  float local[lanes];
  for (int l = 0; l < lanes; ++l) local[l] = acc[l];
  for (std::int64_t k = 0; k < job.k; ++k)
    for (int l = 0; l < lanes; ++l) local[l] = __builtin_fmaf(in.row[k], in.panel[k * lanes + l], local[l]);
  for (int l = 0; l < lanes; ++l) acc[l] = local[l];
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
