// Work that several threads share, done by as many of them as the system gives.

#pragma once

#include <sys/mman.h>

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace clipgap {

// The most threads that any call so far wanted and did not get.
inline std::atomic<int> missing_threads{0};

// Address space held back while threads are started, lest their stacks take the last of it: those that
// have started need some to work with, and without any the C library ends the process.
class Reserve {
 public:
  Reserve() : at_(mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0)) {}
  ~Reserve() {
    if (is_there()) munmap(at_, kBytes);
  }
  bool is_there() const { return at_ != MAP_FAILED; }

 private:
  static constexpr std::size_t kBytes = 48 << 20;
  void* at_;
};

// Runs `here` on this thread and `there` on up to `threads - 1` others. A limit on processes or on
// memory may leave fewer of them, so both take whatever is left to do, never a share by number; neither
// may throw.
template <class Here, class There>
void run_on_threads(int threads, const Here& here, const There& there) {
  std::vector<std::thread> others;
  if (threads > 1) {
    const Reserve reserve;
    try {
      while (reserve.is_there() && int(others.size()) + 1 < threads) others.emplace_back(there);
    } catch (const std::exception&) {  // refused
    }
  }
  const int missing = threads - 1 - int(others.size());
  for (int most = missing_threads; most < missing;) {
    if (missing_threads.compare_exchange_weak(most, missing)) break;
  }
  here();
  for (std::thread& other : others) other.join();
}

}  // namespace clipgap
