// Where elements lie in memory, as kernels see them.
#pragma once

#include <cstdint>

namespace sparq {

enum class FloatType : std::uint8_t { fp16, bf16, fp32, fp64 };

static constexpr int bytes_of(FloatType type) { return type == FloatType::fp64 ? 8 : type == FloatType::fp32 ? 4 : 2; }

// A tensor cut into tiles. Lines run along the reduction axis; a tile is up to `tile_lines` lines by up to
// `tile_length` elements. Element k of line l of batch b lies at b * batch_stride + l * line_stride + k * step,
// and its scale at the same sum over the scale_ strides with k / block (all zero for a scale of the tensor).
struct Geometry {
  std::int64_t batch = 1, lines = 0, length = 0;
  std::int64_t batch_stride = 0, line_stride = 0, step = 1;
  std::int64_t block = 0;  // elements under one scale; == length for a scale per line or tensor
  std::int64_t scale_batch_stride = 0, scale_line_stride = 0, scale_step = 0;
  std::int64_t tile_lines = 1, tile_length = 0;
};

// Where a tile begins. Neighbouring tiles lie along a line, or, with a step between elements, side by side across
// lines: the next tile should be near in memory.
struct TilePlace {
  std::int64_t batch, line, element;
};

static constexpr TilePlace place_of_tile(const Geometry& g, std::int64_t tile) {
  const std::int64_t along = (g.length + g.tile_length - 1) / g.tile_length;
  const std::int64_t across = (g.lines + g.tile_lines - 1) / g.tile_lines;
  const std::int64_t batch = tile / (along * across), rest = tile % (along * across);
  if (g.step == 1) return {batch, rest / along * g.tile_lines, rest % along * g.tile_length};
  return {batch, rest % across * g.tile_lines, rest / across * g.tile_length};
}

// Elements of one tile at most: input and results of a tile stay in the first-level cache.
inline constexpr std::int64_t tile_capacity = 4096;

}  // namespace sparq
