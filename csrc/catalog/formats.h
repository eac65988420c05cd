// The named block formats with the conversion that their specification or makers use by default.
#pragma once

#include "../conversion.h"
#include "elements.h"

namespace sparq::catalog {

struct NamedFormat {
  std::string_view name;
  BlockFormat format;
  Conversion conversion;
  std::string_view source;
  std::string_view evidence;
};

// One scale per `along` elements of a line.
constexpr BlockFormat blocked(std::string_view element_name, std::string_view scale, int along, int across = 1) {
  return {element(element_name), {ScaleLevel{element(scale), along, across}}, 1};
}

constexpr BlockFormat plain(std::string_view element_name) { return {element(element_name), {}, 0}; }

constexpr NamedFormat mx(std::string_view name, std::string_view element_name, std::string_view source = "OCP MX v1.0",
                         std::string_view evidence = specification) {
  return {name, blocked(element_name, "e8m0", 32), {}, source, evidence};
}

constexpr NamedFormat hbfp(std::string_view name, std::string_view element_name) {
  return {name, blocked(element_name, "e8m0", 64), {}, "HBFP (Drumond et al., NeurIPS 2018)", inferred};
}

// MSFP-k: a sign and k - 9 magnitude bits under 8 bits of exponent, which the name counts with every element.
constexpr NamedFormat msfp(std::string_view name, std::string_view element_name) {
  return {name, blocked(element_name, "e8m0", 16), {}, "MSFP (Rouhani et al., NeurIPS 2020), boxes of 16", inferred};
}

constexpr NamedFormat scaled(std::string_view name, std::string_view element_name, int along, int across,
                             std::string_view source, std::string_view evidence) {
  const Conversion by_amax{.scale_rule = ScaleRule::amax};
  return {name, blocked(element_name, "fp32", along, across), by_amax, source, evidence};
}

// Two's complement with a zero point for each scale.
constexpr NamedFormat affine(std::string_view name, std::string_view element_name, int along, int across,
                             std::string_view source) {
  BlockFormat format = blocked(element_name, "fp32", along, across);
  format.levels[1] = ScaleLevel{zero_point_format(format.element), along, across, Combine::subtract};
  format.level_count = 2;
  return {name, format, {.scale_rule = ScaleRule::amax, .integer_range = IntegerRange::full}, source, implementation};
}

// A float32 scale of the tensor above those of blocks.
constexpr BlockFormat under_tensor_scale(BlockFormat inner) {
  BlockFormat format = inner;
  format.levels = {ScaleLevel{element("fp32"), whole, whole}, inner.levels[0]};
  format.level_count = 2;
  return format;
}

constexpr NamedFormat nvfp4(std::string_view name, int across, std::string_view source) {
  return {name,
          under_tensor_scale(blocked("e2m1", "ue4m3", 16, across)),
          {.scale_rule = ScaleRule::amax},
          source,
          implementation};
}

// An exponent shared by 16, and one bit for each pair that divides it by 2.
constexpr NamedFormat shared_micro_exponents(std::string_view name, std::string_view element_name) {
  BlockFormat format = blocked(element_name, "e8m0", 16);
  format.levels[1] = ScaleLevel{element("micro1"), 2, 1, Combine::divide};
  format.level_count = 2;
  return {name, format, {}, "shared micro-exponents (Rouhani et al., ISCA 2023); AMD Quark", implementation};
}

// AMD XDNA: two's complement cut toward minus infinity.
constexpr NamedFormat xdna(std::string_view name, int along, std::string_view evidence) {
  return {name,
          blocked("mxint8_element", "e8m0", along),
          {.rounding = Rounding::down, .integer_range = IntegerRange::full},
          "AMD XDNA bfp16ebs8, bfp16ebs16; mlir-aie (subnormal numbers and what is no number as elsewhere here)",
          evidence};
}

// Tenstorrent's host packer: aligned without sticky bits, then nearest even.
constexpr NamedFormat bfp_host(std::string_view name, std::string_view element_name) {
  return {name,
          blocked(element_name, "e8m0", 16),
          {.signed_zero = SignedZero::drop, .align_bits = 23},
          "Tenstorrent host packer, tt-metal (subnormal numbers and what is no number as elsewhere here)",
          implementation};
}

// Its Wormhole packer: bfloat16 by truncation, BFP8 by nearest, ties away, and of that the leading bits.
constexpr NamedFormat bfp_packer(std::string_view name, std::string_view element_name, Rounding rounding, int align) {
  return {name,
          blocked(element_name, "e8m0", 16),
          {.rounding = rounding,
           .signed_zero = SignedZero::drop,
           .preround = Prerounding::bf16_toward_zero,
           .align_bits = align,
           .align_rounding = align > 0 ? AlignRounding::nearest_away : AlignRounding::toward_zero},
          "Tenstorrent Wormhole packer, tt-isa-documentation",
          implementation};
}

// Huawei's HiF4: E6M2 above 64, a bit that doubles 8 of them and one that doubles 4, and scales in bfloat16.
constexpr NamedFormat hif4() {
  BlockFormat format = blocked("hbfp4_element", "e6m2", 64);
  format.levels[1] = ScaleLevel{element("micro1"), 8, 1};
  format.levels[2] = ScaleLevel{element("micro1"), 4, 1};
  format.level_count = 3;
  return {"hif4",
          format,
          {.rounding = Rounding::nearest_away,
           .scale_rule = ScaleRule::amax,
           .signed_zero = SignedZero::underflow,
           .scale_apply = ScaleApply::reciprocal,
           .divisor_apply = DivisorApply::reciprocal,
           .scale_compute = ScaleCompute::bf16},
          "Huawei HiF4 (arXiv 2602.11287): amax / 7 to E6M2 by bfloat16 reciprocals",
          implementation};
}

// GGML: a float16 scale above 32, by which nothing is divided until it is decoded.
constexpr NamedFormat ggml(std::string_view name, std::string_view element_name, Conversion how,
                           std::string_view source) {
  how.scale_apply = ScaleApply::reciprocal;
  how.divide_by = DivideBy::quotient;
  return {name, blocked(element_name, "fp16", 32), how, source, implementation};
}

constexpr NamedFormat fp8_powers(std::string_view name, int along, int across) {
  return {name,
          blocked("e4m3", "e8m0", along, across),
          {.scale_rule = ScaleRule::rceil},
          "DeepSeek-V3 with powers of two: the least 2^X that is not below amax / 448",
          implementation};
}

constexpr NamedFormat cast(std::string_view name, std::string_view source, std::string_view evidence,
                           Rounding rounding = Rounding::nearest_even) {
  return {name, plain(name), {.rounding = rounding, .overflow = Overflow::special}, source, evidence};
}

inline constexpr std::array formats{
    mx("mxfp8_e4m3", "e4m3"),
    mx("mxfp8_e5m2", "e5m2"),
    mx("mxfp6_e2m3", "e2m3"),
    mx("mxfp6_e3m2", "e3m2"),
    mx("mxfp4", "e2m1"),
    mx("mxint8", "mxint8_element"),
    mx("mxint4", "mxint4_element", "Tenstorrent MXINT4, encoded by the rules of OCP MX v1.0", inferred),
    hbfp("hbfp8", "hbfp8_element"),
    hbfp("hbfp6", "hbfp6_element"),
    hbfp("hbfp4", "hbfp4_element"),
    msfp("msfp16", "hbfp8_element"),
    msfp("msfp15", "msfp15_element"),
    msfp("msfp14", "hbfp6_element"),
    msfp("msfp13", "msfp13_element"),
    msfp("msfp12", "hbfp4_element"),
    scaled("int8", "int8", whole, 1, "symmetric INT8, amax / 127 per row", inferred),
    scaled("int4", "int4", whole, 1, "symmetric INT4, amax / 7 per row", inferred),
    scaled("int4_g128", "int4", 128, 1, "symmetric INT4, amax / 7 per group of 128; makers vary the divisor", inferred),
    affine("int8_affine", "int8", whole, 1, "torch.ao PerChannelMinMaxObserver, qint8: minimum and maximum of a row"),
    affine("int4_affine_g128", "int4", 128, 1, "GPTQ's asymmetric INT4 in groups of 128, codes less 8"),
    affine("int8_affine_tensor", "int8", whole, whole, "torch.ao MinMaxObserver, qint8: of the tensor"),
    scaled("fp8_e4m3", "e4m3", whole, whole, "OCP OFP8 v1.0, amax / 448 per tensor", inferred),
    scaled("fp8_e5m2", "e5m2", whole, whole, "OCP OFP8 v1.0, amax / 57344 per tensor", inferred),
    scaled("fp8_e4m3_1x128", "e4m3", 128, 1, "DeepSeek-V3 activations, amax / 448 per 1 x 128", implementation),
    scaled("fp8_e4m3_row", "e4m3", whole, 1, "OCP OFP8 v1.0, amax / 448 per row", inferred),
    scaled("fp8_e4m3_128x128", "e4m3", 128, 128, "DeepSeek-V3 weights, amax / 448 per 128 x 128", implementation),
    fp8_powers("fp8_e4m3_1x128_ue8m0", 128, 1),
    fp8_powers("fp8_e4m3_128x128_ue8m0", 128, 128),
    shared_micro_exponents("mx9", "hbfp8_element"),
    shared_micro_exponents("mx6", "msfp13_element"),
    shared_micro_exponents("mx4", "mx4_element"),
    xdna("bfp16", 8, implementation),
    xdna("bfp16_ebs16", 16, inferred),
    NamedFormat{"bfp16_quark",
                blocked("mxint8_element", "e8m0", 8),
                {.scale_rule = ScaleRule::fit, .integer_range = IntegerRange::full},
                "AMD Quark BFP16: one exponent more where an element would leave -128 to 127",
                implementation},
    bfp_host("bfp8_b", "hbfp8_element"),
    bfp_host("bfp4_b", "hbfp4_element"),
    bfp_host("bfp2_b", "bfp2_element"),
    bfp_packer("bfp8_b_wormhole", "hbfp8_element", Rounding::nearest_away, 0),
    bfp_packer("bfp4_b_wormhole", "hbfp4_element", Rounding::toward_zero, 6),
    bfp_packer("bfp2_b_wormhole", "bfp2_element", Rounding::toward_zero, 6),
    nvfp4("nvfp4", 1, "NVFP4: tensor scale amax / 2688, then amax / 6 of each 16 to UE4M3"),
    nvfp4("nvfp4_16x16", 16, "NVFP4 weights for training: one UE4M3 scale per 16 x 16"),
    NamedFormat{"nvfp4_4over6",
                under_tensor_scale(blocked("e2m1", "ue4m3", 16)),
                {.scale_rule = ScaleRule::mse},
                "four over six (Cook et al., 2025): amax to 6 or to 4, whichever leaves the smaller squared error",
                implementation},
    NamedFormat{"nvfp4_one_level",
                blocked("e2m1", "ue4m3", 16),
                {.scale_rule = ScaleRule::amax},
                "NVFP4 without its tensor scale: amax / 6 to UE4M3, nearest even",
                implementation},
    hif4(),
    ggml("q8_0", "int8", {.rounding = Rounding::nearest_away, .scale_rule = ScaleRule::amax},
         "GGML Q8_0: amax / 127 in float16, integers by the unrounded scale"),
    ggml("q4_0", "int4",
         {.rounding = Rounding::toward_zero,
          .scale_rule = ScaleRule::signed_max,
          .integer_range = IntegerRange::full,
          .cut_offset = 8.5F},
         "GGML Q4_0: the largest magnitude, with its sign, to -8; integers cut after 8.5 was added"),
    cast("hif8", "Huawei HiF8: nearest, ties away, to Inf", implementation, Rounding::nearest_away),
    cast("bf16", "bfloat16", implementation),
    cast("fp16", "IEEE 754 binary16", specification),
    cast("tf32", "NVIDIA PTX cvt.rn.tf32.f32", implementation),
};

// Short names stand for the variant that most users mean.
struct Alias {
  std::string_view name;
  std::string_view format;
};
inline constexpr std::array aliases{Alias{"mxfp8", "mxfp8_e4m3"}, Alias{"mxfp6", "mxfp6_e2m3"}};

}  // namespace sparq::catalog
