// Trees of rounded sums, and integer accumulators (docs/numerics.md section 10), one lane per output.
#pragma once

#include "accumulate.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// A subnormal number becomes +0.
inline float flushed(float value) {
  const std::uint32_t bits = as_bits<Carrier32>(value);
  return (bits & infinity_bits<Carrier32>) == 0 && (bits & ~sign_mask<Carrier32>) != 0 ? 0 : value;
}

// Products and sums of a tree, in float32 as the processor has it.
struct FloatTree {
  bool flush;

  void multiply(float x, const float* y, float* product) const {
    for (int i = 0; i < float_parts; ++i) finish(x * reinterpret_cast<const Floats*>(y)[i], product, i);
  }
  void add(const float* x, const float* y, float* sum) const {
    for (int i = 0; i < float_parts; ++i)
      finish(reinterpret_cast<const Floats*>(x)[i] + reinterpret_cast<const Floats*>(y)[i], sum, i);
  }

 private:
  void finish(Floats value, float* to, int part) const {
    const Integers bits = as_integers(value);
    const Integers subnormal = (bits & static_cast<std::int32_t>(infinity_bits<Carrier32>)) == 0;
    reinterpret_cast<Floats*>(to)[part] = flush ? as_floats(bits & ~(subnormal & INT32_MAX)) : value;
  }
};

// In another accumulator.
template <AccumulatorRounding how>
struct NarrowTree {
  Rounder round;
  bool flush;

  void multiply(float x, const float* y, float* product) const {
    for (int i = 0; i < double_parts; ++i) finish(static_cast<double>(x) * load_doubles(y, i), product, i);
  }
  void add(const float* x, const float* y, float* sum) const {
    for (int i = 0; i < double_parts; ++i) finish(odd_sum(load_doubles(x, i), load_doubles(y, i)), sum, i);
  }

 private:
  void finish(Doubles exact, float* to, int part) const {
    const Doubles rounded = round.round<how>(exact);
    store_floats(flush ? round.flushed(rounded) : rounded, to, part);
  }
};

// Rounded products [begin, end), past `k` zeros, summed in a tree that is split in halves, the shorter one first.
template <class Tree>
inline void tree_sum(const RowPanel<float>& in, const Tree& tree, std::int64_t k, std::int64_t begin, std::int64_t end,
                     float* sum) {
  if (end - begin == 1) {
    if (begin >= k)
      std::memset(sum, 0, lanes * sizeof *sum);
    else
      tree.multiply(in.row[begin], in.panel + begin * lanes, sum);
    return;
  }
  float second[lanes];
  const std::int64_t middle = begin + (end - begin) / 2;
  tree_sum(in, tree, k, begin, middle, sum);
  tree_sum(in, tree, k, middle, end, second);
  tree.add(sum, second, sum);
}

template <class Tree>
inline void reduce_tree(const MultiplyJob& job, const RowPanel<float>& in, const Tree& tree, float* acc) {
  const std::int64_t group = job.path.group > 0 ? job.path.group : job.k;
  if (job.path.flush_inputs)
    for (int l = 0; l < lanes; ++l) acc[l] = flushed(acc[l]);
  for (std::int64_t k = 0; k < job.k; k += group) {
    float sum[lanes];
    tree_sum(in, tree, job.k, k, k + group, sum);
    tree.add(acc, sum, acc);
  }
}

// An accumulator of some bits: sums of a segment's products, `tree` of them at a time.
struct IntegerAccumulator {
  std::int64_t low, high;
  bool saturate;
  std::int64_t tree;

  explicit IntegerAccumulator(const Datapath& path)
      : low(-(std::int64_t{1} << (path.integer_bits - 1))),
        high(-(low + 1)),
        saturate(path.integer_overflow == IntegerOverflow::saturate),
        tree(path.integer_tree) {}

  std::int64_t fit(std::int64_t value) const {
    if (saturate) return value < low ? low : value > high ? high : value;
    return static_cast<std::int64_t>((static_cast<std::uint64_t>(value) - static_cast<std::uint64_t>(low)) &
                                     (2 * static_cast<std::uint64_t>(high) + 1)) +
           low;
  }

  // total[lane] goes on. Where sums wrap it does not matter when; a tree's products fit int64 by far.
  void add(const std::int32_t* row, const std::int32_t* panel, std::int64_t begin, std::int64_t end,
           std::int64_t* total) const {
    const std::int64_t step = saturate && tree > 0 ? tree : end - begin;
    for (std::int64_t k = begin; k < end; k += step) {
      for (std::int64_t i = k; i < smaller(k + step, end); ++i)
        for (int l = 0; l < lanes; ++l) total[l] += static_cast<std::int64_t>(row[i]) * panel[i * lanes + l];
      for (int l = 0; l < lanes; ++l) total[l] = fit(total[l]);
    }
  }
};

inline std::int64_t signed_code(const ElementFormat& f, std::uint32_t code) {
  if (f.signedness == Signedness::twos_complement) return signed_integer(f, code);
  const auto magnitude = static_cast<std::int64_t>(code & magnitude_mask(f));
  return (code & sign_bit(f)) != 0 ? -magnitude : magnitude;
}

inline void pack_integers(const Operand& o, std::int64_t k_count, std::int64_t first_row, std::int64_t count,
                          std::int64_t slots, std::int64_t stride_k, std::int64_t stride_r, std::int32_t* to) {
  for (std::int64_t r = 0; r < slots; ++r)
    for (std::int64_t k = 0; k < k_count; ++k)
      to[k * stride_k + r * stride_r] =
          r < count ? static_cast<std::int32_t>(
                          signed_code(o.element, load_code(o.codes, o.code_bytes, (first_row + r) * k_count + k)))
                    : 0;
}

// Integer sums segment by segment, each rounded to the accumulator and added there.
inline void reduce_integer(const MultiplyJob& job, const std::int32_t* row, const std::int32_t* panel,
                           std::int64_t a_row, std::int64_t b_row, float* acc) {
  const IntegerAccumulator integers(job.path);
  const Accumulator to(job.path);
  const int unit = magnitude_of(job.a.element, 0).exponent + magnitude_of(job.b.element, 0).exponent;
  for (std::int64_t s = 0; s < job.segments; ++s) {
    std::int64_t total[lanes] = {};
    integers.add(row, panel, segment_begin(job, s), job.segment_end[s], total);
    double x[lanes];
    bool poisoned[lanes];
    for (int l = 0; l < lanes; ++l) {
      const double power =
          segment_power(job, job.a, a_row, s) * segment_power(job, job.b, smaller(b_row + l, job.n - 1), s);
      poisoned[l] = !is_finite(power);
      x[l] = poisoned[l] ? 0 : static_cast<double>(total[l]) * power_of_two(unit) * power;
    }
    float term[lanes];
    round_lanes(to, x, term);
    for (int l = 0; l < lanes; ++l)
      if (poisoned[l]) term[l] = as_value<Carrier32>(nan_bits<Carrier32>);
    add_rounded(to, term, acc);
  }
}

// The same in one accumulator, which is also the result: int32 in the bits of c and d.
inline void reduce_to_int32(const MultiplyJob& job, const std::int32_t* row, const std::int32_t* panel, float* acc) {
  const IntegerAccumulator integers(job.path);
  std::int64_t total[lanes];
  for (int l = 0; l < lanes; ++l) total[l] = integers.fit(static_cast<std::int32_t>(as_bits<Carrier32>(acc[l])));
  integers.add(row, panel, 0, job.k, total);
  for (int l = 0; l < lanes; ++l) acc[l] = as_value<Carrier32>(static_cast<std::uint32_t>(total[l]));
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
