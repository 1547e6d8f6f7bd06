// Memory in large pages where the system has them. Refining reads columns at random from an array of
// up to gigabytes: with small pages half its time goes into finding them.

#pragma once

#include <cstdlib>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace clipgap {

template <class T>
struct HugePages {
  using value_type = T;
  static constexpr std::size_t kPage = 2 << 20, kLine = 64;

  HugePages() = default;
  template <class U>
  HugePages(const HugePages<U>&) {}

  T* allocate(std::size_t n) {
    // What does not fill a huge page would spend its time on clearing the rest of one.
    const bool huge = n * sizeof(T) >= kPage;
    const std::size_t unit = huge ? kPage : kLine;
    const std::size_t bytes = (n * sizeof(T) + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, bytes);
    if (!memory) throw std::bad_alloc();
#ifdef __linux__
    if (huge) madvise(memory, bytes, MADV_HUGEPAGE);  // a wish; small pages work as well
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }

  template <class U>
  bool operator==(const HugePages<U>&) const {
    return true;
  }
  template <class U>
  bool operator!=(const HugePages<U>&) const {
    return false;
  }
};

template <class T>
using HugeVector = std::vector<T, HugePages<T>>;

}  // namespace clipgap
