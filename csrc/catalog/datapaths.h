// The named machines, with where their rules come from and how sure that is.
#pragma once

#include "../datapath.h"
#include "elements.h"

namespace sparq::catalog {

struct NamedDatapath {
  std::string_view name;
  Datapath datapath;
  std::string_view source;
  // definition: true by construction; hardware: equals recorded devices; model: equals a published model or RTL that
  // was read; inferred: documents describe it, and what they leave open is chosen here.
  std::string_view evidence;
};

template <class... Elements>
constexpr Datapath taking(Datapath path, Elements... names) {
  path.operands = {element(names)...};
  path.operand_count = sizeof...(names);
  return path;
}

constexpr std::uint32_t nvidia_nan = 0x7FFFFFFF;
// The least exponent that aligns anything, found by probing devices; only sums of subnormal size see it.
constexpr int ampere_floor = -132, hopper_floor = -133;

// Products and accumulator cut toward zero at `fraction_bits`, the sum cut to float32 (MMA-Sim, MATLAB-tensor-core).
constexpr Datapath nvidia(int group, int fraction_bits, int exponent_floor) {
  return {.reduce = Reduce::align,
          .group = group,
          .fraction_bits = fraction_bits,
          .exponent_floor = exponent_floor,
          .accumulator_rounding = AccumulatorRounding::toward_zero,
          .output = Output::fp32_or_fp16,
          .nan_bits = nvidia_nan,
          .block_scales = false};
}
constexpr Datapath nvidia_16(int group, int fraction_bits, int exponent_floor) {
  return taking(nvidia(group, fraction_bits, exponent_floor), "fp16", "bf16");
}
// tf32 comes as float32 words, whose low bits are not read.
constexpr Datapath nvidia_tf32(int group, int fraction_bits, int exponent_floor) {
  Datapath path = taking(nvidia(group, fraction_bits, exponent_floor), "fp32", "tf32");
  path.dropped_bits = 13;
  path.output = Output::fp32;
  return path;
}
constexpr Datapath nvidia_fp8(int group, int fraction_bits, int accumulator_fraction) {
  Datapath path = taking(nvidia(group, fraction_bits, no_exponent_floor), "e4m3", "e5m2");
  path.accumulator_fraction = accumulator_fraction;
  return path;
}
constexpr Datapath promoted(Datapath path, int chunk) {
  path.chunk = chunk;
  path.output = Output::fp32;
  return path;
}
// fp8 operands on the fp16 unit: pairs of K alternate between two steps, and the accumulator comes last.
constexpr Datapath fp8_by_fp16() {
  Datapath path = nvidia_fp8(16, 25, 23);
  path.instruction = 32;
  path.run = 2;
  path.start = Start::after_instruction;
  return path;
}
constexpr Datapath blackwell_small_floats(bool scaled) {
  Datapath path = taking(nvidia(32, 25, no_exponent_floor), "e4m3", "e5m2", "e3m2", "e2m3", "e2m1");
  path.block_scales = scaled;
  if (scaled) path.output = Output::fp32;
  return path;
}
// Sixteen products exactly, times the significands of both scales; their exponents are those of the scales alone.
constexpr Datapath blackwell_fp4(std::string_view scale) {
  Datapath path = taking(nvidia(64, 35, no_exponent_floor), "e2m1");
  path.presum = 16;
  path.scale = element(scale);
  path.zero_products = ZeroProducts::lowest;
  path.block_scales = true;
  path.output = Output::fp32;
  return path;
}
constexpr Datapath cdna3(int group) {
  return {.reduce = Reduce::align,
          .group = group,
          .fraction_bits = 24,
          .product_overflow = true,
          .start = Start::late_floor,
          .sum_fraction = 31,
          .start_fraction = 24,
          .block_scales = false};
}
constexpr Datapath cdna3_xf32() {
  Datapath path = taking(cdna3(4), "fp32", "tf32");
  path.dropped_bits = 13;
  return path;
}
constexpr Datapath cdna3_fp8() {
  Datapath path = taking(cdna3(16), "e4m3fnuz", "e5m2fnuz");
  path.lanes = 2;
  path.start_reach = 25;
  return path;
}
// Integer mantissas in an accumulator of some bits; a block's sum then goes to float32.
constexpr Datapath integer_blocks(int group, int bits, IntegerOverflow overflow, int tree) {
  return {.reduce = Reduce::integer,
          .group = group,
          .integer_bits = bits,
          .integer_tree = tree,
          .integer_overflow = overflow};
}

inline constexpr std::string_view hardware = "hardware", model = "model", definition = "definition";
inline constexpr std::string_view mma_sim = "microsoft/MMA-Sim (model)";

inline constexpr std::array datapaths{
    NamedDatapath{"exact", {.reduce = Reduce::exact}, "docs/numerics.md section 10", definition},
    NamedDatapath{"block_fp32", {.reduce = Reduce::blocks}, "docs/numerics.md section 10", definition},
    NamedDatapath{"fma32", {.reduce = Reduce::fma}, "IEEE 754-2019 fusedMultiplyAdd", definition},
    NamedDatapath{"tree32",
                  {.reduce = Reduce::tree, .block_scales = false},
                  "float32 products in a balanced tree; docs/numerics.md section 10",
                  definition},
    NamedDatapath{"volta_16", taking(nvidia(4, 23, no_exponent_floor), "fp16"),
                  "V100 mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"turing_16", taking(nvidia(8, 24, ampere_floor), "fp16"), mma_sim, model},
    NamedDatapath{"ampere_16", nvidia_16(8, 24, ampere_floor), "A100 mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"ampere_tf32", nvidia_tf32(4, 24, ampere_floor), "A100 mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"ada_16", nvidia_16(8, 24, ampere_floor), "RTX 1000 Ada mma, recorded (MATLAB-tensor-core)",
                  hardware},
    NamedDatapath{"ada_tf32", nvidia_tf32(4, 24, ampere_floor), "RTX 1000 Ada mma, recorded (MATLAB-tensor-core)",
                  hardware},
    NamedDatapath{"ada_fp8", nvidia_fp8(16, 13, 13), "RTX 1000 Ada mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"ada_fp8_promoted", promoted(nvidia_fp8(16, 13, 13), 128),
                  "ada_fp8, every 128 of K added in float32 (mmaemu, recorded RTX 4060)", model},
    NamedDatapath{"hopper_16", nvidia_16(16, 25, hopper_floor), "H100 mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"hopper_tf32", nvidia_tf32(8, 25, hopper_floor),
                  "H100: recorded with 4 products (MATLAB-tensor-core), wgmma k8 (MMA-Sim)", model},
    NamedDatapath{"hopper_mma_sync_tf32", nvidia_tf32(4, 25, hopper_floor), "H100 mma, recorded (MATLAB-tensor-core)",
                  hardware},
    NamedDatapath{"hopper_fp8", nvidia_fp8(32, 13, 13), "H100 wgmma, recorded dot products (MATLAB-tensor-core)",
                  hardware},
    NamedDatapath{"hopper_fp8_promoted", promoted(nvidia_fp8(32, 13, 13), 128),
                  "hopper_fp8, every 128 of K added in float32 (mmaemu, recorded H100)", model},
    NamedDatapath{"hopper_fp8_mma_sync", fp8_by_fp16(), "H100 mma.sync, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"blackwell_16", nvidia_16(16, 25, hopper_floor), "B200 mma, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"blackwell_tf32", nvidia_tf32(8, 25, hopper_floor),
                  "B200: recorded with 4 products (MATLAB-tensor-core), tcgen05 k8 (MMA-Sim)", model},
    NamedDatapath{"blackwell_mma_sync_fp8", fp8_by_fp16(), "B200 mma.sync, recorded (MATLAB-tensor-core)", hardware},
    NamedDatapath{"blackwell_f8f6f4", blackwell_small_floats(false), mma_sim, model},
    NamedDatapath{"blackwell_mxf8", blackwell_small_floats(true), mma_sim, model},
    NamedDatapath{"blackwell_mxf4", blackwell_fp4("e8m0"), mma_sim, model},
    NamedDatapath{"blackwell_nvf4", blackwell_fp4("ue4m3"), mma_sim, model},
    NamedDatapath{
        "cdna2_16",
        taking({.reduce = Reduce::tree, .group = 4, .flush_inputs = true, .flush_results = true, .block_scales = false},
               "fp16", "bf16"),
        mma_sim, model},
    NamedDatapath{"cdna3_16", taking(cdna3(8), "fp16", "bf16"), mma_sim, model},
    NamedDatapath{"cdna3_xf32", cdna3_xf32(), mma_sim, model},
    NamedDatapath{"cdna3_fp8", cdna3_fp8(), mma_sim, model},
    NamedDatapath{"mxdotp", taking({.reduce = Reduce::blocks, .group = 8}, "e4m3", "e5m2"),
                  "MXDOTP, RTL of pulp-platform cvfpu (exact sum of 8 and the accumulator, one rounding)", model},
    NamedDatapath{"arm_fdot", taking({.reduce = Reduce::blocks, .group = 4, .block_scales = false}, "e4m3", "e5m2"),
                  "Arm FDOT (FP8DOT4): fused sum of four products and the accumulator", inferred},
    NamedDatapath{"agilex_bfp", taking(integer_blocks(10, 20, IntegerOverflow::wrap, 0), "int8", "mxint8_element"),
                  "Intel Agilex AI tensor block: 10 products in 20 bits, then float32", inferred},
    NamedDatapath{"hbfp8_wrap", taking(integer_blocks(0, 16, IntegerOverflow::wrap, 0), "hbfp8_element"),
                  "EPFL HBFP RTL: sums wrap at twice the bits of a mantissa", model},
    NamedDatapath{"hbfp8_saturate", taking(integer_blocks(0, 16, IntegerOverflow::saturate, 1), "hbfp8_element"),
                  "hbfp8_wrap with saturation after every product", definition},
    NamedDatapath{"int8_int32",
                  taking({.reduce = Reduce::integer,
                          .integer_bits = 32,
                          .integer_tree = 1,
                          .integer_overflow = IntegerOverflow::wrap,
                          .output = Output::int32,
                          .block_scales = false},
                         "int8"),
                  "two's complement of 32 bits", definition},
};

}  // namespace sparq::catalog
