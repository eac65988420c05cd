// Which of equals a group keeps under ties=topk (docs/numerics.md section 8): what a quickselect with medians of three
// leaves in front, step for step.
#pragma once

#include "carrier.h"

namespace sparq::SPARQ_ISA_NAME {
namespace {

template <class Int>
struct Ranked {
  Int key;
  int place;  // within the group
};

template <class Int>
inline void exchange(Ranked<Int>& a, Ranked<Int>& b) {
  const Ranked<Int> old = a;
  a = b;
  b = old;
}

// A heap with its lowest on top. `item` goes down from `at` as long as what lies below is no higher; of two equals the
// right one comes up.
template <class Int>
inline void sink(Ranked<Int>* heap, int count, int at, Ranked<Int> item) {
  for (int below = 2 * at + 1; below < count; below = 2 * at + 1) {
    if (below + 1 < count && heap[below + 1].key <= heap[below].key) ++below;
    if (heap[below].key > item.key) break;
    heap[at] = heap[below];
    at = below;
  }
  heap[at] = item;
}

// The first `kept` become a heap, whose top gives way to each later one that is higher.
template <class Int>
inline void select_by_heap(Ranked<Int>* all, int count, int kept) {
  for (int at = kept / 2 - 1; at >= 0; --at) sink(all, kept, at, all[at]);
  for (int i = kept; i < count; ++i) {
    if (all[i].key <= all[0].key) continue;
    const Ranked<Int> higher = all[i];
    all[i] = all[0];
    sink(all, kept, 0, higher);
  }
}

// Splits more than three: the higher ones go left of the place that is returned, equals of the pivot to either side.
template <class Int>
inline int split(Ranked<Int>* all, int count) {
  // The pivot is the median of the second, the middle and the last; of equals the later one counts as higher.
  const int second = 1, middle = count / 2, last = count - 1;
  const bool falls = all[second].key > all[middle].key, falls_on = all[middle].key > all[last].key;
  const bool falls_over = all[second].key > all[last].key;
  exchange(all[0], all[falls == falls_on ? middle : falls == falls_over ? last : second]);
  const Int pivot = all[0].key;
  for (int left = 1, right = last;; ++left, --right) {
    while (all[left].key > pivot) ++left;
    while (all[right].key < pivot) --right;
    if (left >= right) return left;
    exchange(all[left], all[right]);
  }
}

// keep[i] = 1 for the `kept` of `count` keys that stay; 0 < kept < count <= max_group.
template <class Int>
__attribute__((noinline)) void select_topk(const Int* keys, int count, int kept, std::uint8_t* keep) {
  Ranked<Int> all[max_group];
  for (int i = 0; i < count; ++i) all[i] = {keys[i], i};
  int splits = 0;  // that may be: twice the logarithm
  for (int n = count; n > 1; n /= 2) splits += 2;
  int first = 0, end = count;
  for (; end - first > 3 && splits > 0; --splits) {
    const int cut = first + split(all + first, end - first);
    (cut < kept ? first : end) = cut;
  }
  if (end - first > 3) {
    select_by_heap(all + first, end - first, kept - first);
  } else {
    for (int i = first + 1; i < end; ++i)
      for (int j = i; j > first && all[j].key > all[j - 1].key; --j) exchange(all[j], all[j - 1]);
  }
  for (int i = 0; i < count; ++i) keep[all[i].place] = i < kept ? 1 : 0;
}

}  // namespace
}  // namespace sparq::SPARQ_ISA_NAME
