// The only field list of each record. Printing, comparing, hashing, parsing in Python and the documentation of
// fields all walk these lists, so that a field added to a record is added here and nowhere else.
#pragma once

#include <string>
#include <string_view>
#include <tuple>

#include "conversion.h"
#include "datapath.h"
#include "format.h"
#include "sparsity.h"

namespace sparq {

// Changes whenever any bit of any output changes; the CHANGELOG says "bits changed".
inline constexpr int numerics_version = 2;

template <class Record, class Member>
struct Field {
  std::string_view name;
  Member Record::* member;
  std::string_view meaning;
};
template <class Record, class Member>
Field(std::string_view, Member Record::*, std::string_view) -> Field<Record, Member>;

template <class Enum>
struct Word {
  std::string_view word;
  Enum value;
};

// Fields<Record>::list and Words<Enum>::list are what every user of a record walks.
template <class Record>
struct Fields;
template <class Enum>
struct Words;

template <>
struct Words<Specials> {
  static constexpr std::string_view what = "specials";
  static constexpr Word<Specials> list[] = {{"finite", Specials::finite},
                                            {"ieee", Specials::ieee},
                                            {"fn", Specials::fn},
                                            {"fnuz", Specials::fnuz},
                                            {"fnuz_inf", Specials::fnuz_inf}};
};
template <>
struct Words<Signedness> {
  static constexpr std::string_view what = "signedness";
  static constexpr Word<Signedness> list[] = {{"sign_magnitude", Signedness::sign_magnitude},
                                              {"twos_complement", Signedness::twos_complement},
                                              {"unsigned", Signedness::unsigned_code}};
};
template <>
struct Words<Combine> {
  static constexpr std::string_view what = "combine";
  static constexpr Word<Combine> list[] = {{"multiply", Combine::multiply},       {"divide", Combine::divide},
                                           {"subtract", Combine::subtract},       {"reciprocal", Combine::reciprocal},
                                           {"reciprocals", Combine::reciprocals}, {"divide_top", Combine::divide_top}};
};
template <>
struct Words<Rounding> {
  static constexpr std::string_view what = "rounding";
  static constexpr Word<Rounding> list[] = {{"nearest_even", Rounding::nearest_even},
                                            {"nearest_away", Rounding::nearest_away},
                                            {"nearest_zero", Rounding::nearest_zero},
                                            {"nearest_up", Rounding::nearest_up},
                                            {"toward_zero", Rounding::toward_zero},
                                            {"up", Rounding::up},
                                            {"down", Rounding::down},
                                            {"to_odd", Rounding::to_odd},
                                            {"stochastic", Rounding::stochastic}};
};
template <>
struct Words<ScaleRounding> {
  static constexpr std::string_view what = "scale_rounding";
  static constexpr Word<ScaleRounding> list[] = {{"nearest_even", ScaleRounding::nearest_even},
                                                 {"up", ScaleRounding::up}};
};
template <>
struct Words<Stochastic> {
  static constexpr std::string_view what = "stochastic";
  static constexpr Word<Stochastic> list[] = {{"a", Stochastic::a}, {"b", Stochastic::b}, {"c", Stochastic::c}};
};
template <>
struct Words<Overflow> {
  static constexpr std::string_view what = "overflow";
  static constexpr Word<Overflow> list[] = {{"saturate", Overflow::saturate}, {"special", Overflow::special}};
};
template <>
struct Words<ScaleRule> {
  static constexpr std::string_view what = "scale_rule";
  static constexpr Word<ScaleRule> list[] = {{"floor", ScaleRule::floor},     {"ceil", ScaleRule::ceil},
                                             {"rceil", ScaleRule::rceil},     {"even", ScaleRule::even},
                                             {"nearest", ScaleRule::nearest}, {"fit", ScaleRule::fit},
                                             {"mse", ScaleRule::mse},         {"mae", ScaleRule::mae},
                                             {"amax", ScaleRule::amax},       {"signed_max", ScaleRule::signed_max}};
};
template <>
struct Words<NonFinite> {
  static constexpr std::string_view what = "nonfinite";
  static constexpr Word<NonFinite> list[] = {{"poison", NonFinite::poison},     {"keep", NonFinite::keep},
                                             {"ignore", NonFinite::ignore},     {"largest", NonFinite::largest},
                                             {"zero", NonFinite::zero},         {"error", NonFinite::error},
                                             {"saturate", NonFinite::saturate}, {"zero_block", NonFinite::zero_block}};
};
template <>
struct Words<NanScale> {
  static constexpr std::string_view what = "nan_scale";
  static constexpr Word<NanScale> list[] = {{"same", NanScale::same}, {"least", NanScale::least}};
};
template <>
struct Words<ElementExponent> {
  static constexpr std::string_view what = "element_exponent";
  static constexpr Word<ElementExponent> list[] = {{"bits", ElementExponent::bits}, {"log2", ElementExponent::log2}};
};
template <>
struct Words<HalfSum> {
  static constexpr std::string_view what = "half_sum";
  static constexpr Word<HalfSum> list[] = {{"exact", HalfSum::exact}, {"fp32", HalfSum::fp32}};
};
template <>
struct Words<Infinite> {
  static constexpr std::string_view what = "infinite";
  static constexpr Word<Infinite> list[] = {
      {"same", Infinite::same}, {"largest", Infinite::largest}, {"beyond", Infinite::beyond}, {"top", Infinite::top}};
};
template <>
struct Words<ScaleOverflow> {
  static constexpr std::string_view what = "scale_overflow";
  static constexpr Word<ScaleOverflow> list[] = {
      {"clamp", ScaleOverflow::clamp}, {"nan", ScaleOverflow::nan}, {"nan_amax", ScaleOverflow::nan_amax}};
};
template <>
struct Words<LeastScale> {
  static constexpr std::string_view what = "least_scale";
  static constexpr Word<LeastScale> list[] = {
      {"exact", LeastScale::exact}, {"next", LeastScale::next}, {"one", LeastScale::one}};
};
template <>
struct Words<SignedZero> {
  static constexpr std::string_view what = "signed_zero";
  static constexpr Word<SignedZero> list[] = {{"keep", SignedZero::keep},
                                              {"drop", SignedZero::drop},
                                              {"underflow", SignedZero::underflow},
                                              {"negative", SignedZero::negative}};
};
template <>
struct Words<Subnormals> {
  static constexpr std::string_view what = "subnormals";
  static constexpr Word<Subnormals> list[] = {{"keep", Subnormals::keep}, {"flush", Subnormals::flush}};
};
template <>
struct Words<IntegerRange> {
  static constexpr std::string_view what = "integer_range";
  static constexpr Word<IntegerRange> list[] = {{"symmetric", IntegerRange::symmetric}, {"full", IntegerRange::full}};
};
template <>
struct Words<Prerounding> {
  static constexpr std::string_view what = "preround";
  static constexpr Word<Prerounding> list[] = {
      {"none", Prerounding::none}, {"bf16", Prerounding::bf16}, {"bf16_toward_zero", Prerounding::bf16_toward_zero}};
};
template <>
struct Words<AlignRounding> {
  static constexpr std::string_view what = "align_rounding";
  static constexpr Word<AlignRounding> list[] = {{"toward_zero", AlignRounding::toward_zero},
                                                 {"nearest_away", AlignRounding::nearest_away},
                                                 {"nearest_even", AlignRounding::nearest_even}};
};
template <>
struct Words<ScaleApply> {
  static constexpr std::string_view what = "scale_apply";
  static constexpr Word<ScaleApply> list[] = {{"divide", ScaleApply::divide},
                                              {"reciprocal", ScaleApply::reciprocal},
                                              {"outer_reciprocal", ScaleApply::outer_reciprocal}};
};
template <>
struct Words<OuterApply> {
  static constexpr std::string_view what = "outer_apply";
  static constexpr Word<OuterApply> list[] = {{"divide", OuterApply::divide}, {"reciprocal", OuterApply::reciprocal}};
};
template <>
struct Words<OuterOverflow> {
  static constexpr std::string_view what = "outer_overflow";
  static constexpr Word<OuterOverflow> list[] = {
      {"clamp", OuterOverflow::clamp}, {"one", OuterOverflow::one}, {"infinity", OuterOverflow::infinity}};
};
template <>
struct Words<ScaleOrder> {
  static constexpr std::string_view what = "scale_order";
  static constexpr Word<ScaleOrder> list[] = {{"amax_first", ScaleOrder::amax_first},
                                              {"outer_first", ScaleOrder::outer_first}};
};
template <>
struct Words<ScaleUnderflow> {
  static constexpr std::string_view what = "scale_underflow";
  static constexpr Word<ScaleUnderflow> list[] = {{"least", ScaleUnderflow::least},
                                                  {"zero_scale", ScaleUnderflow::zero_scale},
                                                  {"zero", ScaleUnderflow::zero},
                                                  {"zeros", ScaleUnderflow::zeros},
                                                  {"nan", ScaleUnderflow::nan}};
};
template <>
struct Words<DivisorApply> {
  static constexpr std::string_view what = "divisor_apply";
  static constexpr Word<DivisorApply> list[] = {{"divide", DivisorApply::divide},
                                                {"reciprocal", DivisorApply::reciprocal}};
};
template <>
struct Words<DivideBy> {
  static constexpr std::string_view what = "divide_by";
  static constexpr Word<DivideBy> list[] = {{"stored", DivideBy::stored}, {"quotient", DivideBy::quotient}};
};
template <>
struct Words<ScaleCompute> {
  static constexpr std::string_view what = "scale_compute";
  static constexpr Word<ScaleCompute> list[] = {{"fp32", ScaleCompute::fp32}, {"bf16", ScaleCompute::bf16}};
};
template <>
struct Words<ApplyCompute> {
  static constexpr std::string_view what = "apply_compute";
  static constexpr Word<ApplyCompute> list[] = {{"fp32", ApplyCompute::fp32}, {"bf16", ApplyCompute::bf16}};
};
template <>
struct Words<AmaxExponent> {
  static constexpr std::string_view what = "amax_exponent";
  static constexpr Word<AmaxExponent> list[] = {{"bits", AmaxExponent::bits}, {"log2", AmaxExponent::log2}};
};
template <>
struct Words<Ties> {
  static constexpr std::string_view what = "ties";
  static constexpr Word<Ties> list[] = {
      {"lowest_index", Ties::lowest_index}, {"highest_index", Ties::highest_index}, {"topk", Ties::topk}};
};
template <>
struct Words<Fill> {
  static constexpr std::string_view what = "fill";
  static constexpr Word<Fill> list[] = {
      {"lowest", Fill::lowest}, {"highest", Fill::highest}, {"cutlass2", Fill::cutlass2}, {"cutlass3", Fill::cutlass3}};
};
template <>
struct Words<Order> {
  static constexpr std::string_view what = "order";
  static constexpr Word<Order> list[] = {{"sparsify_first", Order::sparsify_first},
                                         {"quantize_first", Order::quantize_first}};
};
template <>
struct Words<Reduce> {
  static constexpr std::string_view what = "reduce";
  static constexpr Word<Reduce> list[] = {{"exact", Reduce::exact}, {"blocks", Reduce::blocks},
                                          {"fma", Reduce::fma},     {"align", Reduce::align},
                                          {"tree", Reduce::tree},   {"integer", Reduce::integer}};
};
template <>
struct Words<Cut> {
  static constexpr std::string_view what = "align_rounding";
  static constexpr Word<Cut> list[] = {{"toward_zero", Cut::toward_zero},
                                       {"down", Cut::down},
                                       {"nearest_even", Cut::nearest_even},
                                       {"to_odd", Cut::to_odd}};
};
template <>
struct Words<AccumulatorRounding> {
  static constexpr std::string_view what = "accumulator_rounding";
  static constexpr Word<AccumulatorRounding> list[] = {{"toward_zero", AccumulatorRounding::toward_zero},
                                                       {"nearest_even", AccumulatorRounding::nearest_even},
                                                       {"nearest_away", AccumulatorRounding::nearest_away},
                                                       {"down", AccumulatorRounding::down},
                                                       {"to_odd", AccumulatorRounding::to_odd}};
};
template <>
struct Words<ZeroProducts> {
  static constexpr std::string_view what = "zero_products";
  static constexpr Word<ZeroProducts> list[] = {{"absent", ZeroProducts::absent}, {"lowest", ZeroProducts::lowest}};
};
template <>
struct Words<Start> {
  static constexpr std::string_view what = "start";
  static constexpr Word<Start> list[] = {
      {"aligned", Start::aligned}, {"after_instruction", Start::after_instruction}, {"late_floor", Start::late_floor}};
};
template <>
struct Words<FloatOverflow> {
  static constexpr std::string_view what = "overflow";
  static constexpr Word<FloatOverflow> list[] = {{"infinity", FloatOverflow::infinity},
                                                 {"saturate", FloatOverflow::saturate}};
};
template <>
struct Words<IntegerOverflow> {
  static constexpr std::string_view what = "integer_overflow";
  static constexpr Word<IntegerOverflow> list[] = {{"wrap", IntegerOverflow::wrap},
                                                   {"saturate", IntegerOverflow::saturate}};
};
template <>
struct Words<Output> {
  static constexpr std::string_view what = "output";
  static constexpr Word<Output> list[] = {
      {"fp32", Output::fp32}, {"fp32_or_fp16", Output::fp32_or_fp16}, {"int32", Output::int32}};
};

template <>
struct Fields<ElementFormat> {
  static constexpr std::string_view name = "ElementFormat";
  static constexpr std::tuple list{
      Field{"exponent_bits", &ElementFormat::exponent_bits, "0 is an integer"},
      Field{"mantissa_bits", &ElementFormat::mantissa_bits, "stored bits, without the hidden one"},
      Field{"bias", &ElementFormat::bias, "exponent = field - bias"},
      Field{"specials", &ElementFormat::specials, "which codes are no numbers"},
      Field{"signedness", &ElementFormat::signedness, "how negative values are coded"},
      Field{"zero", &ElementFormat::zero, "false: exponent field 0 is one more normal binade"},
      Field{"taper", &ElementFormat::taper,
            "digits of an exponent that cost no mantissa bit, under prefixes (HiF8); 0: not tapered"}};
};
template <>
struct Fields<ScaleLevel> {
  static constexpr std::string_view name = "ScaleLevel";
  static constexpr std::tuple list{Field{"format", &ScaleLevel::format, "code of the scale"},
                                   Field{"along", &ScaleLevel::along, "elements of a line under one scale, 0 for all"},
                                   Field{"across", &ScaleLevel::across, "lines under one scale, 0 for all"},
                                   Field{"combine", &ScaleLevel::combine, "how the scale acts on what lies inside"}};
};
template <>
struct Fields<Conversion> {
  static constexpr std::string_view name = "Conversion";
  static constexpr std::tuple list{
      Field{"rounding", &Conversion::rounding, "of elements"},
      Field{"overflow", &Conversion::overflow, "what lies beyond the largest finite value"},
      Field{"scale_rule", &Conversion::scale_rule, "from the largest magnitude to the scale"},
      Field{"scale_rounding", &Conversion::scale_rounding, "of a scale that is a short float"},
      Field{"scale_minimum", &Conversion::scale_minimum, "least scale code that is written"},
      Field{"stochastic", &Conversion::stochastic, "how a fraction meets random bits (stochastic rounding)"},
      Field{"random_bits", &Conversion::random_bits, "random bits of an element (stochastic rounding)"},
      Field{"nonfinite", &Conversion::nonfinite, "what NaN and Inf do to a block, or become"},
      Field{"infinite", &Conversion::infinite, "what Inf does where NaN does another thing"},
      Field{"nan_scale", &Conversion::nan_scale, "the scale of a block with NaN where that is not poisoned"},
      Field{"scale_overflow", &Conversion::scale_overflow,
            "of a power of two beyond the scale format, or of amax beyond float32"},
      Field{"least_scale", &Conversion::least_scale, "what elements under the least power of two are divided by"},
      Field{"signed_zero", &Conversion::signed_zero, "which negative zeros there are"},
      Field{"subnormals", &Conversion::subnormals, "of elements"},
      Field{"input_subnormals", &Conversion::input_subnormals, "of float32 input: magnitudes below 2^-126"},
      Field{"integer_range", &Conversion::integer_range, "whether two's complement uses its lowest code"},
      Field{"preround", &Conversion::preround, "what input is rounded to before anything else"},
      Field{"amax_exponent", &Conversion::amax_exponent, "whether the exponent of amax is read or a float32 log2"},
      Field{"element_exponent", &Conversion::element_exponent, "the same of elements that are cut"},
      Field{"half_sum", &Conversion::half_sum, "where the half is added that makes cutting rounding to nearest"},
      Field{"scale_apply", &Conversion::scale_apply, "how a float scale meets an element"},
      Field{"divisor_apply", &Conversion::divisor_apply, "how amax meets what it is divided by (float scales)"},
      Field{"divide_by", &Conversion::divide_by, "what elements are divided by: the stored scale, or it unrounded"},
      Field{"outer_apply", &Conversion::outer_apply, "how the largest magnitude meets what an outer scale comes from"},
      Field{"outer_overflow", &Conversion::outer_overflow, "of an outer encode scale that is no finite number"},
      Field{"scale_order", &Conversion::scale_order, "whether amax meets the divisor or the outer scale first"},
      Field{"scale_underflow", &Conversion::scale_underflow,
            "of a short float scale, or of a quotient below a log2, that rounds to zero"},
      Field{"scale_compute", &Conversion::scale_compute, "type of float scales and reciprocals before they are codes"},
      Field{"apply_compute", &Conversion::apply_compute, "type of what elements become under float scales"},
      Field{"divisor", &Conversion::divisor, "what amax is divided by; 0: the largest element (rceil, amax)"},
      Field{"even_bits", &Conversion::even_bits, "mantissa bits that 'even' rounds amax to; -1: those of the element"},
      Field{"zero_scale", &Conversion::zero_scale, "scale code of a block of zeros; -1: the least that is written"},
      Field{"align_bits", &Conversion::align_bits,
            "bits below the block's largest exponent that elements are first rounded to; 0: they are not"},
      Field{"align_rounding", &Conversion::align_rounding, "how (align_bits)"},
      Field{"cut_offset", &Conversion::cut_offset, "added to x / s before an integer is cut from it; 0: nothing is"}};
};
template <>
struct Fields<Sparsity> {
  static constexpr std::string_view name = "Sparsity";
  static constexpr std::tuple list{Field{"kept", &Sparsity::kept, "N of N:M"},
                                   Field{"group", &Sparsity::group, "M of N:M"},
                                   Field{"ties", &Sparsity::ties, "which of equals is kept"},
                                   Field{"unit", &Sparsity::unit, "neighbours that are kept or pruned together"}};
};
template <>
struct Fields<Datapath> {
  static constexpr std::string_view name = "Datapath";
  static constexpr std::tuple list{
      Field{"reduce", &Datapath::reduce, "what happens to the products of one step"},
      Field{"group", &Datapath::group, "products per step; 0: all that can be (not align)"},
      Field{"instruction", &Datapath::instruction, "K of one instruction (align); 0: that of a step"},
      Field{"run", &Datapath::run, "neighbours in K that go to one step before the next step's; 0: all of a step"},
      Field{"lanes", &Datapath::lanes, "partial sums of a step with exponents of their own (late_floor)"},
      Field{"presum", &Datapath::presum, "products summed exactly before alignment, and then scaled (align)"},
      Field{"chunk", &Datapath::chunk, "K after which a fresh accumulator is added in float32; 0: never"},
      Field{"fraction_bits", &Datapath::fraction_bits, "bits kept below the largest exponent (align)"},
      Field{"align_rounding", &Datapath::align_rounding, "how terms are cut (align)"},
      Field{"normalize", &Datapath::normalize, "a product of 2 or more counts with an exponent one higher (align)"},
      Field{"zero_products", &Datapath::zero_products, "whether zeros count for the largest exponent (align)"},
      Field{"exponent_floor", &Datapath::exponent_floor, "least exponent that aligns; -1000: none (align)"},
      Field{"product_overflow", &Datapath::product_overflow, "a product of 2^128 or more is Inf (align)"},
      Field{"start", &Datapath::start, "where the accumulator meets the products (align)"},
      Field{"sum_fraction", &Datapath::sum_fraction, "bits of the sum below the largest exponent (late_floor)"},
      Field{"start_fraction", &Datapath::start_fraction, "and of the accumulator (late_floor)"},
      Field{"start_reach", &Datapath::start_reach,
            "exponents below the largest at which the accumulator still counts; 0: any (late_floor)"},
      Field{"accumulator_exponent_bits", &Datapath::accumulator_exponent_bits, "of the accumulator, 2 to 8"},
      Field{"accumulator_fraction", &Datapath::accumulator_fraction, "fraction bits of the accumulator"},
      Field{"accumulator_rounding", &Datapath::accumulator_rounding, "of sums to the accumulator (not integer)"},
      Field{"overflow", &Datapath::overflow, "of the accumulator"},
      Field{"flush_inputs", &Datapath::flush_inputs, "subnormal operands and starting values are +0 (tree)"},
      Field{"flush_results", &Datapath::flush_results, "subnormal results are zeros of their sign (tree)"},
      Field{"integer_bits", &Datapath::integer_bits, "of the accumulator (integer)"},
      Field{"integer_tree", &Datapath::integer_tree,
            "products added exactly between two looks at overflow; 0: all of a step (integer)"},
      Field{"integer_overflow", &Datapath::integer_overflow, "of the accumulator (integer)"},
      Field{"dropped_bits", &Datapath::dropped_bits, "low bits of a float32 word that the machine does not read"},
      Field{"output", &Datapath::output, "what can be read from the machine"},
      Field{"nan_bits", &Datapath::nan_bits, "the machine's NaN; its upper half is that of fp16"},
      Field{"block_scales", &Datapath::block_scales, "takes scales that vary along K"},
      Field{"scale", &Datapath::scale, "format of such scales where they come as codes"}};
};

// Every field of a record.
std::string describe(const ElementFormat& record);
std::string describe(const ScaleLevel& record);
std::string describe(const BlockFormat& record);
std::string describe(const Conversion& record);
std::string describe(const Sparsity& record);
std::string describe(const Datapath& record);

// For people: the name of an element of the catalog, else the fields that differ from their defaults.
std::string brief(const ElementFormat& record);
std::string brief(const ScaleLevel& record);
std::string brief(const BlockFormat& record);
std::string brief(const Conversion& record);
std::string brief(const Sparsity& record);
std::string brief(const Datapath& record);

// The call that makes a record in Python (of a datapath without its operands).
template <class Record>
std::string constructor_call(const Record& record) {
  return brief(record);
}
template <>
std::string constructor_call(const ElementFormat& record);
template <>
std::string constructor_call(const BlockFormat& record);

// The fields of a record in which it differs from another.
std::string difference(const Datapath& record, const Datapath& other);

template <class Enum>
constexpr std::string_view word_of(Enum value) {
  for (const Word<Enum>& w : Words<Enum>::list)
    if (w.value == value) return w.word;
  return "?";
}

}  // namespace sparq
