#include "scales.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sparq::ops {
namespace {

// What amax is divided by (docs/numerics.md sections 3 and 4).
float divisor_of(const ElementFormat& element, const Conversion& how) {
  if (how.divisor != 0) return how.divisor;
  Magnitude top = magnitude_of(element, max_code(element));
  if (how.scale_rule == ScaleRule::signed_max) ++top.significand;  // the lowest integer
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
    case ScaleRule::amax:
    case ScaleRule::signed_max: break;
  }
  return one;
}

// What amax is multiplied by, where the divisor is applied so.
void derive_reciprocal(QuantizeJob& job) {
  job.scale_reciprocal = 0;
  if (job.conversion.divisor_apply == DivisorApply::divide) return;
  const float once = 1 / job.scale_divisor;
  job.scale_reciprocal = job.conversion.scale_compute == ScaleCompute::bf16 ? as_bf16(once) : once;
}

}  // namespace

// Section 3 under amax_exponent=log2, as a table of thresholds: for each exponent of amax the least fraction whose
// float32 logarithm makes the rule take one more. Logarithms of float32 numbers keep farther from what rounding
// decides than float64 errs.
std::vector<std::uint64_t> log2_promotions(const QuantizeJob& job) {
  const ScaleRule rule = job.conversion.scale_rule;
  const float divisor = rule == ScaleRule::rceil ? divisor_of(job.format.element, job.conversion) : 1;
  const int of_divisor = std::ilogb(divisor);
  std::vector<std::uint64_t> thresholds;
  for (int exponent = -149; exponent < 128; ++exponent) {
    const auto promotes = [&](std::uint32_t fraction) {
      const auto amax = static_cast<float>(std::ldexp(1 + fraction * 0x1p-23, exponent));
      const auto logarithm = static_cast<float>(std::log2(static_cast<double>(amax / divisor)));
      const float whole =
          rule == ScaleRule::ceil || rule == ScaleRule::rceil ? std::ceil(logarithm) : std::floor(logarithm);
      return whole > static_cast<float>(exponent - of_divisor);
    };
    std::uint32_t least = std::uint32_t{1} << 23, below = 0;  // never; nothing promotes a fraction of zero
    while (least - below > 1) {
      const std::uint32_t middle = below + (least - below) / 2;
      (promotes(middle) ? least : below) = middle;
    }
    thresholds.push_back((std::uint64_t{least} << 29) - 1);
  }
  return thresholds;
}

// The same of elements that are cut: where RN32(log2 v) is the next integer.
std::vector<std::uint64_t> element_promotions(const QuantizeJob& job) {
  std::vector<std::uint64_t> thresholds;
  for (int exponent = job.min_exponent; exponent <= job.top_exponent + job.mantissa_bits + 1; ++exponent) {
    const auto promotes = [&](std::uint32_t fraction) {
      const double logarithm = std::log2(std::ldexp(1 + fraction * 0x1p-23, exponent));
      return static_cast<float>(logarithm) >= static_cast<float>(exponent + 1);
    };
    std::uint32_t least = std::uint32_t{1} << 23, below = 0;
    while (least - below > 1) {
      const std::uint32_t middle = below + (least - below) / 2;
      (promotes(middle) ? least : below) = middle;
    }
    thresholds.push_back((std::uint64_t{least} << 29) - 1);
  }
  return thresholds;
}

namespace {

// The least number of float32 whose quotient by the divisor does not round to zero.
float least_with_quotient(float divisor) {
  std::uint32_t zero = 0, some = 0x7F7FFFFF;  // as bits
  while (some - zero > 1) {
    const std::uint32_t middle = zero + (some - zero) / 2;
    (std::bit_cast<float>(middle) / divisor == 0 ? zero : some) = middle;
  }
  return std::bit_cast<float>(some);
}

}  // namespace

void derive(QuantizeJob& job) {
  const ElementFormat e = rounded_element(job.format);
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
  job.code_mask = magnitude_mask(job.format.element) | sign_bit(job.format.element);
  job.twos_complement = e.signedness == Signedness::twos_complement;
  job.negative_zero = has_negative_zero(e) && how.signed_zero != SignedZero::drop;
  job.prepare = {.to_fp32 = how.amax_exponent == AmaxExponent::log2 || how.element_exponent == ElementExponent::log2 ||
                            how.half_sum == HalfSum::fp32,
                 .to_bf16 = how.preround == Prerounding::bf16,
                 .cut_to_bf16 = how.preround == Prerounding::bf16_toward_zero,
                 .flush = how.input_subnormals == Subnormals::flush,
                 .no_negative_zero = how.signed_zero == SignedZero::underflow,
                 .negative_zero = how.signed_zero == SignedZero::negative,
                 .to_largest = how.nonfinite == NonFinite::largest,
                 .to_zero = how.nonfinite == NonFinite::zero,
                 .infinite_to_largest = how.infinite == Infinite::largest,
                 .nan_to_infinity = how.nonfinite == NonFinite::saturate};
  job.infinite_is_top = how.infinite == Infinite::top;
  job.infinite_counts = how.infinite == Infinite::beyond || job.infinite_is_top;
  job.nan_counts = how.nan_scale == NanScale::least;
  job.zeros_blocks = how.nonfinite == NonFinite::zero_block;
  job.skip_nonfinite =
      how.nonfinite == NonFinite::keep || how.nonfinite == NonFinite::ignore || how.nonfinite == NonFinite::saturate;
  job.adds_halves = how.half_sum == HalfSum::fp32;
  job.adjusts = job.adds_halves || how.element_exponent == ElementExponent::log2;
  job.flush_elements = how.subnormals == Subnormals::flush;
  job.zero_points = has_zero_points(job.format);
  job.highest_integer = static_cast<int>(max_code(job.format.element));
  job.lowest_integer = -job.highest_integer - 1;
  job.unit_exponent = unit_exponent(job.format.element);
  job.full_range = how.integer_range == IntegerRange::full && !job.zero_points;  // which have it anyway
  const bool special = how.overflow == Overflow::special && !keeps_finite(how.rounding);
  job.overflow_is_infinity = special && has_infinity(e);
  job.overflow_is_nan = special && !has_infinity(e);
  job.overflow_code = job.overflow_is_infinity ? job.infinity_code : job.overflow_is_nan ? job.nan_code : job.max_code;
  job.chance_bits = how.random_bits + (how.stochastic == Stochastic::b ? 1 : 0);
  job.taper = {};
  if (e.taper == 0) return;
  job.taper.first_size = 1 << e.taper;
  for (std::size_t i = 0; i < job.taper.offsets.size(); ++i) {
    const int exponent = std::min(job.min_exponent + static_cast<int>(i), max_exponent(e) + 1);
    job.taper.offsets[i] = first_code_of_binade(e, exponent) - (std::uint32_t{1} << mantissa_bits_at(e, exponent));
    // Beyond the largest binade every code is too large.
    if (job.min_exponent + static_cast<int>(i) > exponent) job.taper.offsets[i] += magnitude_mask(e);
  }
  for (std::uint32_t code = 0; code <= magnitude_mask(e); ++code)
    job.taper.in_memory[code] = static_cast<std::uint8_t>(code_in_memory(e, code));
}

void derive_scale(QuantizeJob& job) {
  const BlockFormat& format = job.format;
  job.levels = scaling_levels(format);
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
  if (job.short_scale) {
    const Magnitude top = magnitude_of(s, max_code(s));
    job.largest_scale = std::ldexp(static_cast<float>(top.significand), top.exponent);
  }
  job.scale_format = s;
  job.scale_divisor = std::ldexp(divisor_of(e, how), job.reach);
  if (job.zero_points)  // the steps between the lowest and the highest code
    job.scale_divisor = std::ldexp(static_cast<float>(job.highest_integer - job.lowest_integer), job.unit_exponent);
  job.scale_shift = max_exponent(e) + job.reach;
  job.align_top = max_exponent(e);
  if (uses_divisor(how.scale_rule)) job.scale_shift = std::ilogb(divisor_of(e, how)) + job.reach;
  job.scale_min = min_exponent(s);
  job.scale_low = job.scale_min + how.scale_minimum;
  job.scale_max = min_exponent(s) + static_cast<int>(max_code(s));
  job.overflow_poisons = how.scale_overflow != ScaleOverflow::clamp;
  const bool of_amax = how.scale_overflow == ScaleOverflow::nan_amax;
  const int highest = 127 - job.scale_shift;
  const bool looks_at_amax = how.scale_rule == ScaleRule::even || of_amax;
  job.poison_above = looks_at_amax ? std::min(job.scale_max, highest) : job.scale_max;
  job.look_from = std::ldexp(1.0F, std::clamp(job.poison_above + job.scale_shift, -126, 127));
  job.poisons_lowest = of_amax && how.scale_rule == ScaleRule::fit && job.full_range && job.poison_above == highest;
  if (how.scale_underflow == ScaleUnderflow::nan) job.poison_below = least_with_quotient(divisor_of(e, how));
  job.shifts_least = how.least_scale != LeastScale::exact;
  job.least_exponent = how.least_scale == LeastScale::next ? job.scale_min + 1 : 0;
  job.zero_exponent = how.zero_scale < 0 ? job.scale_low : job.scale_min + how.zero_scale;
  // Nothing is divided by zero; under by_quotient nothing is divided by what is stored.
  job.by_quotient = how.divide_by == DivideBy::quotient;
  const bool needs_number = s.zero && !job.by_quotient && !writes_zero(how.scale_underflow);
  job.least_code = static_cast<std::uint32_t>(std::max(how.scale_minimum, needs_number ? 1 : 0));
  job.zero_code = how.zero_scale < 0 ? job.least_code : static_cast<std::uint32_t>(how.zero_scale);
  job.underflow_code = how.scale_underflow == ScaleUnderflow::zero_scale ? job.zero_code : job.least_code;
  job.encode_scale = job.main > 0 && is_encode_scale(format.levels[0]);
  job.in_float64 = job.main > 0 && format.levels[0].combine == Combine::divide_top;
  job.multiplies_directly =
      how.scale_apply == ScaleApply::outer_reciprocal || (job.in_float64 && how.scale_apply == ScaleApply::reciprocal);
  derive_reciprocal(job);
  job.promote_above = promotion_threshold(e, how);
}

namespace {

// The same for the level above the main one: its largest scale times the largest element is amax, or the element alone.
void derive_outer_scale(QuantizeJob& job) {
  job.outer_divisor = job.format.levels[0].combine == Combine::divide_top ? 1 : job.largest_scale;
  job.scale_divisor *= job.outer_divisor;
  job.makes_outer = true;
  job.in_float64 = job.multiplies_directly = false;
  job.conversion.divisor_apply =
      job.conversion.outer_apply == OuterApply::reciprocal ? DivisorApply::reciprocal : DivisorApply::divide;
  derive_reciprocal(job);
  job.scale_format = job.format.levels[0].format;
  job.format.levels[0].across = whole;
  job.format.level_count = job.levels = 1;
  job.main = 0;
  job.conversion.zero_scale = -1;
  job.conversion.scale_rule = ScaleRule::amax;
  job.scale_nan = true;
  job.short_scale = false;
}

// A job over what the first pass found, as float64, which makes no elements.
void only_scales(QuantizeJob& job) {
  job.input_type = FloatType::fp64;
  job.wide = job.scale_kind != ScaleKind::floating;
  job.mask_source = MaskSource::dense;
  job.prepare = {};                                  // which the first pass did
  job.conversion.rounding = Rounding::nearest_even;  // of elements
  job.values = nullptr;
  job.codes = nullptr;
  job.mask_out = nullptr;
  job.count = false;
}

// Quantizes `numbers`, which stand for blocks, in blocks of `along`, for their scales alone.
void run_for_scales(const KernelTable& kernels, QuantizeJob& job, const Shape& grid, int along,
                    const std::vector<double>& numbers, bool of_blocks, Counts& counts) {
  job.geometry = make_geometry(grid, along, along);
  job.input = numbers.data();
  only_scales(job);
  Counts of_scales;
  run_tiles(job.geometry, 1, of_scales,
            [&](std::int64_t first, std::int64_t last, Counts& c) { kernels.quantize(job, first, last, c); });
  if (of_blocks) counts.zero_blocks += of_scales.zero_blocks;
  counts.refused += of_scales.refused;
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
  run_for_scales(kernels, job, grid, 1, largest, level == tensor.main, counts);
}

// Scales and zero points from the extremes of their blocks: each pair of them is quantized as a block of two.
void zero_points_from(const KernelTable& kernels, const QuantizeJob& tensor, const Shape& shape,
                      const std::vector<double>& least, const std::vector<double>& largest, Counts& counts) {
  QuantizeJob job = tensor;
  const ScaleLevel& of = main_scale(tensor.format);
  const bool one = of.across == whole;
  const std::int64_t inner = one ? 1 : shape.inner;
  const Shape grid =
      one ? Shape{1, 2, 1} : Shape{scale_lines(of, shape), 2 * blocks_per_line(of, shape.length), shape.inner};
  std::vector<double> pairs(2 * largest.size());
  for (std::size_t i = 0; i < largest.size(); ++i) {
    const std::size_t step = static_cast<std::size_t>(inner), at = i / step * 2 * step + i % step;
    pairs[at] = least[i];
    pairs[at + step] = largest[i];
  }
  for (std::size_t i = 0; i < 2; ++i) {
    const ScaleLevel& level = tensor.format.levels[i];
    job.planes[i] =
        make_plane({level.format, 2, 1, level.combine}, grid, tensor.planes[i].data, tensor.planes[i].given);
  }
  run_for_scales(kernels, job, grid, 2, pairs, true, counts);
}

}  // namespace

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
  std::vector<double> least_of_cells(job.zero_points ? cells.size() : 0);
  if (job.zero_points) find.least = least_of_cells.data();
  Counts ignored;
  run_tiles(g, request.threads, ignored,
            [&](std::int64_t first, std::int64_t last, Counts&) { kernels.amax(find, first, last); });

  // The values of cells that lie under one scale, as one.
  const auto gathered = [&](const ScalePlane& plane, std::int64_t count, const std::vector<double>& of, auto better) {
    std::vector<double> best(static_cast<std::size_t>(count), 0.0);
    for (std::int64_t batch = 0, at = 0; batch < g.batch; ++batch)
      for (std::int64_t line = 0; line < g.lines; ++line)
        for (std::int64_t cell = 0; cell < find.cells; ++cell, ++at) {
          double& one = best[static_cast<std::size_t>(scale_index(plane, batch, line, cell * find.cell))];
          one = better(one, of[static_cast<std::size_t>(at)]);
        }
    return best;
  };
  const auto larger = [](double a, double b) { return b <= a || std::isnan(a) ? a : b; };  // NaN stays
  const auto smaller = [](double a, double b) { return std::min(a, b); };
  if (job.zero_points) {
    const std::int64_t count = scale_count(main_scale(job.format), shape);
    zero_points_from(kernels, job, shape, gathered(job.planes[0], count, least_of_cells, smaller),
                     gathered(job.planes[0], count, cells, larger), counts);
    job.planes[0].given = job.planes[1].given = true;
    return;
  }
  for (int level = 0; level <= last_level; ++level) {
    ScalePlane& plane = job.planes[static_cast<std::size_t>(level)];
    if (plane.given) continue;
    const std::int64_t count = scale_count(job.format.levels[static_cast<std::size_t>(level)], shape);
    scales_from(kernels, job, shape, level, gathered(plane, count, cells, larger), counts);
    plane.given = true;
  }
}

}  // namespace sparq::ops
