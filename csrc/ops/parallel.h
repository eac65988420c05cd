// Work split over threads that live for one call, each with the default floating-point state.
#pragma once

#include <cstdint>
#include <functional>

namespace sparq::ops {

// Threads that `work` units deserve when each should get about `grain`; `requested` > 0 decides alone. Never more
// than `pieces`.
int thread_count(std::int64_t work, std::int64_t grain, int requested, std::int64_t pieces);

// Calls body(first, last, thread) over [0, pieces) in `threads` contiguous ranges. Rounding is to nearest and nothing
// is flushed while body runs, whatever the caller's state is; that state is restored.
void parallel_for(std::int64_t pieces, int threads, const std::function<void(std::int64_t, std::int64_t, int)>& body);

}  // namespace sparq::ops
