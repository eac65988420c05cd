#include "encode.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "../describe.h"
#include "../dispatch.h"
#include "geometry.h"
#include "guard.h"
#include "parallel.h"

namespace sparq::ops {
namespace {

// Below about a million elements a second thread costs more than it brings.
constexpr std::int64_t elements_per_thread = std::int64_t{1} << 20;

// What amax is divided by (docs/numerics.md sections 3 and 4).
float divisor_of(const ElementFormat& element, const Conversion& how) {
  if (how.divisor != 0) return how.divisor;
  const Magnitude top = magnitude_of(element, max_code(element));
  return std::ldexp(static_cast<float>(top.significand), top.exponent);
}

// The 52-bit fraction above which the exponent is promoted (docs/numerics.md section 3).
std::uint64_t promotion_threshold(const ElementFormat& element, const Conversion& how) {
  constexpr std::uint64_t one = std::uint64_t{1} << 52;
  switch (how.scale_rule) {
    case ScaleRule::ceil: return 0;
    case ScaleRule::rceil: {
      int exponent = 0;
      return static_cast<std::uint64_t>(std::ldexp(std::frexp(divisor_of(element, how), &exponent), 53)) - one;
    }
    case ScaleRule::even:
      return one - (one >> ((how.even_bits < 0 ? top_fraction_bits(element) : how.even_bits) + 1)) - 1;
    case ScaleRule::nearest: return one / 2 - 1;
    case ScaleRule::floor:
    case ScaleRule::fit:
    case ScaleRule::mse:
    case ScaleRule::mae:
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
  job.negative_zero = has_negative_zero(e) && how.signed_zero != SignedZero::drop;
  job.prepare = {how.preround == Prerounding::bf16, how.preround == Prerounding::bf16_toward_zero,
                 how.input_subnormals == Subnormals::flush, how.signed_zero == SignedZero::underflow,
                 how.nonfinite == NonFinite::largest};
  job.skip_nonfinite = how.nonfinite == NonFinite::keep || how.nonfinite == NonFinite::ignore;
  job.flush_elements = how.subnormals == Subnormals::flush;
  job.full_range = how.integer_range == IntegerRange::full;
  const bool special = how.overflow == Overflow::special && !keeps_finite(how.rounding);
  job.overflow_is_infinity = special && has_infinity(e);
  job.overflow_is_nan = special && !has_infinity(e);
  job.overflow_code = job.overflow_is_infinity ? job.infinity_code : job.overflow_is_nan ? job.nan_code : job.max_code;
  job.chance_bits = how.random_bits + (how.stochastic == Stochastic::b ? 1 : 0);
}

// What the kernels need to know of the scales of the main level.
void derive_scale(QuantizeJob& job) {
  const BlockFormat& format = job.format;
  job.levels = format.level_count;
  if (job.scale_kind == ScaleKind::none) return;
  const Conversion& how = job.conversion;
  const ElementFormat& e = format.element;
  const ElementFormat& s = main_scale(format).format;
  job.main = main_level(format);
  job.reach = reach_inside(format, job.main);
  for (int i = job.main + 1; i < job.levels; ++i) {
    const ScaleLevel& level = format.levels[static_cast<std::size_t>(i)];
    job.shift_range += highest_shift(level) - lowest_shift(level);
  }
  job.scale_nan = has_nan(s);
  job.scale_nan_code = has_nan(s) ? nan_code(s) : 0;
  job.short_scale = is_short_float_scale(s);
  job.scale_format = s;
  job.scale_divisor = std::ldexp(divisor_of(e, how), job.reach);
  job.scale_shift = max_exponent(e) + job.reach;
  job.align_top = max_exponent(e);
  if (how.scale_rule == ScaleRule::rceil) job.scale_shift = std::ilogb(divisor_of(e, how)) + job.reach;
  job.scale_min = min_exponent(s);
  job.scale_low = job.scale_min + how.scale_minimum;
  job.scale_max = min_exponent(s) + static_cast<int>(max_code(s));
  job.zero_exponent = how.zero_scale < 0 ? job.scale_low : job.scale_min + how.zero_scale;
  job.zero_code = how.zero_scale < 0 ? 0 : static_cast<std::uint32_t>(how.zero_scale);
  job.promote_above = promotion_threshold(e, how);
}

// The same for the level above the main one: its largest scale times the largest element is amax.
void derive_outer_scale(QuantizeJob& job) {
  const Magnitude top = magnitude_of(job.scale_format, max_code(job.scale_format));
  job.outer_divisor = std::ldexp(static_cast<float>(top.significand), top.exponent);
  job.scale_divisor *= job.outer_divisor;
  job.scale_format = job.format.levels[0].format;
  job.format.levels[0].across = whole;
  job.format.level_count = job.levels = 1;
  job.main = 0;
  job.conversion.zero_scale = -1;
  job.conversion.scale_rule = ScaleRule::amax;
  job.scale_nan = true;
  job.short_scale = false;
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

// Scales of one level from the largest magnitudes of its blocks: each is quantized as a block of its own, so that the
// rule is applied by the same code.
void scales_from(const KernelTable& kernels, const QuantizeJob& tensor, const Shape& shape, int level,
                 const std::vector<double>& largest, Counts& counts) {
  QuantizeJob job = tensor;
  const ScaleLevel& of = tensor.format.levels[static_cast<std::size_t>(level)];
  const ScaleLevel single{of.format, 1, 1, of.combine};
  const bool one = of.across == whole;
  const Shape grid =
      one ? Shape{1, 1, 1} : Shape{scale_lines(of, shape), blocks_per_line(of, shape.length), shape.inner};
  void* to = tensor.planes[static_cast<std::size_t>(level)].data;
  if (level < tensor.main) {
    derive_outer_scale(job);
    job.planes = {make_plane(single, grid, to, false)};
  } else {
    job.format.level_count = job.levels = tensor.main + 1;
    if (tensor.main > 0) job.planes[0] = make_plane(tensor.format.levels[0], grid, tensor.planes[0].data, true);
    job.planes[static_cast<std::size_t>(level)] = make_plane(single, grid, to, false);
  }
  job.geometry = make_geometry(grid, 1, 1);
  job.input = largest.data();
  job.input_type = FloatType::fp64;
  job.wide = job.scale_kind != ScaleKind::floating;
  job.mask_source = MaskSource::dense;
  job.prepare = {};                                  // which the first pass did
  job.conversion.rounding = Rounding::nearest_even;  // of elements, which this pass does not make
  job.values = nullptr;
  job.codes = nullptr;
  job.mask_out = nullptr;
  job.count = false;
  Counts of_scales;
  run_tiles(job.geometry, 1, of_scales,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels.quantize(job, first, last, c); });
  if (level == tensor.main) counts.zero_blocks += of_scales.zero_blocks;
  counts.refused += of_scales.refused;
}

// The scales of the levels from `first` to the main one that are not given, by passes over the whole tensor.
void compute_scales(const KernelTable& kernels, QuantizeJob& job, const EncodeRequest& request,
                    const std::uint8_t* mask, int last_level, Counts& counts) {
  const Shape& shape = request.shape;
  // The smallest block that is wanted, cut so that tiles hold whole cells.
  std::int64_t block = shape.length;
  for (int level = 0; level <= last_level; ++level)
    if (!job.planes[static_cast<std::size_t>(level)].given)
      block = std::min(block, job.planes[static_cast<std::size_t>(level)].along);
  AmaxJob find;
  find.input = job.input;
  find.input_type = job.input_type;
  find.narrow = job.scale_kind == ScaleKind::floating;
  find.mask_in = mask;
  find.prepare = job.prepare;
  find.skip_nonfinite = job.skip_nonfinite;
  find.cell = block >= shape.length ? std::min(shape.length, tile_capacity / 2) : largest_divisor(block, tile_capacity);
  find.geometry = make_geometry(shape, block, find.cell);
  find.cells = round_up(shape.length, find.cell) / find.cell;
  const Geometry& g = find.geometry;
  std::vector<double> cells(static_cast<std::size_t>(g.batch * g.lines * find.cells));
  find.largest = cells.data();
  Counts ignored;
  run_tiles(g, request.threads, ignored,
            [&](std::int64_t first, std::int64_t last, Counts&) { kernels.amax(find, first, last); });

  for (int level = 0; level <= last_level; ++level) {
    ScalePlane& plane = job.planes[static_cast<std::size_t>(level)];
    if (plane.given) continue;
    const std::int64_t count = scale_count(job.format.levels[static_cast<std::size_t>(level)], shape);
    std::vector<double> largest(static_cast<std::size_t>(count), 0.0);
    for (std::int64_t batch = 0, at = 0; batch < g.batch; ++batch)
      for (std::int64_t line = 0; line < g.lines; ++line)
        for (std::int64_t cell = 0; cell < find.cells; ++cell, ++at) {
          double& top = largest[static_cast<std::size_t>(scale_index(plane, batch, line, cell * find.cell))];
          top = std::max(top, cells[static_cast<std::size_t>(at)]);
        }
    scales_from(kernels, job, shape, level, largest, counts);
    plane.given = true;
  }
}

}  // namespace

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
  if (request.order == Order::quantize_first && (policy == NonFinite::keep || policy == NonFinite::ignore))
    return "order='quantize_first' ranks decoded values, and under nonfinite='keep' or 'ignore' a NaN among them may "
           "be "
           "an element's or a block's: use sparsify_first";

  QuantizeJob job;
  job.format = request.format;
  job.conversion = request.conversion;
  job.sparsity = request.sparsity;
  job.order = request.order;
  job.scale_kind = scale_kind(request.format);
  derive(job);
  derive_scale(job);
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
              job.conversion.align_bits > 0 || searches(job.conversion.scale_rule));  // which need room
  const bool sparse = request.sparsity.group != 0;
  // Decoded values are ranked as they are, also where float32 does not hold them.
  if (sparse && request.order == Order::quantize_first && job.scale_kind == ScaleKind::power_of_two) job.wide = true;
  job.mask_source = request.mask_in != nullptr ? MaskSource::given : sparse ? MaskSource::magnitude : MaskSource::dense;

  const bool scaled = job.scale_kind != ScaleKind::none;
  for (std::size_t i = 0; i < static_cast<std::size_t>(job.levels); ++i)
    job.planes[i] = make_plane(request.format.levels[i], shape, request.scales[i].data, request.scales[i].given);
  ScalePlane& main = job.planes[static_cast<std::size_t>(job.main)];
  const std::int64_t block = scaled ? std::min(main.along, std::max<std::int64_t>(1, shape.length)) : shape.length;
  const std::int64_t group = job.mask_source == MaskSource::magnitude ? request.sparsity.group : 1;
  const bool to_compute = scaled && !main.given;

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
  if (main_first && (rule == ScaleRule::fit || searches(rule)))
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
    const int last_level = main_first ? job.main : job.main - 1;
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
  std::string error = check_format(request.format);
  const KernelTable* kernels = error.empty() ? active_table(error) : nullptr;
  if (!error.empty()) return error;
  if (request.shape.size() == 0) return {};
  if (error = check_scales(request.format, request.shape, request.scales, true); !error.empty()) return error;
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
