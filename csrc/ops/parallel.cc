#include "parallel.h"

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sparq::ops {
namespace {

// torch.set_flush_denormal(True) and the like must not reach our arithmetic.
class DefaultFloatState {
 public:
#if defined(__x86_64__)
  DefaultFloatState() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFloatState() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatState() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(std::uint64_t{0}));
  }
  ~DefaultFloatState() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_ = 0;
#endif
 public:
  DefaultFloatState(const DefaultFloatState&) = delete;
  DefaultFloatState& operator=(const DefaultFloatState&) = delete;
};

}  // namespace

int thread_count(std::int64_t work, std::int64_t grain, int requested, std::int64_t pieces) {
  std::int64_t threads = requested;
  if (requested <= 0) {
    const auto cores = static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
    threads = std::min(cores, work / grain);
  }
  return static_cast<int>(
      std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(1, std::min<std::int64_t>(pieces, 1024))));
}

void parallel_for(std::int64_t pieces, int threads, const std::function<void(std::int64_t, std::int64_t, int)>& body) {
  const auto run = [&](int thread) {
    const DefaultFloatState state;
    body(pieces * thread / threads, pieces * (thread + 1) / threads, thread);
  };
  std::vector<std::jthread> workers;
  workers.reserve(static_cast<std::size_t>(threads));
  int started = 1;
  try {
    for (; started < threads; ++started) workers.emplace_back(run, started);
  } catch (const std::system_error&) {
    // The system has no more threads: this one does the rest.
  }
  run(0);
  for (int thread = started; thread < threads; ++thread) run(thread);
}

}  // namespace sparq::ops
