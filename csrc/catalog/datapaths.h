// The named machines, with where their rules come from and how sure that is.
#pragma once

#include "../datapath.h"
#include "elements.h"

namespace sparq::catalog {

struct NamedDatapath {
  std::string_view name;
  Datapath datapath;
  std::string_view source;
  std::string_view evidence;  // definition: true by construction; hardware: equals recorded devices
};

inline constexpr std::array datapaths{
    NamedDatapath{"exact", {.reduce = Reduce::exact}, "docs/numerics.md section 10", "definition"},
    NamedDatapath{"block_fp32", {.reduce = Reduce::blocks}, "docs/numerics.md section 10", "definition"},
    NamedDatapath{"fma32", {.reduce = Reduce::fma}, "IEEE 754-2019 fusedMultiplyAdd", "definition"},
    NamedDatapath{"hopper_fp8",
                  {.reduce = Reduce::align,
                   .group = 32,
                   .fraction_bits = 13,
                   .accumulator_fraction = 13,
                   .nan_bits = 0x7FFFFFFF,
                   .block_scales = false,
                   .operands = {element("e4m3"), element("e5m2")},
                   .operand_count = 2},
                  "H100 wgmma, recorded dot products (MATLAB-tensor-core)",
                  "hardware"},
};

}  // namespace sparq::catalog
