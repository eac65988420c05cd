// The order of work of products on aligning machines.
#pragma once

#include "presum.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// K that panels are worked on at once, so that a panel's part stays near: whole instructions and chunks.
inline std::int64_t near_length(const AlignPlan& plan) {
  const std::int64_t unit = plan.job.path.chunk > 0 ? plan.job.path.chunk : plan.instruction;
  return unit >= 256 ? unit : 256 / unit * unit;
}

// A number of rows, as a type.
template <int rows>
struct Together {
  static constexpr int count = rows;
};

// Rows and panels in float32 where that is exact, the others in integers, packed when the first of them comes.
struct NearProduct {
  const MultiplyJob& job;
  const AlignPlan& plan;
  const Truncation how;
  const Splitter a_split, b_split;

  explicit NearProduct(const AlignPlan& p) : job(p.job), plan(p), how(p), a_split(p, p.job.a), b_split(p, p.job.b) {}

  // Where the workspace holds what.
  struct Space {
    std::int64_t slots, block;
    std::int32_t *slots_of_k, *far_rows, *far_panel;
    float *rows, *turned, *panel, *acc;
    std::uint8_t *row_bytes, *turned_bytes, *panel_bytes;

    Space(const NearProduct& product, void* workspace)
        : slots((product.how.steps * product.how.slots + exponents_at_once - 1) / exponents_at_once *
                exponents_at_once),
          block(rows_at_once(product.job.k)) {
      panel = static_cast<float*>(workspace);
      acc = panel + lanes * slots;
      panel_bytes = reinterpret_cast<std::uint8_t*>(acc + block * lanes);
      rows = reinterpret_cast<float*>(panel_bytes + lanes * slots);
      turned = rows + block * slots;
      slots_of_k = reinterpret_cast<std::int32_t*>(turned + lanes * slots);
      far_rows = slots_of_k + product.job.k;
      far_panel = far_rows + block * FarProduct::row_words(product.plan);
      row_bytes = reinterpret_cast<std::uint8_t*>(far_panel + FarProduct::panel_words(product.plan));
      turned_bytes = row_bytes + block * slots;
    }
  };

  void operator()(std::int64_t first, std::int64_t last, void* workspace) const {
    const Space space(*this, workspace);
    const std::int64_t slots = space.slots;
    for (std::int64_t k = 0; k < job.k; ++k) space.slots_of_k[k] = static_cast<std::int32_t>(how.slot(k));
    const FloatPacker pack_a(how, a_split, space.slots_of_k), pack_b(how, b_split, space.slots_of_k);
    // Padding stays as it is.
    if (slots != job.k) {
      const auto padded = static_cast<std::size_t>((space.block + lanes) * slots);
      std::memset(space.rows, 0, padded * sizeof(float));
      std::memset(space.row_bytes, 0, padded);
    }
    RowKind kinds[most_rows_at_once];
    FarProduct far(plan, a_split, b_split, space.far_rows, space.far_panel);
    for (std::int64_t block = first; block < last; block += space.block) {
      const std::int64_t count = smaller(space.block, last - block);
      far.begin_rows();
      for (std::int64_t r = 0; r < count; ++r)
        kinds[r] = pack_a(block + r, space.rows + r * slots, space.row_bytes + r * slots);
      for (std::int64_t column = 0; column < job.n; column += lanes) {
        const std::int64_t width = smaller<std::int64_t>(lanes, job.n - column);
        RowKind panel{true};
        std::int32_t panel_highest[lanes];
        for (std::int64_t l = 0; l < lanes; ++l) {
          const RowKind one =
              pack_b(column + smaller(l, width - 1), space.turned + l * slots, space.turned_bytes + l * slots);
          panel = {panel.near && one.near, smaller(panel.lowest, one.lowest), larger(panel.highest, one.highest)};
          panel_highest[l] = one.highest;
        }
        turn_words(space.turned, slots, space.panel);
        turn_words(space.turned_bytes, slots / exponents_at_once, space.panel_bytes);
        bool near[most_rows_at_once];
        for (std::int64_t r = 0; r < count; ++r) {
          load_start(job, block + r, column, width, space.acc + r * lanes);
          near[r] = how.are_near(kinds[r], panel) && how.starts_near(space.acc + r * lanes);
        }
        multiply_panel(space, count, kinds, panel_highest, near);
        far.begin_panel();
        for (std::int64_t r = 0; r < count; ++r) {
          float* acc = space.acc + r * lanes;
          if (!near[r] || !all_finite(acc)) far(block, r, column, width, acc);
          store_result(job, block + r, column, width, acc);
        }
      }
    }
  }

  // The near rows against a panel, a part of K at a time.
  void multiply_panel(const Space& space, std::int64_t count, const RowKind* kinds, const std::int32_t* panel_highest,
                      const bool* near) const {
    const std::int64_t unit = job.path.chunk > 0 ? job.path.chunk / job.path.group : plan.steps;
    const std::int64_t wanted = 256 / how.slots, part = wanted > unit ? wanted / unit * unit : unit;
    for (std::int64_t s = 0; s < how.steps; s += part) {
      const std::int64_t end = smaller(s + part, how.steps);
      const auto go = [&](auto together, std::int64_t r) {
        constexpr int rows = decltype(together)::count;
        std::int32_t highest[all_lanes<rows>];
        FloatRows<rows> in{{}, {}, space.panel, space.panel_bytes, s * how.slots};
        for (int i = 0; i < rows; ++i) {
          in.row[i] = space.rows + (r + i) * space.slots;
          in.row_bytes[i] = space.row_bytes + (r + i) * space.slots;
          for (int l = 0; l < lanes; ++l)
            highest[i * lanes + l] = kinds[r + i].highest + panel_highest[l] - 2 * largest_byte;
        }
        truncating_steps(how, in, highest, end - s, unit, space.acc + r * lanes);
      };
      for (std::int64_t r = 0; r < count; ++r) {
        if (!near[r]) continue;
        if (rows_together == 2 && r + 1 < count && near[r + 1])
          go(Together<rows_together>{}, r++);
        else
          go(Together<1>{}, r);
      }
    }
  }
};

inline void multiply_aligned(const MultiplyJob& job, std::int64_t first, std::int64_t last, void* workspace) {
  const AlignPlan plan(job);
  const NearProduct near_product(plan);
  if (near_product.how.applies) return near_product(first, last, workspace);
  const PresumProduct presum_product(plan);
  if (presum_product.applies) return presum_product(first, last, workspace);
  const Splitter a_split(plan, job.a), b_split(plan, job.b);
  const ElementTable a_table(job.a.element), b_table(job.b.element);
  auto* a_rows = static_cast<std::int32_t*>(workspace);
  const std::int64_t row_plane = plan.packed, panel_plane = lanes * plan.packed, near = near_length(plan);
  std::int32_t* panel = a_rows + 2 * block_rows * plan.packed;
  bool a_special[block_rows], b_special[lanes];
  float acc[block_rows][lanes];
  for (std::int64_t block = first; block < last; block += block_rows) {
    const std::int64_t rows = smaller<std::int64_t>(block_rows, last - block);
    for (std::int64_t r = 0; r < rows; ++r)
      a_split.pack(block + r, 1, 1, 1, 0, a_rows + r * 2 * row_plane, row_plane, a_special + r);
    for (std::int64_t column = 0; column < job.n; column += lanes) {
      const std::int64_t count = smaller<std::int64_t>(lanes, job.n - column);
      b_split.pack(column, count, lanes, lanes, 1, panel, panel_plane, b_special);
      for (std::int64_t r = 0; r < rows; ++r) load_start(job, block + r, column, count, acc[r]);
      for (std::int64_t k = 0; k < plan.packed; k += near) {
        const std::int64_t end = smaller(k + near, plan.packed);
        for (std::int64_t r = 0; r < rows; ++r) {
          bool special[lanes];
          for (int l = 0; l < lanes; ++l) special[l] = a_special[r] || b_special[l];
          const AlignRows in{a_rows + r * 2 * row_plane, row_plane, panel, panel_plane, block + r, column};
          align_chunks(plan, in, a_table, b_table, special, k, end, acc[r]);
        }
      }
      for (std::int64_t r = 0; r < rows; ++r) store_result(job, block + r, column, count, acc[r]);
    }
  }
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
