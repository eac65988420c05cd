// Failures of the machine as error texts: the functions of ops throw nothing.
#pragma once

#include <exception>
#include <new>
#include <string>

namespace sparq::ops {

// Short, so that making a string of it takes no memory.
inline constexpr const char* out_of_memory = "out of memory";

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
