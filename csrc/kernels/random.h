// The random stage of stochastic rounding (docs/numerics.md section 2): for each element the integer that its fraction
// has to reach to be rounded away from zero.
#pragma once

#include "load_store.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

inline constexpr std::int64_t philox_chunk = 256;

// Blocks of Philox side by side: word w of each lands in words[w].
inline void philox_blocks(const Philox& p, const std::uint64_t* block, std::int64_t count,
                          std::uint32_t (*words)[philox_chunk]) {
  std::uint32_t c0[philox_chunk], c1[philox_chunk], c2[philox_chunk], c3[philox_chunk];
  for (std::int64_t i = 0; i < count; ++i) {
    c0[i] = static_cast<std::uint32_t>(block[i]);
    c1[i] = static_cast<std::uint32_t>(block[i] >> 32);
    c2[i] = static_cast<std::uint32_t>(p.stream);
    c3[i] = static_cast<std::uint32_t>(p.stream >> 32);
  }
  auto key0 = static_cast<std::uint32_t>(p.seed), key1 = static_cast<std::uint32_t>(p.seed >> 32);
  for (int round = 0; round < philox_rounds; ++round) {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t a = std::uint64_t{philox_multipliers[0]} * c0[i];
      const std::uint64_t b = std::uint64_t{philox_multipliers[1]} * c2[i];
      c0[i] = static_cast<std::uint32_t>(b >> 32) ^ c1[i] ^ key0;
      c2[i] = static_cast<std::uint32_t>(a >> 32) ^ c3[i] ^ key1;
      c1[i] = static_cast<std::uint32_t>(b);
      c3[i] = static_cast<std::uint32_t>(a);
    }
    key0 += philox_weyl[0];
    key1 += philox_weyl[1];
  }
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(std::uint32_t);
  __builtin_memcpy(words[0], c0, bytes);
  __builtin_memcpy(words[1], c1, bytes);
  __builtin_memcpy(words[2], c2, bytes);
  __builtin_memcpy(words[3], c3, bytes);
}

// The words of elements first, first + step, ...
inline void philox_row(const Philox& p, std::uint64_t first, std::int64_t step, std::int64_t count, std::uint32_t* to) {
  std::uint64_t block[philox_chunk];
  std::uint32_t words[4][philox_chunk];
  if (step != 1) {
    for (std::int64_t done = 0; done < count; done += philox_chunk) {
      const std::int64_t n = smaller(philox_chunk, count - done);
      const std::uint64_t place = p.offset + first + static_cast<std::uint64_t>(done * step);
      for (std::int64_t i = 0; i < n; ++i) block[i] = (place + static_cast<std::uint64_t>(i * step)) / 4;
      philox_blocks(p, block, n, words);
      for (std::int64_t i = 0; i < n; ++i) to[done + i] = words[(place + static_cast<std::uint64_t>(i * step)) % 4][i];
    }
    return;
  }
  std::uint32_t in_order[4 * philox_chunk];
  const std::uint64_t place = p.offset + first;
  // The first block may begin before the row.
  auto skip = static_cast<std::int64_t>(place % 4);
  std::uint64_t number = place / 4;
  for (std::int64_t done = 0; done < count; skip = 0, number += philox_chunk) {
    const std::int64_t blocks = smaller(philox_chunk, (count - done + skip + 3) / 4);
    for (std::int64_t i = 0; i < blocks; ++i) block[i] = number + static_cast<std::uint64_t>(i);
    philox_blocks(p, block, blocks, words);
    for (std::int64_t i = 0; i < blocks; ++i) {
      in_order[4 * i] = words[0][i];
      in_order[4 * i + 1] = words[1][i];
      in_order[4 * i + 2] = words[2][i];
      in_order[4 * i + 3] = words[3][i];
    }
    const std::int64_t n = smaller(4 * blocks - skip, count - done);
    __builtin_memcpy(to + done, in_order + skip, static_cast<std::size_t>(n) * sizeof *to);
    done += n;
  }
}

// Thresholds of `count` elements at `offset`, `step` apart.
inline void fill_chances(const QuantizeJob& job, std::int64_t offset, std::int64_t step, std::int64_t count,
                         std::uint32_t* to) {
  const int bits = job.conversion.random_bits;
  const bool odd = job.conversion.stochastic == Stochastic::b;
  const std::uint32_t top = std::uint32_t{1} << job.chance_bits;
  if (job.random != nullptr) {
    const std::uint32_t* from = job.random + offset;
    if (step == 1)
      __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof *to);
    else
      for (std::int64_t i = 0; i < count; ++i) to[i] = from[i * step];
  } else {
    philox_row(job.philox, static_cast<std::uint64_t>(offset), step, count, to);
    for (std::int64_t i = 0; i < count; ++i) to[i] = to[i] >> (32 - bits);
  }
  const std::uint32_t mask = (std::uint32_t{1} << bits) - 1, twice = odd ? 1 : 0;
  for (std::int64_t i = 0; i < count; ++i) to[i] = top - (((to[i] & mask) << twice) + twice);
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
