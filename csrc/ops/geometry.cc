#include "geometry.h"

#include <algorithm>

namespace sparq::ops {

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

std::int64_t tile_count(const Geometry& g) {
  if (g.batch == 0 || g.lines == 0 || g.length == 0) return 0;
  return g.batch * (round_up(g.lines, g.tile_lines) / g.tile_lines) *
         (round_up(g.length, g.tile_length) / g.tile_length);
}

std::int64_t block_length(const ScaleLevel& level, std::int64_t length) {
  return std::max<std::int64_t>(1, level.along == whole ? length : level.along);
}

std::int64_t blocks_per_line(const ScaleLevel& level, std::int64_t length) {
  const std::int64_t block = block_length(level, length);
  return round_up(length, block) / block;
}

std::int64_t scale_lines(const ScaleLevel& level, const Shape& shape) {
  if (level.across == whole) return 1;
  if (level.across == 1 || shape.rows == 0) return shape.outer;
  return shape.outer / shape.rows * (round_up(shape.rows, level.across) / level.across);
}

std::int64_t scale_count(const ScaleLevel& level, const Shape& shape) {
  if (level.across == whole) return 1;
  return scale_lines(level, shape) * blocks_per_line(level, shape.length) * shape.inner;
}

ScalePlane make_plane(const ScaleLevel& level, const Shape& shape, void* data, bool given) {
  ScalePlane p;
  p.data = data;
  p.bytes = code_bytes(level.format);
  p.given = given;
  p.along = block_length(level, shape.length);
  if (level.across == whole) return p;
  const std::int64_t blocks = blocks_per_line(level, shape.length);
  p.across = level.across;
  p.line_stride = shape.inner == 1 ? blocks : 1;
  p.step = shape.inner;
  if (shape.inner != 1)
    p.batch_stride = blocks * shape.inner;
  else if (shape.rows != 0)
    p.batch_stride = round_up(shape.rows, level.across) / level.across * blocks;
  return p;
}

Geometry make_geometry(const Shape& shape, std::int64_t block, std::int64_t align) {
  Geometry g;
  const bool rows = shape.inner == 1;
  const std::int64_t lines = shape.rows != 0 ? shape.rows : shape.outer;
  g.batch = rows ? shape.outer / std::max<std::int64_t>(1, lines) : shape.outer;
  g.lines = rows ? lines : shape.inner;
  g.length = shape.length;
  g.batch_stride = shape.length * (rows ? lines : shape.inner);
  g.line_stride = rows ? shape.length : 1;
  g.step = shape.inner;
  g.block = std::max<std::int64_t>(1, block);
  // With a step between elements, neighbouring lines share cache lines and pages: take many at once.
  const std::int64_t wanted_lines = rows ? 1 : std::min<std::int64_t>(g.lines, 128);
  g.tile_length = std::max<std::int64_t>(1, shape.length);
  if (g.tile_length * wanted_lines > tile_capacity) {
    const std::int64_t room = tile_capacity / wanted_lines;
    g.tile_length = std::min(g.tile_length, std::max(align, room / align * align));
  }
  g.tile_lines = std::clamp<std::int64_t>(tile_capacity / g.tile_length, 1, std::max<std::int64_t>(1, g.lines));
  return g;
}

std::int64_t largest_divisor(std::int64_t value, std::int64_t limit) {
  for (std::int64_t d = std::min(value, limit); d > 1; --d)
    if (value % d == 0) return d;
  return 1;
}

}  // namespace sparq::ops
