// Where elements lie in memory, as kernels see them.
#pragma once

#include <cstdint>

namespace sparq {

enum class FloatType : std::uint8_t { fp16, bf16, fp32, fp64 };

static constexpr int bytes_of(FloatType type) { return type == FloatType::fp64 ? 8 : type == FloatType::fp32 ? 4 : 2; }

// A tensor cut into tiles. Lines run along the reduction axis; a tile is up to `tile_lines` lines by up to
// `tile_length` elements. Element k of line l of batch b lies at b * batch_stride + l * line_stride + k * step.
struct Geometry {
  std::int64_t batch = 1, lines = 0, length = 0;
  std::int64_t batch_stride = 0, line_stride = 0, step = 1;
  std::int64_t block = 0;  // elements of a line under one main scale; == length for a scale per line or tensor
  std::int64_t tile_lines = 1, tile_length = 0;
};

// The scales of one level. The one above element k of line l of batch b is
// b * batch_stride + l / across * line_stride + k / along * step (all strides are zero for a scale of the tensor).
struct ScalePlane {
  void* data = nullptr;  // uint8/16 codes or float32; read when given, else written if not null
  int bytes = 1;
  bool given = false;
  std::int64_t along = 1, across = 1;
  std::int64_t batch_stride = 0, line_stride = 0, step = 0;
};

static constexpr std::int64_t scale_index(const ScalePlane& p, std::int64_t batch, std::int64_t line,
                                          std::int64_t element) {
  return batch * p.batch_stride + line / p.across * p.line_stride + element / p.along * p.step;
}

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
