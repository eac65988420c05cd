// Failures of the machine as error texts: the functions of ops throw nothing.
#pragma once

#include <exception>
#include <new>
#include <string>

namespace sparq::ops {

inline constexpr const char* out_of_memory = "not enough memory";

// Runs `work`, which returns an error text.
template <class Work>
std::string guarded(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return out_of_memory;
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace sparq::ops
