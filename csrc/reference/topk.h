// What ties=topk keeps of a group (docs/numerics.md section 8), written as the rule is: with lists of places, and
// merges into the paths of a heap.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <utility>
#include <vector>

namespace sparq::reference {

class TopK {
 public:
  using Higher = std::function<bool(std::size_t, std::size_t)>;

  // The places of a group of `count`, those of the `kept` that stay first; higher(a, b): place a ranks above b.
  static std::vector<std::size_t> order(std::size_t count, std::size_t kept, const Higher& higher) {
    TopK made(count, kept, higher);
    made.select();
    return made.places_;
  }

 private:
  TopK(std::size_t count, std::size_t kept, const Higher& higher) : kept_(kept), end_(count), higher_(higher) {
    for (std::size_t i = 0; i < count; ++i) places_.push_back(i);
  }

  void select() {
    for (int left = 2 * (static_cast<int>(std::bit_width(places_.size())) - 1); end_ - begin_ > 3; --left) {
      if (left == 0) return heap();
      const std::size_t cut = split();
      (cut < kept_ ? begin_ : end_) = cut;
    }
    std::stable_sort(places_.begin() + at(begin_), places_.begin() + at(end_), higher_);
  }

  std::size_t split() {
    std::array<std::size_t, 3> three{begin_ + 1, begin_ + (end_ - begin_) / 2, end_ - 1};
    std::sort(three.begin(), three.end(), [&](std::size_t a, std::size_t b) {
      return higher_(places_[a], places_[b]) || (!higher_(places_[b], places_[a]) && a > b);
    });
    std::swap(places_[begin_], places_[three[1]]);
    const std::size_t pivot = places_[begin_];
    // What has to leave the left side and the right side, each in the order in which its end comes to it.
    std::vector<std::size_t> not_left, not_right;
    for (std::size_t i = begin_ + 1; i < end_; ++i)
      if (!higher_(places_[i], pivot)) not_left.push_back(i);
    for (std::size_t i = end_; i-- > begin_;)
      if (!higher_(pivot, places_[i])) not_right.push_back(i);
    std::size_t cut = end_;
    for (std::size_t i = 0;; ++i) {
      if (i < not_left.size()) cut = std::min(cut, not_left[i]);
      if (i == not_left.size() || not_left[i] >= not_right[i]) return cut;
      std::swap(places_[not_left[i]], places_[not_right[i]]);
      cut = not_right[i];
    }
  }

  void heap() {
    for (std::size_t node = (kept_ - begin_) / 2; node-- > 0;) merge(node, places_[begin_ + node]);
    for (std::size_t i = kept_; i < end_; ++i)
      if (higher_(places_[i], places_[begin_])) merge(0, std::exchange(places_[i], places_[begin_]));
  }

  // Puts a place into the path of lowest children below a node, above those that rank higher.
  void merge(std::size_t node, std::size_t place) {
    std::vector<std::size_t> path{begin_ + node}, found;
    for (std::size_t child = 2 * node + 1; child < kept_ - begin_; child = 2 * child + 1) {
      const std::size_t other = child + 1;
      if (other < kept_ - begin_ && !higher_(places_[begin_ + other], places_[begin_ + child])) child = other;
      path.push_back(begin_ + child);
      found.push_back(places_[begin_ + child]);
    }
    found.insert(std::find_if(found.begin(), found.end(), [&](std::size_t one) { return higher_(one, place); }), place);
    for (std::size_t i = 0; i < path.size(); ++i) places_[path[i]] = found[i];
  }

  static std::ptrdiff_t at(std::size_t i) { return static_cast<std::ptrdiff_t>(i); }

  std::vector<std::size_t> places_;
  std::size_t kept_, begin_ = 0, end_;
  const Higher& higher_;
};

}  // namespace sparq::reference
