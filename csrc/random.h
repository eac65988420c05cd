// Random bits as a function of place: Philox4x32-10 (Salmon et al., SC 2011).
#pragma once

#include <array>
#include <cstdint>

namespace sparq {

// Element i of a tensor uses word (offset + i) % 4 of the block numbered (offset + i) / 4.
struct Philox {
  std::uint64_t seed = 0, stream = 0, offset = 0;
};

inline constexpr std::uint32_t philox_multipliers[2] = {0xD2511F53, 0xCD9E8D57};
inline constexpr std::uint32_t philox_weyl[2] = {0x9E3779B9, 0xBB67AE85};
inline constexpr int philox_rounds = 10;

static constexpr std::array<std::uint32_t, 4> philox_block(const Philox& p, std::uint64_t block) {
  std::uint32_t c[4] = {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                        static_cast<std::uint32_t>(p.stream), static_cast<std::uint32_t>(p.stream >> 32)};
  std::uint32_t key[2] = {static_cast<std::uint32_t>(p.seed), static_cast<std::uint32_t>(p.seed >> 32)};
  for (int round = 0; round < philox_rounds; ++round) {
    const std::uint64_t a = std::uint64_t{philox_multipliers[0]} * c[0];
    const std::uint64_t b = std::uint64_t{philox_multipliers[1]} * c[2];
    const auto high_a = static_cast<std::uint32_t>(a >> 32), high_b = static_cast<std::uint32_t>(b >> 32);
    c[0] = high_b ^ c[1] ^ key[0];
    c[2] = high_a ^ c[3] ^ key[1];
    c[1] = static_cast<std::uint32_t>(b);
    c[3] = static_cast<std::uint32_t>(a);
    key[0] += philox_weyl[0];
    key[1] += philox_weyl[1];
  }
  return {c[0], c[1], c[2], c[3]};
}

static constexpr std::uint32_t philox_word(const Philox& p, std::uint64_t index) {
  const std::uint64_t place = p.offset + index;
  return philox_block(p, place / 4)[place % 4];
}

// Random123's known answers.
static_assert(philox_block({}, 0) == std::array<std::uint32_t, 4>{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8});
static_assert(philox_block({.seed = 0x299F31D0A4093822, .stream = 0x0370734413198A2E}, 0x85A308D3243F6A88) ==
              std::array<std::uint32_t, 4>{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1});

// Tenstorrent's 32-bit Fibonacci shift register, one step: the parity of its taps, inverted, comes in at the top. All
// ones is the state that it never leaves.
static constexpr std::uint32_t shift_register_step(std::uint32_t state) {
  std::uint32_t taps = state & 0x80200003;
  for (int half = 16; half > 0; half /= 2) taps ^= taps >> half;
  return (~taps & 1) << 31 | state >> 1;
}
static_assert(shift_register_step(0) == 0x80000000 && shift_register_step(0xFFFFFFFF) == 0xFFFFFFFF);
static_assert(shift_register_step(0x80000000) == 0x40000000 && shift_register_step(3) == 0x80000001);

}  // namespace sparq
