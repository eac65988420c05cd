// What the records may say: every refusal of a combination, with its reason.
#include <cmath>

#include "../describe.h"
#include "encode.h"

namespace sparq::ops {

std::string check_element(const ElementFormat& f) {
  const std::string it = brief(f);
  if (f.exponent_bits < 0 || f.exponent_bits > 8) return "exponent_bits must be 0 to 8: " + it;
  if (f.mantissa_bits < 0 || f.mantissa_bits > 23) return "mantissa_bits must be 0 to 23: " + it;
  if (f.exponent_bits + f.mantissa_bits < 1) return "an element needs at least one magnitude bit: " + it;
  if (f.bias < -256 || f.bias > 256) return "bias must be -256 to 256: " + it;
  if (!f.zero) return "an element needs a zero; zero=False is for scales: " + it;
  if (f.signedness == Signedness::twos_complement && (f.exponent_bits != 0 || f.specials != Specials::finite))
    return "two's complement is for integers (exponent_bits=0, specials='finite'): " + it;
  if (f.specials == Specials::ieee && f.exponent_bits < 2) return "specials='ieee' needs two exponent bits: " + it;
  if (f.specials == Specials::ieee && f.mantissa_bits < 1) return "specials='ieee' needs a mantissa bit for NaN: " + it;
  const std::string specials = "specials='" + std::string(word_of(f.specials)) + "'";
  if ((f.specials == Specials::fn || f.specials == Specials::fnuz_inf) && f.exponent_bits + f.mantissa_bits < 2)
    return specials + " leaves no number: " + it;
  if (nan_is_negative_zero(f) && f.signedness != Signedness::sign_magnitude)
    return specials + " puts NaN on the code of negative zero, so it needs sign and magnitude: " + it;
  if (f.signedness == Signedness::unsigned_code) return "an element must be signed: " + it;
  if (f.taper < 0 || f.taper > 8) return "taper must be 0 to 8: " + it;
  if (f.taper > 0 && (f.specials != Specials::fnuz_inf || f.mantissa_bits > 3 || code_bits(f) > 8 || !fills_memory(f)))
    return "a tapered element is laid out like HiF8 (exponent_bits=4, mantissa_bits=3, bias=23, specials='fnuz_inf', "
           "taper=2): " +
           it;
  return {};
}

namespace {

// Scales of the main level, and the one above it.
std::string check_scale_format(const ElementFormat& scale) {
  const bool power = is_power_of_two_scale(scale) && scale.exponent_bits >= 1 && scale.exponent_bits <= 10 &&
                     (scale.specials == Specials::finite || scale.specials == Specials::fn);
  // Its values, and their products with elements, are those of float32.
  const bool plain = scale.specials == Specials::finite || scale.specials == Specials::fn;
  const bool short_float = is_short_float_scale(scale) && scale.mantissa_bits <= 10 && scale.taper == 0 &&
                           (plain || (scale.specials == Specials::ieee && scale.zero)) &&
                           (scale.zero || !is_signed(scale)) && min_exponent(scale) - scale.mantissa_bits >= -126 &&
                           max_exponent(scale) <= 126;
  if (!is_float32(scale) && !power && !short_float)
    return "a scale is float32, an unsigned power of two of 1 to 10 exponent bits without zero, or a float of 2 or "
           "more exponent bits, 1 to 10 mantissa bits and specials fn, finite or ieee within float32: " +
           brief(scale);
  // Decoding goes through float64, elements and all.
  const int top = power ? min_exponent(scale) + static_cast<int>(max_code(scale)) : 0;
  if (power && (min_exponent(scale) < -700 || top > 700))
    return "scale exponents must lie within +-700: " + brief(scale);
  if (power && (scale.bias < -512 || scale.bias > 512)) return "bias must be -512 to 512: " + brief(scale);
  return {};
}

std::string check_micro_level(const ScaleLevel& level, const ScaleLevel& outside) {
  const ElementFormat& f = level.format;
  if (level.combine != Combine::multiply && level.combine != Combine::divide)
    return "a level inside blocks multiplies or divides: " + brief(level);
  if (!is_power_of_two_scale(f) || f.exponent_bits < 1 || f.exponent_bits > 2 || f.specials != Specials::finite ||
      f.bias < -8 || f.bias > 8)
    return "a level inside blocks is a power of two of 1 or 2 exponent bits without NaN, or its outside is a float32 "
           "scale above short floats: " +
           brief(level);
  if (level.across != 1 || level.along < 1 || level.along > max_micro_block)
    return "a level inside blocks spans 1 to " + std::to_string(max_micro_block) +
           " elements of a line: " + brief(level);
  if (outside.along != whole && outside.along % level.along != 0)
    return "a level inside blocks must divide them: along=" + std::to_string(level.along) +
           " inside along=" + std::to_string(outside.along);
  return {};
}

std::string check_zero_points(const BlockFormat& format, int i) {
  const ScaleLevel& level = format.levels[static_cast<std::size_t>(i)];
  const ElementFormat& e = format.element;
  if (i != 1 || format.level_count != 2 || !is_float32(format.levels[0].format))
    return "zero points (combine='subtract') lie directly inside the float32 scales of blocks, and no other level "
           "beside them: " +
           brief(format);
  if (e.signedness != Signedness::twos_complement)
    return "zero points are for elements of two's complement: " + brief(e);
  if (code_bits(e) > 16 || unit_exponent(e) < -64 || unit_exponent(e) > 64)
    return "zero points are for elements of up to 16 bits with a unit of 2^-64 to 2^64: " + brief(e);
  if (level.format != zero_point_format(e))
    return "a zero point is an integer of the bits of the element with unit 1, " + brief(zero_point_format(e)) +
           ", not " + brief(level.format);
  if (level.along != format.levels[0].along || level.across != format.levels[0].across)
    return "there is one zero point for each scale: along and across must be those of the scales, not " + brief(level);
  return {};
}

std::string check_level(const BlockFormat& format, int i) {
  const ScaleLevel& level = format.levels[static_cast<std::size_t>(i)];
  if (level.along < 0) return "a block needs at least one element: along=" + std::to_string(level.along);
  if (level.across < 0) return "a block needs at least one line: across=" + std::to_string(level.across);
  if (level.across == whole && level.along != whole)
    return "a scale across all lines spans all of each line (along=0), not along=" + std::to_string(level.along);
  if (i > main_level(format)) return check_micro_level(level, format.levels[static_cast<std::size_t>(i - 1)]);
  if (i == main_level(format) && level.combine != Combine::multiply)
    return "scales of blocks multiply; a scale above others, and levels inside blocks, may divide: " + brief(level);
  if (i < main_level(format)) {
    const ScaleLevel& main = main_scale(format);
    if (!is_short_float_scale(main.format)) return "a float32 scale lies above short floats: " + brief(main.format);
    if (level.along != whole || (level.across != whole && (level.across != 1 || main.across != 1)))
      return "a scale above others is of the tensor (along=0, across=0), or of lines (along=0, across=1): " +
             brief(level);
  }
  return check_scale_format(level.format);
}

}  // namespace

std::string check_format(const BlockFormat& format) {
  if (std::string error = check_element(format.element); !error.empty()) return error;
  if (format.level_count < 0 || format.level_count > max_levels)
    return "level_count must be 0 to " + std::to_string(max_levels) + ": " + std::to_string(format.level_count);
  // First, since what the other levels are depends on it.
  for (int i = 0; i < format.level_count; ++i)
    if (format.levels[static_cast<std::size_t>(i)].combine == Combine::subtract)
      if (std::string error = check_zero_points(format, i); !error.empty()) return error;
  for (int i = 0; i < scaling_levels(format); ++i)
    if (std::string error = check_level(format, i); !error.empty()) return error;
  return {};
}

namespace {

std::string said(const char* field, std::string_view word) {
  return std::string(field) + "='" + std::string(word) + "'";
}

double largest_value(const ElementFormat& f) {
  const Magnitude top = magnitude_of(f, max_code(f));
  return std::ldexp(static_cast<double>(top.significand), top.exponent);
}

// Choices about scales besides the rule.
std::string check_scale_choices(const BlockFormat& format, const Conversion& how) {
  const ScaleKind kind = scale_kind(format);
  if (!(how.divisor >= 0x1p-100F && how.divisor <= 0x1p100F) && how.divisor != 0)
    return "divisor must be a positive number between 2^-100 and 2^100, or 0 for the largest element: " + brief(how);
  const bool divides = (kind == ScaleKind::floating && how.scale_rule != ScaleRule::signed_max) ||
                       (kind != ScaleKind::none && uses_divisor(how.scale_rule));
  if (how.divisor != 0 && !divides) return "divisor is for scale_rule='rceil', 'floor' and 'amax'";
  if (how.even_bits < -1 || how.even_bits > 22) return "even_bits must be 0 to 22, or -1: " + brief(how);
  if (how.even_bits >= 0 && (kind == ScaleKind::none || how.scale_rule != ScaleRule::even))
    return "even_bits is for scale_rule='even'";
  if (how.scale_rule == ScaleRule::fit && (how.rounding == Rounding::stochastic || format.level_count > 1))
    return "scale_rule='fit' needs a rounding that does not depend on chance, and one level of scales";
  const bool looks = how.scale_rule == ScaleRule::fit || searches(how.scale_rule);
  if (looks && how.align_bits != 0)
    return said("scale_rule", word_of(how.scale_rule)) + " and align_bits are of different machines";
  if (searches(how.scale_rule) && format.level_count > main_level(format) + 1)
    return said("scale_rule", word_of(how.scale_rule)) + " needs blocks without levels inside them";
  if (how.align_bits < 0 || how.align_bits > 40) return "align_bits must be 0 to 40: " + brief(how);
  if (how.align_bits > 0 && (kind != ScaleKind::power_of_two || format.level_count > 1))
    return "align_bits is for one level of scales that are powers of two";
  if (how.align_bits == 0 && how.align_rounding != AlignRounding::toward_zero) return "align_rounding needs align_bits";
  const bool coded = kind != ScaleKind::none && !is_float32(main_scale(format).format);
  const int top = coded ? static_cast<int>(max_code(main_scale(format).format)) : -1;
  const bool divides_by_it = how.divide_by == DivideBy::stored;
  const bool needs_number = divides_by_it && !writes_zero(how.scale_underflow);
  const int least = kind == ScaleKind::floating && coded && main_scale(format).format.zero && needs_number ? 1 : 0;
  if (how.zero_scale != -1 && (how.zero_scale < least || how.zero_scale > top))
    return "zero_scale=" + std::to_string(how.zero_scale) +
           (coded ? ": needed a scale code, " + std::to_string(least) + " to " + std::to_string(top) + ", or -1"
                  : ": this format has no scale codes, so only -1 means something");
  if (how.scale_apply != ScaleApply::divide && kind != ScaleKind::floating)
    return said("scale_apply", word_of(how.scale_apply)) + " is for float scales: powers of two are exact either way";
  const bool by_logarithm = how.scale_rule == ScaleRule::floor || how.scale_rule == ScaleRule::ceil ||
                            how.scale_rule == ScaleRule::rceil || how.scale_rule == ScaleRule::fit;
  if (how.amax_exponent == AmaxExponent::log2 && (kind != ScaleKind::power_of_two || !by_logarithm))
    return "amax_exponent='log2' is for scales that are powers of two, by scale_rule='floor', 'ceil', 'rceil' or 'fit'";
  // The logarithm of such a divisor rounds to that of the power of two.
  const double divisor = how.divisor != 0 ? how.divisor : largest_value(format.element);
  int exponent = 0;
  if (how.amax_exponent == AmaxExponent::log2 && how.scale_rule == ScaleRule::rceil &&
      std::frexp(divisor, &exponent) > 1 - 0x1p-16)
    return "amax_exponent='log2' with scale_rule='rceil' needs a divisor that is not just below a power of two";
  return {};
}

// Choices about the ends of the range of powers of two.
std::string check_range_choices(const BlockFormat& format, const Conversion& how) {
  const bool powers = scale_kind(format) == ScaleKind::power_of_two, single = powers && format.level_count == 1;
  const bool counts = how.infinite == Infinite::beyond || how.infinite == Infinite::top;
  if (counts && !single)
    return said("infinite", word_of(how.infinite)) + " is for one level of scales that are powers of two";
  if (counts && how.nonfinite != NonFinite::poison)
    return said("infinite", word_of(how.infinite)) + " leaves NaN to nonfinite='poison'";
  const NonFinite other = how.nonfinite;
  if (how.infinite != Infinite::same && (other == NonFinite::largest || other == NonFinite::zero ||
                                         other == NonFinite::error || other == NonFinite::zero_block))
    return said("infinite", word_of(how.infinite)) + " and " + said("nonfinite", word_of(other)) +
           " both say what Inf is";
  if (how.scale_overflow != ScaleOverflow::clamp && (!single || !has_nan(main_scale(format).format)))
    return said("scale_overflow", word_of(how.scale_overflow)) +
           " is for one level of scales that are powers of two, with a NaN";
  const bool looks = how.scale_rule == ScaleRule::fit || searches(how.scale_rule);
  if (how.scale_overflow == ScaleOverflow::nan_amax && searches(how.scale_rule))
    return "scale_overflow='nan_amax' needs a rule that wants one power of two, not a search";
  if (how.nan_scale == NanScale::least && (!single || other != NonFinite::poison))
    return "nan_scale='least' is for one level of scales that are powers of two, with nonfinite='poison'";
  if (other == NonFinite::zero_block && !single)
    return "nonfinite='zero_block' is for one level of scales that are powers of two";
  if (how.scale_overflow == ScaleOverflow::nan && searches(how.scale_rule))
    return "scale_overflow='nan' needs a rule that wants one power of two, not a search";
  if (how.least_scale != LeastScale::exact && (!single || looks || how.align_bits != 0))
    return said("least_scale", word_of(how.least_scale)) +
           " is for one level of scales that are powers of two, by a rule that looks at amax alone, without align_bits";
  return {};
}

// Choices about float32 steps with which some libraries round elements to themselves.
std::string check_step_choices(const BlockFormat& format, const Conversion& how) {
  const bool single = scale_kind(format) == ScaleKind::power_of_two && format.level_count == 1;
  const bool plain = single && how.align_bits == 0 && !searches(how.scale_rule) && format.element.taper == 0;
  const ElementFormat& e = format.element;
  const bool nearest = how.rounding == Rounding::nearest_even || how.rounding == Rounding::nearest_away;
  if (how.half_sum == HalfSum::fp32 && (!plain || !nearest || e.mantissa_bits > 16))
    return "half_sum='fp32' is for elements of up to 16 mantissa bits under one level of scales that are powers of "
           "two, without a search and align_bits, with rounding='nearest_even' or 'nearest_away'";
  if (how.element_exponent == ElementExponent::log2 &&
      (!plain || how.rounding != Rounding::toward_zero || how.scale_rule == ScaleRule::fit || e.exponent_bits == 0 ||
       e.mantissa_bits == 0))
    return "element_exponent='log2' is for floats with mantissa bits under one level of scales that are powers of two, "
           "by a rule that looks at amax alone, without align_bits, with rounding='toward_zero'";
  return {};
}

// Choices that only float scales know.
std::string check_float_choices(const BlockFormat& format, const Conversion& how) {
  const bool floating = scale_kind(format) == ScaleKind::floating;
  const bool narrow = how.scale_compute == ScaleCompute::bf16,
             multiplied = how.divisor_apply == DivisorApply::reciprocal;
  if (!floating && multiplied) return "divisor_apply='reciprocal' is for float scales";
  if (!floating && narrow) return "scale_compute='bf16' is for float scales: powers of two are not computed";
  if (!floating && how.apply_compute == ApplyCompute::bf16)
    return "apply_compute='bf16' is for float scales: powers of two only move exponents";
  if (searches(how.scale_rule) && (narrow || multiplied))
    return said("scale_rule", word_of(how.scale_rule)) + " computes its scales in float32, by division";
  const bool one_short = floating && format.level_count == 1 && is_short_float_scale(main_scale(format).format);
  if (how.divide_by == DivideBy::quotient && (!one_short || searches(how.scale_rule)))
    return "divide_by='quotient' needs one level of scales that are short floats, by scale_rule='amax' or 'signed_max'";
  const ElementFormat& e = format.element;
  const bool integers = e.signedness == Signedness::twos_complement;
  if (how.scale_rule == ScaleRule::signed_max &&
      (!one_short || !is_signed(main_scale(format).format) || how.integer_range != IntegerRange::full))
    return "scale_rule='signed_max' needs one level of signed short float scales (float16), and integers of "
           "integer_range='full'";
  if (how.cut_offset == 0) return {};
  if (!(how.cut_offset >= 0.5F && how.cut_offset <= 128.5F))
    return "cut_offset must be 0, or 0.5 to 128.5: " + brief(how);
  if (!floating || format.level_count != 1 || !integers || e.mantissa_bits > 15 || magnitude_of(e, 1).exponent != 0 ||
      how.rounding != Rounding::toward_zero || how.scale_apply != ScaleApply::reciprocal ||
      how.apply_compute != ApplyCompute::fp32 || searches(how.scale_rule))
    return "cut_offset needs integers of up to 16 bits with the unit 1 under one level of float scales, "
           "rounding='toward_zero' and "
           "scale_apply='reciprocal'";
  return {};
}

// Choices about a scale above others, and about short float scales that would be zero.
std::string check_outer_choices(const BlockFormat& format, const Conversion& how) {
  const bool two = format.level_count > 1 && has_outer_level(format);
  const bool encodes = two && is_encode_scale(format.levels[0]);
  const bool outer_first = how.scale_order == ScaleOrder::outer_first;
  const bool over = how.scale_apply == ScaleApply::outer_reciprocal;
  if (!two && how.outer_apply != OuterApply::divide)
    return "outer_apply='reciprocal' is for a float32 scale above others, such as that of nvfp4";
  if (!two && outer_first)
    return "scale_order='outer_first' is for a float32 scale above others, such as that of nvfp4";
  if (!encodes && how.outer_overflow != OuterOverflow::clamp)
    return said("outer_overflow", word_of(how.outer_overflow)) +
           " is for a scale above others that encoders multiply by (combine other than 'multiply')";
  const bool in_float64 = two && format.levels[0].combine == Combine::divide_top;
  if (in_float64 && outer_first) return "scale_order='outer_first' and combine='divide_top' are of different machines";
  if (over && (!two || encodes || how.scale_compute == ScaleCompute::bf16))
    return "scale_apply='outer_reciprocal' is for a float32 scale above others that decoders multiply by, and float32 "
           "steps";
  if (outer_first && !encodes && how.divisor_apply == DivisorApply::reciprocal)
    return "scale_order='outer_first' multiplies such a scale by the divisor: divisor_apply='reciprocal' has nothing "
           "to "
           "do";
  if (encodes && how.scale_compute == ScaleCompute::bf16)
    return "scale_compute='bf16' and a scale that encoders multiply by are of different machines";
  if (searches(how.scale_rule) && (encodes || outer_first || over))
    return said("scale_rule", word_of(how.scale_rule)) +
           " computes its scales amax first, below a scale that decoders multiply by";
  if (how.scale_underflow == ScaleUnderflow::least) return {};
  if (how.scale_underflow == ScaleUnderflow::nan) {
    const bool single = scale_kind(format) == ScaleKind::power_of_two && format.level_count == 1;
    if (single && how.amax_exponent == AmaxExponent::log2 && how.scale_rule == ScaleRule::rceil &&
        has_nan(main_scale(format).format))
      return {};
    return "scale_underflow='nan' is for amax_exponent='log2' with scale_rule='rceil' and one level of scales that "
           "have a NaN";
  }
  const bool coded = scale_kind(format) == ScaleKind::floating && is_short_float_scale(main_scale(format).format);
  if (!coded || !main_scale(format).format.zero || is_signed(main_scale(format).format) || how.scale_minimum != 0 ||
      how.divide_by != DivideBy::stored || searches(how.scale_rule))
    return said("scale_underflow", word_of(how.scale_underflow)) +
           " is for unsigned short float scales with a zero, by scale_rule='amax', without scale_minimum, that "
           "elements "
           "are divided by";
  if (how.scale_underflow == ScaleUnderflow::zeros &&
      (over || (in_float64 && how.scale_apply == ScaleApply::reciprocal)))
    return "scale_underflow='zeros' is about what divides, and under " + said("scale_apply", word_of(how.scale_apply)) +
           " nothing does here";
  if (how.scale_underflow == ScaleUnderflow::zero_scale && how.zero_scale < 1)
    return "scale_underflow='zero_scale' needs zero_scale, the code that it writes";
  return {};
}

// Choices about elements that the format may not know.
std::string check_element_choices(const ElementFormat& element, const Conversion& how) {
  if (how.signed_zero == SignedZero::negative && !has_negative_zero(element))
    return "signed_zero='negative' needs an element with a negative zero: " + brief(element);
  if (how.nonfinite == NonFinite::keep && !has_nan(element))
    return "nonfinite='keep' needs an element with NaN: " + brief(element);
  if (how.subnormals == Subnormals::flush && element.taper > 0)
    return "subnormals='flush': a tapered element has no subnormal numbers: " + brief(element);
  if (how.subnormals == Subnormals::flush && element.exponent_bits == 0)
    return "subnormals='flush' would leave an integer nothing: " + brief(element);
  if (how.integer_range == IntegerRange::full && element.signedness != Signedness::twos_complement)
    return "integer_range='full' is for two's complement: " + brief(element);
  return {};
}

std::string check_zero_point_choices(const Conversion& how) {
  if (how.divisor != 0)
    return "divisor stands for the largest element, and with zero points the steps from the lowest to the highest "
           "code divide";
  if (how.integer_range != IntegerRange::full)
    return "zero points lay the whole range of codes over a block: integer_range must be 'full'";
  if (how.divisor_apply != DivisorApply::divide || how.scale_compute != ScaleCompute::fp32 ||
      how.apply_compute != ApplyCompute::fp32)
    return "scales beside zero points are computed in float32, by division";
  return {};
}

}  // namespace

std::string check_conversion(const BlockFormat& format, const Conversion& conversion) {
  const ScaleKind kind = scale_kind(format);
  const std::string rule(word_of(conversion.scale_rule));
  if (conversion.random_bits < 1 || conversion.random_bits > max_random_bits)
    return "random_bits must be 1 to " + std::to_string(max_random_bits) + ": " + brief(conversion);
  if (kind == ScaleKind::floating && searches(conversion.scale_rule)) {
    if (is_float32(main_scale(format).format))
      return "scale_rule='" + rule + "' chooses among codes of a scale, and this format's scale is a float32 number";
  } else if (kind == ScaleKind::floating && conversion.scale_rule != ScaleRule::amax &&
             conversion.scale_rule != ScaleRule::signed_max)
    return "scale_rule='" + rule + "' chooses a power of two, and this format's scale is a float: use 'amax'";
  if (kind == ScaleKind::power_of_two &&
      (conversion.scale_rule == ScaleRule::amax || conversion.scale_rule == ScaleRule::signed_max))
    return "scale_rule='" + rule +
           "' computes a float scale, and this format's scale is a power of two: use floor, ceil, "
           "rceil, even, nearest, fit, mse or mae";
  if (std::string error = check_scale_choices(format, conversion); !error.empty()) return error;
  if (std::string error = check_range_choices(format, conversion); !error.empty()) return error;
  if (std::string error = check_step_choices(format, conversion); !error.empty()) return error;
  if (std::string error = check_float_choices(format, conversion); !error.empty()) return error;
  if (std::string error = check_outer_choices(format, conversion); !error.empty()) return error;
  if (std::string error = check_element_choices(format.element, conversion); !error.empty()) return error;
  if (has_zero_points(format))
    if (std::string error = check_zero_point_choices(conversion); !error.empty()) return error;
  const bool short_scale = format.level_count > 0 && is_short_float_scale(main_scale(format).format);
  if (conversion.scale_rounding != ScaleRounding::nearest_even && !short_scale)
    return "scale_rounding='" + std::string(word_of(conversion.scale_rounding)) +
           "' is for scales that are short floats, such as UE4M3";
  const bool coded = short_scale || kind == ScaleKind::power_of_two;
  const int top = coded ? static_cast<int>(max_code(main_scale(format).format)) : 0;
  if (conversion.scale_minimum < 0 || conversion.scale_minimum > top)
    return "scale_minimum=" + std::to_string(conversion.scale_minimum) +
           (coded ? ": needed a scale code, 0 to " + std::to_string(top)
                  : ": this format has no scale codes, so only 0 means something");
  if (kind != ScaleKind::none && conversion.overflow == Overflow::special)
    return "overflow='special' is for formats without a scale: a scaled block saturates (OCP MX v1.0, 6.3)";
  if (conversion.overflow == Overflow::special && !has_nan(format.element))
    return "overflow='special' needs an element with Inf or NaN: " + brief(format.element);
  return {};
}

std::string check_sparsity(const Sparsity& s) {
  if (s.group == 0 && s.kept == 0 && s.unit == 1) return {};
  if (s.group < 1 || s.group > max_group || s.kept < 1 || s.kept > s.group)
    return "N:M sparsity needs 1 <= N <= M <= " + std::to_string(max_group) + ", got " + std::to_string(s.kept) + ":" +
           std::to_string(s.group);
  if (s.unit < 1 || s.kept % s.unit != 0 || s.group % s.unit != 0)
    return "N:M sparsity in units of " + std::to_string(s.unit) + " needs both " + std::to_string(s.kept) + " and " +
           std::to_string(s.group) + " to be multiples of it";
  return {};
}

}  // namespace sparq::ops
