#pragma once

#include <chrono>
#include <new>
#include <thread>
#include <utility>

namespace moesaic::server {

/// Runs `work`, and again while it throws std::bad_alloc, for some seconds at most: for the few
/// bytes without which a client would wait for ever. Memory is short for moments, while others end
/// what took it. False when it was in vain. Not for the engine's thread, nor for the sockets'.
template <typename Work>
bool insist(Work&& work) noexcept {
  using std::chrono::milliseconds;
  constexpr int kTries = 200;
  constexpr milliseconds kPause{20};
  for (int i = 0; i < kTries; ++i) {
    try {
      std::forward<Work>(work)();
      return true;
    } catch (const std::bad_alloc&) {
      std::this_thread::sleep_for(kPause);
    }
  }
  return false;
}

}  // namespace moesaic::server
