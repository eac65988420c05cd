// Rows and panels that the faster kernels of aligning machines leave to the general one.
#pragma once

#include "align.h"
#include "results.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

// The rows that go through align.h, packed when the first of them comes.
class FarProduct {
 public:
  FarProduct(const AlignPlan& p, const Splitter& a, const Splitter& b, std::int32_t* rows, std::int32_t* panel)
      : plan_(p), a_(a), b_(b), a_table_(a.operand.element), b_table_(b.operand.element), rows_(rows), panel_(panel) {}

  // int32 words that it works in.
  static std::int64_t row_words(const AlignPlan& plan) { return 2 * plan.packed; }
  static std::int64_t panel_words(const AlignPlan& plan) { return 2 * lanes * plan.packed; }

  void begin_rows() {
    for (bool& packed : row_packed_) packed = false;
  }
  void begin_panel() { panel_packed_ = false; }

  // Row `first_row + r` against the panel at `column`, from the start.
  void operator()(std::int64_t first_row, std::int64_t r, std::int64_t column, std::int64_t width, float* acc) {
    const std::int64_t packed = plan_.packed;
    std::int32_t* row = rows_ + r * row_words(plan_);
    if (!panel_packed_) b_.pack(column, width, lanes, lanes, 1, panel_, lanes * packed, panel_special_);
    if (!row_packed_[r]) a_.pack(first_row + r, 1, 1, 1, 0, row, packed, row_special_ + r);
    panel_packed_ = row_packed_[r] = true;
    load_start(plan_.job, first_row + r, column, width, acc);
    bool special[lanes];
    for (int l = 0; l < lanes; ++l) special[l] = row_special_[r] || panel_special_[l];
    const AlignRows in{row, packed, panel_, lanes * packed, first_row + r, column};
    align_chunks(plan_, in, a_table_, b_table_, special, 0, packed, acc);
  }

 private:
  const AlignPlan& plan_;
  const Splitter &a_, &b_;
  const ElementTable a_table_, b_table_;
  std::int32_t *rows_, *panel_;
  bool row_packed_[most_rows_at_once] = {}, row_special_[most_rows_at_once];
  bool panel_packed_ = false, panel_special_[lanes];
};

inline bool all_finite(const float* acc) {
  float sum = 0;
  for (int l = 0; l < lanes; ++l) sum += acc[l] - acc[l];
  return sum == 0;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
