// The named element and scale codes.
//
// Evidence: every row but the integers was compared with ml_dtypes 0.6.0, code by code (tests/test_elements.py).
#pragma once

#include <array>
#include <string_view>

#include "../format.h"

namespace sparq::catalog {

struct NamedElement {
  std::string_view name;
  ElementFormat format;
  std::string_view source;
};

using enum Specials;
using enum Signedness;

// Integers carry their binary point in the bias: value = k * 2^(1 - bias - mantissa_bits).
inline constexpr std::array elements{
    NamedElement{"e4m3", {4, 3, 7, fn}, "OCP OFP8 v1.0"},
    NamedElement{"e5m2", {5, 2, 15, ieee}, "OCP OFP8 v1.0"},
    NamedElement{"e4m3fnuz", {4, 3, 8, fnuz}, "MI300, Graphcore"},
    NamedElement{"e5m2fnuz", {5, 2, 16, fnuz}, "MI300, Graphcore"},
    NamedElement{"e3m2", {3, 2, 3, finite}, "OCP MX v1.0, FP6"},
    NamedElement{"e2m3", {2, 3, 1, finite}, "OCP MX v1.0, FP6"},
    NamedElement{"e2m1", {2, 1, 1, finite}, "OCP MX v1.0, FP4"},
    NamedElement{"bf16", {8, 7, 127, ieee}, "bfloat16"},
    NamedElement{"fp16", {5, 10, 15, ieee}, "IEEE 754 binary16"},
    NamedElement{"fp32", {8, 23, 127, ieee}, "IEEE 754 binary32"},
    NamedElement{"int8", {0, 7, -6, finite, twos_complement}, "two's complement, value k"},
    NamedElement{"mxint8_element", {0, 7, 0, finite, twos_complement}, "OCP MX v1.0, INT8: k / 64"},
    NamedElement{"hbfp8_element", {0, 7, 0, finite, sign_magnitude}, "HBFP: sign and 7 magnitude bits, k / 64"},
    NamedElement{"hbfp6_element", {0, 5, 0, finite, sign_magnitude}, "HBFP: sign and 5 magnitude bits, k / 16"},
    NamedElement{"hbfp4_element", {0, 3, 0, finite, sign_magnitude}, "HBFP: sign and 3 magnitude bits, k / 4"},
    NamedElement{"e8m0", {8, 0, 127, fn, unsigned_code, false}, "OCP MX v1.0, scale"},
};

constexpr const ElementFormat& element(std::string_view name) {
  for (const NamedElement& named : elements)
    if (named.name == name) return named.format;
  throw "no such element";  // at compile time only: every caller is a constant expression
}

// The specifications, restated.
static_assert(max_exponent(element("e4m3")) == 8 && max_code(element("e4m3")) == 0x7E);
static_assert(max_exponent(element("e5m2")) == 15 && max_code(element("e5m2")) == 0x7B);
static_assert(max_code(element("e4m3fnuz")) == 0x7F && nan_code(element("e4m3fnuz")) == 0x80);
static_assert(max_exponent(element("e3m2")) == 4 && max_exponent(element("e2m3")) == 2);
static_assert(max_exponent(element("e2m1")) == 2 && max_code(element("e2m1")) == 0x7);
static_assert(max_exponent(element("mxint8_element")) == 0 && code_bits(element("mxint8_element")) == 8);
static_assert(max_exponent(element("hbfp4_element")) == 0 && top_fraction_bits(element("hbfp4_element")) == 2);
static_assert(magnitude_of(element("int8"), 127).exponent == 0);
static_assert(nan_code(element("e8m0")) == 0xFF && max_code(element("e8m0")) == 0xFE);
static_assert(magnitude_of(element("e8m0"), 0).exponent == -127);
static_assert(nan_code(element("bf16")) == 0x7FC0 && infinity_code(element("fp16")) == 0x7C00);

}  // namespace sparq::catalog
