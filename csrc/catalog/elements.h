// The named element and scale codes.
//
// Compared code by code with ml_dtypes (tests/test_elements.py) and gfloat (tests/test_catalog.py), where those have
// them.
#pragma once

#include <array>
#include <string_view>

#include "../format.h"

namespace sparq::catalog {

// How sure a row is.
inline constexpr std::string_view specification = "specification";    // a published one says so, a draft included
inline constexpr std::string_view implementation = "implementation";  // makers' software or documents do so
inline constexpr std::string_view inferred = "inferred";              // papers and names suggest it; makers may differ

struct NamedElement {
  std::string_view name;
  ElementFormat format;
  std::string_view source;
  std::string_view evidence;
};

using enum Specials;
using enum Signedness;

// Integers carry their binary point in the bias: value = k * 2^(1 - bias - mantissa_bits).
inline constexpr std::array elements{
    NamedElement{"e4m3", {4, 3, 7, fn}, "OCP OFP8 v1.0", specification},
    NamedElement{"e5m2", {5, 2, 15, ieee}, "OCP OFP8 v1.0", specification},
    NamedElement{"e4m3fnuz", {4, 3, 8, fnuz}, "MI300, Graphcore", implementation},
    NamedElement{"e5m2fnuz", {5, 2, 16, fnuz}, "MI300, Graphcore", implementation},
    NamedElement{"e4m3b11fnuz", {4, 3, 11, fnuz}, "TPU; XLA and ml_dtypes float8_e4m3b11fnuz", implementation},
    NamedElement{"e4m3_ieee", {4, 3, 7, ieee}, "LLVM and ml_dtypes float8_e4m3", implementation},
    NamedElement{"e3m4", {3, 4, 3, ieee}, "LLVM and ml_dtypes float8_e3m4", implementation},
    NamedElement{"p3109_8p3se", {5, 2, 16, fnuz_inf}, "IEEE P3109 interim report v4.0, Binary8p3se", specification},
    NamedElement{"p3109_8p4se", {4, 3, 8, fnuz_inf}, "IEEE P3109 interim report v4.0, Binary8p4se", specification},
    NamedElement{"p3109_8p5se", {3, 4, 4, fnuz_inf}, "IEEE P3109 interim report v4.0, Binary8p5se", specification},
    NamedElement{"p3109_4p2sf", {2, 1, 2, fnuz}, "IEEE P3109 interim report v4.0, Binary4p2sf", specification},
    NamedElement{
        "hif8", {4, 3, 23, fnuz_inf, sign_magnitude, true, 2}, "Huawei HiF8; en_dtypes hifloat8", implementation},
    NamedElement{"e3m2", {3, 2, 3, finite}, "OCP MX v1.0, FP6", specification},
    NamedElement{"e2m3", {2, 3, 1, finite}, "OCP MX v1.0, FP6", specification},
    NamedElement{"e2m1", {2, 1, 1, finite}, "OCP MX v1.0, FP4", specification},
    NamedElement{"e1m2", {1, 2, 1, finite}, "en_dtypes float4_e1m2; sign and magnitude, k / 4", implementation},
    NamedElement{"bf16", {8, 7, 127, ieee}, "bfloat16", implementation},
    NamedElement{"fp16", {5, 10, 15, ieee}, "IEEE 754 binary16", specification},
    NamedElement{"tf32", {8, 10, 127, ieee}, "NVIDIA PTX; the upper 19 bits of a float32", implementation},
    NamedElement{"fp32", {8, 23, 127, ieee}, "IEEE 754 binary32", specification},
    NamedElement{"int8", {0, 7, -6, finite, twos_complement}, "two's complement, value k", implementation},
    NamedElement{"int4", {0, 3, -2, finite, twos_complement}, "two's complement, value k", implementation},
    NamedElement{"mxint8_element", {0, 7, 0, finite, twos_complement}, "OCP MX v1.0, INT8: k / 64", specification},
    NamedElement{
        "mxint4_element", {0, 3, 0, finite, twos_complement}, "Tenstorrent MXINT4: S1.2, k / 4", implementation},
    NamedElement{
        "hbfp8_element", {0, 7, 0, finite, sign_magnitude}, "HBFP: sign and 7 magnitude bits, k / 64", inferred},
    NamedElement{
        "hbfp6_element", {0, 5, 0, finite, sign_magnitude}, "HBFP: sign and 5 magnitude bits, k / 16", inferred},
    NamedElement{
        "hbfp4_element", {0, 3, 0, finite, sign_magnitude}, "HBFP: sign and 3 magnitude bits, k / 4", inferred},
    NamedElement{
        "msfp15_element", {0, 6, 0, finite, sign_magnitude}, "MSFP: sign and 6 magnitude bits, k / 32", inferred},
    NamedElement{
        "msfp13_element", {0, 4, 0, finite, sign_magnitude}, "MSFP: sign and 4 magnitude bits, k / 8", inferred},
    NamedElement{
        "mx4_element", {0, 2, 0, finite, sign_magnitude}, "MX4: sign and 2 magnitude bits, k / 2", implementation},
    NamedElement{"bfp2_element",
                 {0, 1, 0, finite, sign_magnitude},
                 "Tenstorrent BFP2: sign and one magnitude bit",
                 implementation},
    NamedElement{"ue4m3", {4, 3, 7, fn, unsigned_code}, "NVFP4 scale: E4M3 without its sign", implementation},
    NamedElement{"ue5m3", {5, 3, 15, fn, unsigned_code}, "AMD Quark scale", implementation},
    NamedElement{"e6m2",
                 {6, 2, 48, fn, unsigned_code, false},
                 "HiF4 scale: no zero (that field 0 is a normal binade is inferred)",
                 inferred},
    NamedElement{"e8m0", {8, 0, 127, fn, unsigned_code, false}, "OCP MX v1.0, scale", specification},
    NamedElement{"micro1", {1, 0, 0, finite, unsigned_code, false}, "1-bit micro-exponent: 2^0 or 2^1", implementation},
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
static_assert(nan_code(element("p3109_8p4se")) == 0x80 && infinity_code(element("p3109_8p4se")) == 0x7F);
static_assert(max_exponent(element("p3109_8p3se")) == 15 && max_exponent(element("p3109_8p5se")) == 3);
static_assert(max_code(element("p3109_4p2sf")) == 0x7 && nan_code(element("p3109_4p2sf")) == 0x8);
static_assert(max_code(element("e4m3_ieee")) == 0x77 && max_code(element("e3m4")) == 0x6F);
static_assert(max_exponent(element("e3m2")) == 4 && max_exponent(element("e2m3")) == 2);
static_assert(max_exponent(element("e2m1")) == 2 && max_code(element("e2m1")) == 0x7);
static_assert(max_exponent(element("mxint8_element")) == 0 && code_bits(element("mxint8_element")) == 8);
static_assert(max_exponent(element("hbfp4_element")) == 0 && top_fraction_bits(element("hbfp4_element")) == 2);
static_assert(magnitude_of(element("int8"), 127).exponent == 0 && magnitude_of(element("int4"), 7).exponent == 0);
static_assert(max_exponent(element("mxint4_element")) == 0 && code_bits(element("mxint4_element")) == 4);
static_assert(max_exponent(element("ue5m3")) == 16 && max_code(element("ue5m3")) == 0xFE);
static_assert(nan_code(element("ue4m3")) == 0x7F && code_bits(element("tf32")) == 19);
static_assert(fills_memory(element("hif8")) && max_exponent(element("hif8")) == 15);
static_assert(code_in_memory(element("hif8"), max_code(element("hif8"))) == 0x6E);
static_assert(code_in_memory(element("hif8"), infinity_code(element("hif8"))) == 0x6F);
static_assert(max_exponent(element("e6m2")) == 15 && max_code(element("e6m2")) == 0xFE);
static_assert(nan_code(element("e8m0")) == 0xFF && max_code(element("e8m0")) == 0xFE);
static_assert(magnitude_of(element("e8m0"), 0).exponent == -127);
static_assert(nan_code(element("bf16")) == 0x7FC0 && infinity_code(element("fp16")) == 0x7C00);

}  // namespace sparq::catalog
