#include "multiply.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>

#include "../describe.h"
#include "../dispatch.h"
#include "encode.h"
#include "guard.h"
#include "parallel.h"

namespace sparq::ops {
namespace {

// Multiply-adds that repay a thread.
constexpr std::int64_t products_per_thread = std::int64_t{1} << 21, counted_per_thread = std::int64_t{1} << 12;

// Scales of both sides together stay within float64's normal exponents.
constexpr int largest_scale_exponent = 400;

// Bits of the largest element as an integer multiple of the smallest one.
int integer_bits(const ElementFormat& f) {
  if (f.signedness == Signedness::twos_complement) return code_bits(f);  // the lowest code has one bit more
  const Magnitude top = magnitude_of(f, max_code(f));
  const int quantum = min_exponent(f) - f.mantissa_bits;
  return static_cast<int>(std::bit_width(top.significand)) + top.exponent - quantum;
}

// An element of a float32 word whose low bits the machine does not read.
ElementFormat as_read(const Datapath& path, ElementFormat element) {
  if (is_float32(element)) element.mantissa_bits -= path.dropped_bits;
  return element;
}

// For each common segment the own one that holds it.
std::vector<std::size_t> own_segments(const Side& side, const std::vector<std::int64_t>& common) {
  std::vector<std::size_t> own(common.size());
  for (std::size_t s = 0, o = 0; s < common.size(); ++s) {
    while (side.segment_end[o] < common[s]) ++o;
    own[s] = o;
  }
  return own;
}

// One side's scales on the common segments, read by `scale(index)`.
template <class Scale, class Read>
std::vector<Scale> spread(const Side& side, std::int64_t rows, const std::vector<std::int64_t>& common,
                          const Read& read) {
  const std::vector<std::size_t> own = own_segments(side, common);
  std::vector<Scale> out;
  out.reserve(static_cast<std::size_t>(rows) * common.size());
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
    for (const std::size_t s : own) out.push_back(read(r * side.segment_end.size() + s));
  return out;
}

// An operand for the kernels, with what it points to.
struct Spread {
  std::vector<std::int32_t> exponents, significands;
  std::vector<float> factors;

  Spread(const Side& side, std::int64_t rows, const std::vector<std::int64_t>& common, bool zeros_count) {
    if (side.float_scales != nullptr)
      factors = spread<float>(side, rows, common, [&](std::size_t i) { return side.float_scales[i]; });
    if (!side.has_block_scales) return;
    const int bytes = code_bytes(side.scale);
    const bool powers = is_power_of_two_scale(side.scale);
    const auto code_at = [&](std::size_t i) {
      const std::uint32_t code = bytes == 1 ? static_cast<const std::uint8_t*>(side.block_scales)[i]
                                            : static_cast<const std::uint16_t*>(side.block_scales)[i];
      return powers ? code : code & magnitude_mask(side.scale);  // a sign is not read
    };
    exponents = spread<std::int32_t>(side, rows, common, [&](std::size_t i) {
      const std::uint32_t code = code_at(i);
      if (classify(side.scale, code) == CodeClass::nan) return poisoned_exponent;
      if (powers) return static_cast<std::int32_t>(code) + min_exponent(side.scale);
      const Magnitude m = magnitude_of(side.scale, code);
      return m.significand == 0 && zeros_count ? -126 : m.exponent + side.scale.mantissa_bits;
    });
    if (powers) return;
    significands = spread<std::int32_t>(side, rows, common, [&](std::size_t i) {
      return static_cast<std::int32_t>(magnitude_of(side.scale, code_at(i)).significand);
    });
  }
};

Operand operand_of(const Side& side, const Spread& scales, const Datapath& path) {
  Operand operand;
  operand.codes = side.codes;
  operand.code_bytes = code_bytes(side.element);
  operand.element = as_read(path, side.element);
  operand.code_shift = side.element.mantissa_bits - operand.element.mantissa_bits;
  operand.significands = scales.significands.empty() ? nullptr : scales.significands.data();
  operand.scale_fraction = scales.significands.empty() ? 0 : side.scale.mantissa_bits;
  operand.scale_kind = side.has_block_scales                                   ? ScaleKind::power_of_two
                       : side.float_scales != nullptr || side.has_tensor_scale ? ScaleKind::floating
                                                                               : ScaleKind::none;
  operand.exponents = side.has_block_scales ? scales.exponents.data() : nullptr;
  operand.factors = side.float_scales != nullptr ? scales.factors.data() : nullptr;
  operand.tensor_factor = static_cast<float>(side.tensor_scale);
  operand.has_tensor_factor = side.has_tensor_scale;
  return operand;
}

// An operand whose row 0 is row `first` of another.
Operand rows_from(const Operand& operand, std::int64_t first, std::int64_t k, std::int64_t segments) {
  Operand part = operand;
  part.codes = static_cast<const char*>(operand.codes) + first * k * operand.code_bytes;
  if (part.exponents != nullptr) part.exponents += first * segments;
  if (part.factors != nullptr) part.factors += first * segments;
  if (part.significands != nullptr) part.significands += first * segments;
  return part;
}

std::string check_side(const char* name, const Side& side, std::int64_t k, const Datapath& path) {
  if (!side.has_block_scales && side.float_scales == nullptr) return {};
  const std::string it = std::string(name) + ": ";
  if (side.has_block_scales && (side.float_scales != nullptr || (side.has_tensor_scale && path.presum == 1)))
    return it + "block scales beside float or tensor scales are not supported";
  if (path.presum > 1)
    for (const std::int64_t end : side.segment_end)
      if (end % path.presum != 0 && end != k)
        return it + "blocks must be multiples of the " + std::to_string(path.presum) +
               " products that are summed under one scale";
  if (k == 0) return {};
  if (side.segment_end.empty() || side.segment_end.back() != k ||
      !std::is_sorted(side.segment_end.begin(), side.segment_end.end()))
    return it + "block ends must ascend to K";
  if (!side.has_block_scales) return {};
  if (path.presum > 1 && is_short_float_scale(side.scale) && code_bits(side.scale) <= 8) return {};
  if (!is_power_of_two_scale(side.scale)) return it + "block scales must be powers of two: " + brief(side.scale);
  const int lowest = min_exponent(side.scale), highest = lowest + static_cast<int>(max_code(side.scale));
  if (lowest < -largest_scale_exponent || highest > largest_scale_exponent)
    return it + "scale exponents reach beyond +-" + std::to_string(largest_scale_exponent) + ": " + brief(side.scale);
  return {};
}

// Products and their scales together stay among float64's normal numbers, and within the exact accumulator.
std::string check_reach(const Side& a, const Side& b) {
  int lowest = 0, highest = 0;
  for (const Side* side : {&a, &b}) {
    lowest += min_exponent(side->element) - side->element.mantissa_bits;
    highest += max_exponent(side->element) + 1;
    if (!side->has_block_scales) continue;
    lowest += min_exponent(side->scale);
    highest += min_exponent(side->scale) + static_cast<int>(max_code(side->scale));
  }
  if (lowest < -960 || highest > 960)
    return "products and scales of these operands reach beyond 2^+-960: " + brief(a.element) + ", " + brief(b.element);
  return {};
}

// Segments that also end after every `group` products, counted from where a scale begins.
std::vector<std::int64_t> with_steps(const std::vector<std::int64_t>& ends, std::int64_t group) {
  std::vector<std::int64_t> out;
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    for (std::int64_t k = begin + group; k < end; k += group) out.push_back(k);
    out.push_back(end);
    begin = end;
  }
  return out;
}

// Products over no K: c, or +0, and the bias.
void copy_start(const MultiplyRequest& request) {
  const std::int64_t columns = request.groups * request.n;
  for (std::int64_t i = 0; i < request.m * columns; ++i) {
    if (request.path.output == Output::int32) {
      const float zero = 0;
      std::memcpy(request.d + i, request.c != nullptr ? request.c + i : &zero, sizeof zero);
      continue;
    }
    float value = request.c != nullptr ? request.c[i] : 0.0F;
    if (request.bias != nullptr) value += request.bias[i % columns];
    request.d[i] = std::isnan(value) ? std::bit_cast<float>(request.path.nan_bits) : value;
  }
}

// Scales that change along K, or that the accumulator must know of because they are powers of two per block.
bool varies_along_k(const Side& side) {
  return side.has_block_scales || (side.float_scales != nullptr && side.segment_end.size() > 1);
}

}  // namespace

namespace {

// The record with the fields that its kind of reduction does not read at their defaults.
Datapath with_meaning(const Datapath& path) {
  Datapath out;
  out.reduce = path.reduce;
  out.output = path.output;
  if (path.output != Output::int32) out.nan_bits = path.nan_bits;
  out.block_scales = path.block_scales;
  out.scale = path.scale;
  out.operands = path.operands;
  out.operand_count = path.operand_count;
  const bool one_step = path.output == Output::int32;  // all of K
  if (path.reduce == Reduce::blocks || (path.reduce == Reduce::integer && !one_step) || path.reduce == Reduce::tree)
    out.group = path.group;
  if (path.reduce == Reduce::tree) {
    out.flush_inputs = path.flush_inputs;
    out.flush_results = path.flush_results;
  }
  if (path.reduce == Reduce::integer) {
    out.integer_bits = path.integer_bits;
    out.integer_tree = path.integer_tree;
    out.integer_overflow = path.integer_overflow;
  }
  if (path.reduce != Reduce::exact && !one_step) {
    out.accumulator_exponent_bits = path.accumulator_exponent_bits;
    out.accumulator_fraction = path.accumulator_fraction;
    if (path.reduce != Reduce::integer) out.accumulator_rounding = path.accumulator_rounding;
    out.overflow = path.overflow;
  }
  if (path.reduce != Reduce::align) return out;
  out = path;
  out.flush_inputs = out.flush_results = false;
  out.integer_bits = out.integer_tree = 0;
  out.integer_overflow = IntegerOverflow::wrap;
  if (path.presum > 1) out.product_overflow = false;  // a sum, not a product, is what meets the others
  if (path.start != Start::late_floor) {
    out.lanes = 1;
    out.sum_fraction = out.start_fraction = out.start_reach = 0;
  }
  return out;
}

// Bits that sums may have: float64 holds them.
constexpr int largest_sum_bits = 52;

std::string check_align(const Datapath& path) {
  const std::int64_t instruction = instruction_length(path);
  if (path.group < 1 || path.group > 4096) return "group must be 1 to 4096";
  if (path.fraction_bits < 1 || path.fraction_bits > 44) return "fraction_bits must be 1 to 44";
  if (path.instruction < 0 || path.instruction > 4096 || instruction % path.group != 0)
    return "instruction must be 0 or a multiple of group, at most 4096";
  if (path.run < 0 || (path.run > 0 && path.group % path.run != 0)) return "run must be 0 or divide group";
  if (path.chunk < 0 || path.chunk % instruction != 0) return "chunk must be 0 or a multiple of the instruction's K";
  if (path.lanes < 1 || path.lanes > max_align_lanes) return "lanes must be 1 to 4";
  if (path.presum < 1 || path.group % path.presum != 0) return "presum must divide group";
  if (path.presum > 1 && (path.start != Start::aligned || path.normalize || instruction != path.group))
    return "presum goes with start=aligned, without normalize, and one step per instruction";
  if (path.exponent_floor < no_exponent_floor || path.exponent_floor > 127)
    return "exponent_floor must be -1000 to 127";
  if (path.start_reach < 0) return "start_reach must not be negative";
  if (path.start == Start::late_floor &&
      (path.start_fraction < 1 || path.sum_fraction < path.start_fraction || path.sum_fraction > 44))
    return "late_floor needs 1 <= start_fraction <= sum_fraction <= 44";
  if (path.dropped_bits < 0 || path.dropped_bits > 22) return "dropped_bits must be 0 to 22";
  // Products lie in [0, 4), and the accumulator in [0, 2).
  if ((4 * std::int64_t{path.group} + 2) << std::max(path.fraction_bits, path.sum_fraction) > std::int64_t{1}
                                                                                                  << largest_sum_bits)
    return "(4 * group + 2) * 2^fraction_bits must not exceed 2^52";
  return {};
}

}  // namespace

std::string check_datapath(const Datapath& path) {
  const std::string it = ": " + brief(path);
  if ((path.nan_bits & 0x7FFFFFFF) <= 0x7F800000) return "nan_bits must be the bits of a float32 NaN" + it;
  if (path.group < 0) return "group must not be negative" + it;
  if (path.accumulator_exponent_bits < 2 || path.accumulator_exponent_bits > 8)
    return "accumulator_exponent_bits must be 2 to 8" + it;
  if (path.accumulator_fraction < 1 || path.accumulator_fraction > 23)
    return "accumulator_fraction must be 1 to 23" + it;
  if (!is_power_of_two_scale(path.scale) && !(is_short_float_scale(path.scale) && path.presum > 1))
    return "scale must be powers of two, or a short float under a presum" + it;
  if ((path.output == Output::int32) > (path.reduce == Reduce::integer) ||
      (path.output == Output::fp32_or_fp16) > (path.reduce == Reduce::align))
    return "output int32 goes with reduce=integer, fp32_or_fp16 with reduce=align" + it;
  if (path.reduce == Reduce::integer) {
    const int most = path.output == Output::int32 ? 32 : 48;
    if (path.integer_bits < 2 || path.integer_bits > most)
      return "integer_bits must be 2 to " + std::to_string(most) + it;
    if (path.integer_tree < 0) return "integer_tree must not be negative" + it;
    if (path.output == Output::int32 && path.block_scales)
      return "output='int32' needs block_scales=False: scales that vary along K cannot multiply integers" + it;
  }
  if (!(with_meaning(path) == path))
    return "fields that reduce='" + std::string(word_of(path.reduce)) +
           "' does not read: " + difference(path, with_meaning(path)) + it;
  if (path.reduce != Reduce::align) return {};
  const std::string error = check_align(path);
  return error.empty() ? error : error + it;
}

namespace {

std::string check_element_of(const Datapath& path, const ElementFormat& f) {
  if (path.reduce == Reduce::integer && (f.exponent_bits != 0 || f.signedness == Signedness::unsigned_code))
    return "an integer datapath takes signed integer elements: " + brief(f);
  if (path.reduce != Reduce::align) return {};
  if (f.signedness == Signedness::unsigned_code || f.taper != 0)
    return "an align datapath takes signed elements with one number of mantissa bits: " + brief(f);
  if (path.dropped_bits > 0 && f.mantissa_bits > 23 - path.dropped_bits && !is_float32(f))
    return "this datapath reads float32 words without their low " + std::to_string(path.dropped_bits) +
           " bits, or elements that fit what is left: " + brief(f);
  return {};
}

}  // namespace

std::string check_operands(const Datapath& path, const ElementFormat& a, const ElementFormat& b, bool block_scales) {
  if (block_scales && !path.block_scales)
    return "this datapath takes no scales that vary along K, only scales of rows or tensors";
  const auto accepted = path.operands.begin() + path.operand_count;
  for (const ElementFormat* f : {&a, &b}) {
    if (path.operand_count != 0 && std::find(path.operands.begin(), accepted, *f) == accepted) {
      std::string takes;
      for (auto known = path.operands.begin(); known != accepted; ++known)
        takes += (takes.empty() ? "" : ", ") + brief(*known);
      return "this datapath does not take " + brief(*f) + "; it takes " + takes;
    }
    if (std::string error = check_element(*f); !error.empty()) return error;
    if (std::string error = check_element_of(path, *f); !error.empty()) return error;
  }
  if (path.presum > 1) {
    const auto length = static_cast<std::uint64_t>(path.presum);
    const int bits = integer_bits(a) + integer_bits(b) + static_cast<int>(std::bit_width(length));
    const int top = max_exponent(a) + max_exponent(b) + 4 + static_cast<int>(std::bit_width(std::uint64_t(path.group)));
    if (bits > 31 || top + path.fraction_bits > largest_sum_bits)
      return "sums of " + std::to_string(path.presum) + " products of these elements are too wide: " + brief(a) + ", " +
             brief(b);
  }
  return {};
}

namespace {

std::string run(const MultiplyRequest& request) {
  std::string error = check_datapath(request.path);
  if (error.empty())
    error = check_operands(request.path, request.a.element, request.b.element,
                           varies_along_k(request.a) || varies_along_k(request.b));
  if (error.empty()) error = check_side("a", request.a, request.k, request.path);
  if (error.empty()) error = check_side("b", request.b, request.k, request.path);
  for (const Side* side : {&request.a, &request.b})
    if (error.empty() && scales_at_end(request.path) && side->float_scales != nullptr && side->segment_end.size() > 1)
      error = "float scales that vary along K: this datapath takes one per row or tensor";
  if (error.empty()) error = check_reach(request.a, request.b);
  const bool end_scaled =
      request.a.has_tensor_scale || request.b.has_tensor_scale ||
      (scales_at_end(request.path) && (request.a.float_scales != nullptr || request.b.float_scales != nullptr));
  if (error.empty() && request.c != nullptr && end_scaled)
    error =
        "c needs operands whose scales are applied before it: not tensor scales, nor row scales on an align datapath";
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  if (request.m == 0 || request.n == 0 || request.groups == 0) return {};
  if (request.k == 0) {
    parallel_for(1, 1, [&](std::int64_t, std::int64_t, int) { copy_start(request); });
    return {};
  }

  std::vector<std::int64_t> segments;
  std::merge(request.a.segment_end.begin(), request.a.segment_end.end(), request.b.segment_end.begin(),
             request.b.segment_end.end(), std::back_inserter(segments));
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
  if (segments.empty() && request.k > 0) segments.push_back(request.k);
  if (sums_segments(request.path) && request.path.group > 0) segments = with_steps(segments, request.path.group);
  const bool zeros_count = request.path.zero_products == ZeroProducts::lowest;
  const Spread a_scales(request.a, request.groups * request.m, segments, zeros_count);
  const Spread b_scales(request.b, request.groups * request.n, segments, zeros_count);

  MultiplyJob job;
  job.path = request.path;
  // On a thread with the default float state: a subnormal tensor scale must not be flushed.
  parallel_for(1, 1, [&](std::int64_t, std::int64_t, int) {
    job.a = operand_of(request.a, a_scales, request.path);
    job.b = operand_of(request.b, b_scales, request.path);
  });
  job.m = request.m;
  job.n = request.n;
  job.k = request.k;
  job.segment_end = segments.data();
  job.segments = static_cast<std::int64_t>(segments.size());
  job.c = request.c;
  job.d = request.d;
  job.bias = request.bias;
  job.d_row_stride = request.groups * request.n;
  job.d_column_stride = 1;
  // Every rule is symmetric in a and b: the side that fills panels better goes second.
  // float32 lanes also need every product to be a normal number or zero.
  const auto lowest = [](const ElementFormat& f) { return min_exponent(f) - f.mantissa_bits; };
  const bool narrow = lowest(job.a.element) + lowest(job.b.element) >= -120 &&
                      max_exponent(job.a.element) + max_exponent(job.b.element) <= 100 &&
                      lowest(job.a.element) >= -120 && lowest(job.b.element) >= -120;
  const auto padded = [](std::int64_t rows, std::int64_t columns) {
    return rows * ((columns + panel_rows - 1) / panel_rows);
  };
  if (padded(job.n, job.m) < padded(job.m, job.n)) {
    std::swap(job.a, job.b);
    std::swap(job.m, job.n);
    std::swap(job.d_row_stride, job.d_column_stride);
    std::swap(job.bias_row_stride, job.bias_column_stride);
  }
  std::int64_t longest = 1;
  for (std::size_t s = 0; s < segments.size(); ++s)
    longest = std::max(longest, segments[s] - (s == 0 ? 0 : segments[s - 1]));
  job.sum_bits = integer_bits(job.a.element) + integer_bits(job.b.element) +
                 static_cast<int>(std::bit_width(static_cast<std::uint64_t>(longest - 1)));
  // The exact datapath multiplies decoded values, and a float scale makes those arbitrary float32 numbers.
  const bool floating = job.a.scale_kind == ScaleKind::floating || job.b.scale_kind == ScaleKind::floating;
  if (job.path.reduce == Reduce::exact && floating) job.sum_bits = 1024;
  if (!narrow) job.sum_bits = std::max(job.sum_bits, 25);

  const std::int64_t products = request.groups * job.m * job.n * std::max<std::int64_t>(1, job.k);
  const std::int64_t pieces = request.groups > 1 ? request.groups : job.m;
  const std::int64_t repaid = request.counts != nullptr ? counted_per_thread : products_per_thread;
  const int threads = thread_count(products, repaid, request.threads, pieces);
  const std::int64_t padding = job.path.reduce == Reduce::align ? instruction_length(job.path) : 0;
  const std::int64_t workspace = multiply_workspace(job.k, padding, job.segments);
  // Not filled, since a job touches what its kernel needs; whole cache lines.
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<std::unique_ptr<Line[]>> space(static_cast<std::size_t>(threads));
  for (auto& s : space) s.reset(new Line[static_cast<std::size_t>(workspace / 64 + 1)]);
  std::vector<reference::DotCounts> totals(static_cast<std::size_t>(threads));
  parallel_for(pieces, threads, [&](std::int64_t first, std::int64_t last, int thread) {
    void* own = space[static_cast<std::size_t>(thread)].get();
    reference::DotCounts& total = totals[static_cast<std::size_t>(thread)];
    // `part` is the job or one of its groups, whose first d is that far from that of the job.
    const auto rows = [&](const MultiplyJob& part, std::int64_t begin, std::int64_t end, std::int64_t at) {
      if (request.counts == nullptr) return kernels->multiply(part, begin, end, own);
      const bool each = request.counts_each;
      reference::multiply_counted(part, begin, end, each ? request.counts + at : &total, each);
    };
    if (request.groups == 1) return rows(job, first, last, 0);
    for (std::int64_t group = first; group < last; ++group) {
      MultiplyJob one = job;
      one.a = rows_from(job.a, group * job.m, job.k, job.segments);
      one.b = rows_from(job.b, group * job.n, job.k, job.segments);
      one.d += group * request.n;
      if (one.c != nullptr) one.c += group * request.n;
      if (one.bias != nullptr) one.bias += group * request.n;
      rows(one, 0, job.m, group * request.n);
    }
  });
  if (request.counts != nullptr && !request.counts_each)
    for (const reference::DotCounts& total : totals) request.counts->add(total);
  return {};
}

}  // namespace

std::string multiply(const MultiplyRequest& request) {
  return guarded([&] { return run(request); });
}

}  // namespace sparq::ops
