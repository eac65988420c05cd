#include "encode.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "../describe.h"
#include "../dispatch.h"
#include "geometry.h"
#include "guard.h"
#include "parallel.h"
#include "scales.h"

namespace sparq::ops {

ScaleKind scale_kind(const BlockFormat& format) {
  if (format.level_count == 0) return ScaleKind::none;
  return is_power_of_two_scale(main_scale(format).format) ? ScaleKind::power_of_two : ScaleKind::floating;
}

namespace {

// Whether blocks can lie as the format says, and scales are there where they are read.
std::string check_scales(const BlockFormat& format, const Shape& shape, const Scales& scales, bool all_given) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(format.level_count); ++i) {
    if ((all_given || scales[i].given) && scales[i].data == nullptr)
      return "scales were said to be given, and none were";
    if (format.levels[i].across > 1 && (shape.inner != 1 || shape.rows < 1 || shape.outer % shape.rows != 0))
      return "blocks that span lines need the reduction axis last, and the number of neighbouring lines";
  }
  return {};
}

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
  job.geometry = make_geometry(request.shape, request.shape.length, request.sparsity.group);
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
  if (error = check_scales(request.format, shape, request.scales, false); !error.empty()) return error;
  const NonFinite policy = request.conversion.nonfinite;
  const bool least = request.conversion.nan_scale == NanScale::least;
  if (request.order == Order::quantize_first && (policy == NonFinite::keep || policy == NonFinite::ignore || least))
    return "order='quantize_first' ranks decoded values, and under nonfinite='keep' or 'ignore', or nan_scale='least', "
           "a NaN among them may be an element's or a block's: use sparsify_first";

  const bool sparse_last =
      request.order == Order::quantize_first && (request.mask_in != nullptr || request.sparsity.group != 0);
  if (sparse_last && scale_kind(request.format) == ScaleKind::floating &&
      is_signed(main_scale(request.format).format) && !is_float32(main_scale(request.format).format))
    return "order='quantize_first' leaves zeros, which under a negative scale are not +0: use sparsify_first";

  QuantizeJob job;
  job.format = request.format;
  job.conversion = request.conversion;
  job.sparsity = request.sparsity;
  job.order = request.order;
  job.scale_kind = scale_kind(request.format);
  derive(job);
  derive_scale(job);
  std::vector<std::uint64_t> promotions, of_elements;
  if (request.conversion.amax_exponent == AmaxExponent::log2) {
    promotions = log2_promotions(job);
    job.promote_by_exponent = promotions.data();
  }
  if (request.conversion.element_exponent == ElementExponent::log2) {
    of_elements = element_promotions(job);
    job.promote_elements = of_elements.data();
  }
  job.input = request.input;
  job.input_type = request.input_type;
  job.values = request.values;
  job.values_type = request.values_type;
  job.codes = request.codes;
  job.code_bytes = code_bytes(request.format.element);
  job.mask_in = request.mask_in;
  job.mask_out = request.mask_out;
  job.count = request.count;
  job.random = request.random;
  job.philox = request.philox;
  const bool wide_values = request.values != nullptr && request.values_type == FloatType::fp64;
  job.wide = job.scale_kind != ScaleKind::floating &&
             (request.input_type == FloatType::fp64 || wide_values || job.mantissa_bits >= 23 ||
              job.conversion.align_bits > 0 || job.promote_elements != nullptr ||
              searches(job.conversion.scale_rule));  // which need room
  const bool sparse = request.sparsity.group != 0;
  // Decoded values are ranked as they are, also where float32 does not hold them.
  if (sparse && request.order == Order::quantize_first && job.scale_kind == ScaleKind::power_of_two) job.wide = true;
  job.mask_source = request.mask_in != nullptr ? MaskSource::given : sparse ? MaskSource::magnitude : MaskSource::dense;

  const bool scaled = job.scale_kind != ScaleKind::none;
  for (std::size_t i = 0; i < static_cast<std::size_t>(request.format.level_count); ++i)
    job.planes[i] = make_plane(request.format.levels[i], shape, request.scales[i].data, request.scales[i].given);
  ScalePlane& main = job.planes[static_cast<std::size_t>(job.main)];
  const std::int64_t block = scaled ? std::min(main.along, std::max<std::int64_t>(1, shape.length)) : shape.length;
  const std::int64_t group = job.mask_source == MaskSource::magnitude ? request.sparsity.group : 1;
  const bool all_given = main.given && (!job.zero_points || job.planes[static_cast<std::size_t>(job.main + 1)].given);
  const bool to_compute = scaled && !all_given;

  // In one pass if a tile can hold whole blocks and whole groups; otherwise masks and scales come first.
  const std::int64_t unit = to_compute ? std::lcm(std::min(block, tile_capacity + 1), group) : group;
  // With a step between elements a tile has to be short, or memory is read a few bytes at a time.
  const std::int64_t room = shape.inner == 1 ? tile_capacity : tile_capacity / 16;
  const bool fits = std::min(block, shape.length) <= room && std::min(unit, shape.length) <= room;
  const bool spans_lines = scaled && main_scale(request.format).across != 1;
  const bool main_first = to_compute && (spans_lines || !fits);
  const bool outer_first = job.main > 0 && !job.planes[0].given;
  const bool scales_first = main_first || outer_first;
  const ScaleRule rule = request.conversion.scale_rule;
  if (main_first && job.by_quotient)
    return "divide_by='quotient' needs blocks that lie in one line and are at most " + std::to_string(room) +
           " elements long";
  if (main.given && (job.nan_counts || job.zeros_blocks))
    return std::string(job.nan_counts ? "nan_scale='least'" : "nonfinite='zero_block'") +
           " chooses scales, and these were given";
  if (main_first && (job.nan_counts || job.zeros_blocks))
    return std::string(job.nan_counts ? "nan_scale='least'" : "nonfinite='zero_block'") +
           " says what NaN makes of a whole block, which therefore has to lie in one line and be at most " +
           std::to_string(room) + " elements long";
  if (main_first && (rule == ScaleRule::fit || rule == ScaleRule::signed_max || searches(rule)))
    return "scale_rule='" + std::string(word_of(rule)) +
           "' looks at all elements of a block, which therefore has to lie in one line and be at most " +
           std::to_string(room) + " elements long";
  // float64 input is ranked before float scaling rounds it to float32.
  const bool ranks_wider = job.scale_kind == ScaleKind::floating && request.input_type == FloatType::fp64;
  const bool mask_first =
      job.mask_source == MaskSource::magnitude && job.order == Order::sparsify_first && (scales_first || ranks_wider);
  std::vector<std::uint8_t> mask;
  std::array<std::vector<std::uint32_t>, max_levels> own_scales;
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
    const int last_level = !main_first ? job.main - 1 : job.main + (job.zero_points ? 1 : 0);
    for (int level = 0; level <= last_level; ++level) {
      ScalePlane& plane = job.planes[static_cast<std::size_t>(level)];
      if (plane.data != nullptr) continue;
      std::vector<std::uint32_t>& own = own_scales[static_cast<std::size_t>(level)];
      own.resize(static_cast<std::size_t>(scale_count(request.format.levels[static_cast<std::size_t>(level)], shape)));
      plane.data = own.data();
    }
    const bool masked = job.mask_source == MaskSource::given && job.order == Order::sparsify_first;
    compute_scales(*kernels, job, request, masked ? job.mask_in : nullptr, last_level, counts);
  }
  // What one tile must not cut: blocks whose scales it computes, groups whose mask it chooses.
  std::int64_t uncut_block = to_compute && !main_first ? std::min(block, shape.length) : 1;
  for (int level = job.main + 1; level < job.levels; ++level)
    uncut_block = std::lcm(uncut_block, job.planes[static_cast<std::size_t>(level)].along);
  const std::int64_t uncut_group = job.mask_source == MaskSource::magnitude ? group : 1;
  const std::int64_t align = std::lcm(uncut_block, uncut_group);
  job.geometry = make_geometry(shape, block, align);
  run_tiles(job.geometry, request.threads, counts,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->quantize(job, first, last, c); });
  return {};
}

std::string run(const DecodeRequest& request, Counts& counts) {
  std::string error = check_decode(request);
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  if (request.shape.size() == 0) return {};
  const DecodeJob job = decode_job(request);
  run_tiles(job.geometry, request.threads, counts,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels->decode(job, first, last, c); });
  return {};
}

}  // namespace

std::string encode(const EncodeRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

std::string check_decode(const DecodeRequest& request) {
  if (std::string error = check_format(request.format); !error.empty()) return error;
  if (request.shape.size() == 0) return {};
  return check_scales(request.format, request.shape, request.scales, true);
}

DecodeJob decode_job(const DecodeRequest& request) {
  DecodeJob job;
  job.format = request.format;
  job.scale_kind = scale_kind(request.format);
  job.codes = request.codes;
  job.code_bytes = code_bytes(request.format.element);
  job.values = request.values;
  job.values_type = request.values_type;
  std::int64_t block = request.shape.length;
  for (std::size_t i = 0; i < static_cast<std::size_t>(job.format.level_count); ++i) {
    job.planes[i] = make_plane(job.format.levels[i], request.shape, request.scales[i].data, true);
    block = std::min(block, job.planes[i].along);
  }
  job.geometry = make_geometry(request.shape, block, 1);
  return job;
}

std::string decode(const DecodeRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

std::string sparsify(const SparsifyRequest& request, Counts& counts) {
  return guarded([&] { return run(request, counts); });
}

}  // namespace sparq::ops
