#include "geometry.h"

#include <algorithm>

namespace sparq::ops {

std::int64_t round_up(std::int64_t value, std::int64_t unit) { return (value + unit - 1) / unit * unit; }

std::int64_t tile_count(const Geometry& g) {
  if (g.batch == 0 || g.lines == 0 || g.length == 0) return 0;
  return g.batch * (round_up(g.lines, g.tile_lines) / g.tile_lines) *
         (round_up(g.length, g.tile_length) / g.tile_length);
}

Geometry make_geometry(const Shape& shape, std::int64_t block, std::int64_t blocks, bool one_scale,
                       std::int64_t align) {
  Geometry g;
  const bool rows = shape.inner == 1;
  g.batch = rows ? 1 : shape.outer;
  g.lines = rows ? shape.outer : shape.inner;
  g.length = shape.length;
  g.batch_stride = shape.length * shape.inner;
  g.line_stride = rows ? shape.length : 1;
  g.step = shape.inner;
  g.block = std::max<std::int64_t>(1, block);
  if (!one_scale) {
    g.scale_batch_stride = blocks * shape.inner;
    g.scale_line_stride = rows ? blocks : 1;
    g.scale_step = shape.inner;
  }
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
