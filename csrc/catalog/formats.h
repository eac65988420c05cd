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

constexpr NamedFormat fp8_powers(std::string_view name, int along, int across) {
  return {name,
          blocked("e4m3", "e8m0", along, across),
          {.scale_rule = ScaleRule::rceil},
          "DeepSeek-V3 with powers of two: the least 2^X that is not below amax / 448",
          implementation};
}

constexpr NamedFormat cast(std::string_view name, std::string_view source, std::string_view evidence) {
  return {name, plain(name), {.overflow = Overflow::special}, source, evidence};
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
    nvfp4("nvfp4", 1, "NVFP4: tensor scale amax / 2688, then amax / 6 of each 16 to UE4M3"),
    nvfp4("nvfp4_16x16", 16, "NVFP4 weights for training: one UE4M3 scale per 16 x 16"),
    NamedFormat{"nvfp4_one_level",
                blocked("e2m1", "ue4m3", 16),
                {.scale_rule = ScaleRule::amax},
                "NVFP4 without its tensor scale: amax / 6 to UE4M3, nearest even",
                implementation},
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
