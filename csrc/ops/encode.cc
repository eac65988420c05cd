#include "encode.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "../dispatch.h"
#include "geometry.h"
#include "guard.h"
#include "parallel.h"

namespace sparq::ops {
namespace {

// Below about a million elements a second thread costs more than it brings.
constexpr std::int64_t elements_per_thread = std::int64_t{1} << 20;

// The 52-bit fraction above which the exponent is promoted (docs/numerics.md section 3).
std::uint64_t promotion_threshold(const ElementFormat& element, ScaleRule rule) {
  constexpr std::uint64_t one = std::uint64_t{1} << 52;
  switch (rule) {
    case ScaleRule::ceil: return 0;
    case ScaleRule::rceil: {
      std::uint64_t top = magnitude_of(element, max_code(element)).significand;
      while (top < one) top <<= 1;
      return top - one;
    }
    case ScaleRule::even: return one - (one >> (top_fraction_bits(element) + 1)) - 1;
    case ScaleRule::floor:
    case ScaleRule::amax: break;
  }
  return one;
}

void derive(QuantizeJob& job) {
  const ElementFormat& e = job.format.element;
  const Conversion& how = job.conversion;
  const Magnitude top = magnitude_of(e, max_code(e));
  job.mantissa_bits = e.mantissa_bits;
  job.min_exponent = min_exponent(e);
  job.top_significand = top.significand;
  job.top_exponent = top.exponent;
  job.max_code = max_code(e);
  job.infinity_code = has_infinity(e) ? infinity_code(e) : 0;
  job.nan_code = has_nan(e) ? nan_code(e) : 0;
  job.element_nan = has_nan(e);
  job.sign_bit = sign_bit(e);
  job.code_mask = magnitude_mask(e) | sign_bit(e);
  job.twos_complement = e.signedness == Signedness::twos_complement;
  job.negative_zero = has_negative_zero(e);
  const bool special = how.overflow == Overflow::special && !keeps_finite(how.rounding);
  job.overflow_is_infinity = special && has_infinity(e);
  job.overflow_is_nan = special && !has_infinity(e);
  job.overflow_code = job.overflow_is_infinity ? job.infinity_code : job.overflow_is_nan ? job.nan_code : job.max_code;
  job.chance_bits = how.random_bits + (how.stochastic == Stochastic::b ? 1 : 0);
  if (job.scale_kind == ScaleKind::none) return;
  const ElementFormat& s = job.format.levels[0].format;
  job.scale_nan = has_nan(s);
  job.scale_nan_code = has_nan(s) ? nan_code(s) : 0;
  job.scale_bytes = code_bytes(s);
  job.short_scale = is_short_float_scale(s);
  job.scale_format = s;
  job.scale_divisor = std::ldexp(static_cast<float>(top.significand), top.exponent);
  job.scale_shift = max_exponent(e);
  job.scale_min = min_exponent(s);
  job.scale_low = job.scale_min + how.scale_minimum;
  job.scale_max = min_exponent(s) + static_cast<int>(max_code(s));
  job.promote_above = promotion_threshold(e, how.scale_rule);
}

// Runs `call(first, last, counts)` over all tiles on threads and adds up what they counted.
template <class Call>
void run_tiles(const Geometry& g, int threads_requested, Counts& counts, const Call& call) {
  const std::int64_t tiles = tile_count(g);
  if (tiles == 0) return;
  const int threads = thread_count(g.batch * g.lines * g.length, elements_per_thread, threads_requested, tiles);
  std::vector<Counts> each(static_cast<std::size_t>(threads));
  parallel_for(tiles, threads, [&](std::int64_t first, std::int64_t last, int thread) {
    call(first, last, each[static_cast<std::size_t>(thread)]);
  });
  for (const Counts& c : each) {
    counts.saturated += c.saturated;
    counts.underflowed += c.underflowed;
    counts.nonfinite += c.nonfinite;
    counts.zero_blocks += c.zero_blocks;
    counts.ties += c.ties;
    counts.inexact += c.inexact;
    counts.refused += c.refused;
  }
}

// Scales of blocks that tiles cannot hold: the largest magnitudes first, then each of them quantized as a block of
// its own, so that the rule is applied by the same code.
void compute_scales(const KernelTable& kernels, const QuantizeJob& job, const EncodeRequest& request,
                    const std::uint8_t* mask, std::int64_t block, std::int64_t blocks, bool one_scale, Counts& counts) {
  const Shape& shape = request.shape;
  AmaxJob find;
  find.input = job.input;
  find.input_type = job.input_type;
  find.narrow = job.scale_kind == ScaleKind::floating;
  find.mask_in = mask;
  // A tile of this pass lies within one block.
  const bool whole_line = block >= shape.length;
  find.geometry =
      make_geometry(shape, block, blocks, one_scale, whole_line ? 1 : largest_divisor(block, tile_capacity));
  Geometry& g = find.geometry;
  if (!whole_line) {
    g.tile_length = largest_divisor(block, std::min<std::int64_t>(tile_capacity, g.tile_length));
    g.tile_lines = std::clamp<std::int64_t>(tile_capacity / g.tile_length, 1, g.lines);
  }
  const std::int64_t tiles = tile_count(g);
  std::vector<double> partial(static_cast<std::size_t>(tiles * g.tile_lines));
  find.partial = partial.data();
  Counts ignored;
  run_tiles(g, request.threads, ignored,
            [&](std::int64_t first, std::int64_t last, Counts&) { kernels.amax(find, first, last); });

  const std::int64_t count = scale_count(request.format, shape);
  std::vector<double> largest(static_cast<std::size_t>(count), 0.0);
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const auto [batch, line0, element] = place_of_tile(g, tile);
    const std::int64_t index_block = element / g.block;
    for (std::int64_t l = 0; l < std::min(g.tile_lines, g.lines - line0); ++l) {
      const std::int64_t index =
          batch * g.scale_batch_stride + (line0 + l) * g.scale_line_stride + index_block * g.scale_step;
      double& top = largest[static_cast<std::size_t>(index)];
      top = std::max(top, partial[static_cast<std::size_t>(tile * g.tile_lines + l)]);
    }
  }

  QuantizeJob scales = job;
  scales.geometry = make_geometry({count, 1, 1}, 1, 1, false, 1);
  scales.input = largest.data();
  scales.input_type = FloatType::fp64;
  scales.wide = job.scale_kind != ScaleKind::floating;
  scales.mask_source = MaskSource::dense;
  scales.conversion.rounding = Rounding::nearest_even;  // of elements, which this pass does not make
  scales.scale_source = ScaleSource::computed;
  scales.values = nullptr;
  scales.codes = nullptr;
  scales.mask_out = nullptr;
  scales.count = false;
  Counts of_scales;
  run_tiles(scales.geometry, 1, of_scales,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels.quantize(scales, first, last, c); });
  counts.zero_blocks += of_scales.zero_blocks;
  counts.refused += of_scales.refused;
}

}  // namespace

ScaleKind scale_kind(const BlockFormat& format) {
  if (format.level_count == 0) return ScaleKind::none;
  return is_power_of_two_scale(format.levels[0].format) ? ScaleKind::power_of_two : ScaleKind::floating;
}

std::int64_t block_length(const BlockFormat& format, std::int64_t length) {
  const int along = format.level_count == 0 ? whole : format.levels[0].along;
  return std::max<std::int64_t>(1, along == whole ? length : along);
}

std::int64_t blocks_per_line(const BlockFormat& format, std::int64_t length) {
  const std::int64_t block = block_length(format, length);
  return round_up(length, block) / block;
}

std::int64_t scale_count(const BlockFormat& format, const Shape& shape) {
  if (format.level_count == 0) return 0;
  if (format.levels[0].across == whole) return 1;
  return shape.outer * blocks_per_line(format, shape.length) * shape.inner;
}

namespace {

std::string run(const SparsifyRequest& request, Counts& counts) {
  std::string error = check_sparsity(request.sparsity);
  if (error.empty() && request.sparsity.group == 0) error = "a sparsity pattern is needed, such as 2:4";
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  if (request.shape.size() == 0) return {};
  SelectJob job;
  job.input = request.input;
  job.input_type = request.input_type;
  job.by_score = request.by_score;
  job.sparsity = request.sparsity;
  job.mask_out = request.mask_out;
  job.count = request.count;
  job.geometry = make_geometry(request.shape, request.shape.length, 1, true, request.sparsity.group);
  run_tiles(job.geometry, request.threads, counts,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->select(job, first, last, c); });
  return {};
}

std::string run(const EncodeRequest& request, Counts& counts) {
  std::string error = check_format(request.format);
  if (error.empty()) error = check_conversion(request.format, request.conversion);
  if (error.empty()) error = check_sparsity(request.sparsity);
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  const Shape& shape = request.shape;
  if (shape.size() == 0) return {};
  if (request.conversion.rounding == Rounding::stochastic && !request.has_random)
    return "stochastic rounding needs random bits";
  if (request.scales_given && request.scales == nullptr) return "scales were said to be given, and none were";

  QuantizeJob job;
  job.format = request.format;
  job.conversion = request.conversion;
  job.sparsity = request.sparsity;
  job.order = request.order;
  job.scale_kind = scale_kind(request.format);
  derive(job);
  job.input = request.input;
  job.input_type = request.input_type;
  job.values = request.values;
  job.values_type = request.values_type;
  job.codes = request.codes;
  job.code_bytes = code_bytes(request.format.element);
  job.mask_in = request.mask_in;
  job.mask_out = request.mask_out;
  job.scales = request.scales;
  job.scale_source = request.scales_given ? ScaleSource::given : ScaleSource::computed;
  job.count = request.count;
  job.random = request.random;
  job.philox = request.philox;
  const bool wide_values = request.values != nullptr && request.values_type == FloatType::fp64;
  job.wide = job.scale_kind != ScaleKind::floating &&
             (request.input_type == FloatType::fp64 || wide_values || job.mantissa_bits >= 23);
  const bool sparse = request.sparsity.group != 0;
  // Decoded values are ranked as they are, also where float32 does not hold them.
  if (sparse && request.order == Order::quantize_first && job.scale_kind == ScaleKind::power_of_two) job.wide = true;
  job.mask_source = request.mask_in != nullptr ? MaskSource::given : sparse ? MaskSource::magnitude : MaskSource::dense;

  const bool scaled = job.scale_kind != ScaleKind::none;
  const bool one_scale = scaled && request.format.levels[0].across == whole;
  const std::int64_t block = block_length(request.format, shape.length);
  const std::int64_t blocks = blocks_per_line(request.format, shape.length);
  const std::int64_t group = job.mask_source == MaskSource::magnitude ? request.sparsity.group : 1;
  const bool to_compute = scaled && job.scale_source == ScaleSource::computed;

  // In one pass if a tile can hold whole blocks and whole groups; otherwise masks and scales come first.
  const std::int64_t unit = to_compute ? std::lcm(std::min(block, tile_capacity + 1), group) : group;
  // With a step between elements a tile has to be short, or memory is read a few bytes at a time.
  const std::int64_t room = shape.inner == 1 ? tile_capacity : tile_capacity / 16;
  const bool fits = std::min(block, shape.length) <= room && std::min(unit, shape.length) <= room;
  const bool scales_first = to_compute && (one_scale || !fits);
  // float64 input is ranked before float scaling rounds it to float32.
  const bool ranks_wider = job.scale_kind == ScaleKind::floating && request.input_type == FloatType::fp64;
  const bool mask_first =
      job.mask_source == MaskSource::magnitude && job.order == Order::sparsify_first && (scales_first || ranks_wider);
  std::vector<std::uint8_t> mask;
  std::vector<std::uint32_t> scales;
  if (mask_first) {
    std::uint8_t* to = request.mask_out;
    if (to == nullptr) {
      mask.resize(static_cast<std::size_t>(shape.size()));
      to = mask.data();
    }
    const SparsifyRequest select{.sparsity = request.sparsity,
                                 .shape = shape,
                                 .input = request.input,
                                 .input_type = request.input_type,
                                 .mask_out = to,
                                 .count = request.count,
                                 .threads = request.threads};
    if (error = run(select, counts); !error.empty()) return error;
    job.mask_source = MaskSource::given;
    job.mask_in = to;
    job.mask_out = nullptr;
  }
  if (scales_first) {
    if (job.scales == nullptr) {
      scales.resize(static_cast<std::size_t>(scale_count(request.format, shape)));
      job.scales = scales.data();
    }
    const bool masked = job.mask_source == MaskSource::given && job.order == Order::sparsify_first;
    compute_scales(*kernels, job, request, masked ? job.mask_in : nullptr, block, blocks, one_scale, counts);
    job.scale_source = ScaleSource::given;
  }
  // What one tile must not cut: blocks whose scale it computes, groups whose mask it chooses.
  const std::int64_t uncut_block = to_compute && !scales_first ? std::min(block, shape.length) : 1;
  const std::int64_t uncut_group = job.mask_source == MaskSource::magnitude ? group : 1;
  const std::int64_t align = std::lcm(uncut_block, uncut_group);
  job.geometry = make_geometry(shape, scaled ? block : shape.length, blocks, one_scale, align);
  run_tiles(job.geometry, request.threads, counts,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->quantize(job, first, last, c); });
  return {};
}

std::string run(const DecodeRequest& request, Counts& counts) {
  std::string error = check_format(request.format);
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  if (request.shape.size() == 0) return {};
  if (scale_kind(request.format) != ScaleKind::none && request.scales == nullptr)
    return "this format has scales, and none were given";
  DecodeJob job;
  job.format = request.format;
  job.element = request.format.element;
  job.scale_kind = scale_kind(request.format);
  job.codes = request.codes;
  job.code_bytes = code_bytes(request.format.element);
  job.scales = request.scales;
  job.values = request.values;
  job.values_type = request.values_type;
  const std::int64_t length = request.shape.length;
  bool one_scale = false;
  if (job.scale_kind != ScaleKind::none) {
    const ScaleLevel& level = request.format.levels[0];
    job.scale_bytes = code_bytes(level.format);
    job.short_scale = is_short_float_scale(level.format);
    job.scale_format = level.format;
    job.scale_min = min_exponent(level.format);
    job.scale_nan = has_nan(level.format);
    job.scale_nan_code = job.scale_nan ? nan_code(level.format) : 0;
    one_scale = level.across == whole;
  }
  job.geometry = make_geometry(request.shape, block_length(request.format, length),
                               blocks_per_line(request.format, length), one_scale, 1);
  run_tiles(job.geometry, request.threads, counts,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->decode(job, first, last, c); });
  return {};
}

}  // namespace

std::string encode(const EncodeRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

std::string decode(const DecodeRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

std::string sparsify(const SparsifyRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

}  // namespace sparq::ops
