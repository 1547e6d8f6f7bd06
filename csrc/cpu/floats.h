#pragma once

#include <cfenv>

namespace clipgap {

// Rounding and subnormals as C++ starts with, whatever the calling thread (torch may flush) has set.
class DefaultFloats {
 public:
  DefaultFloats() { std::fegetenv(&before_), std::fesetenv(FE_DFL_ENV); }
  ~DefaultFloats() { std::fesetenv(&before_); }

 private:
  std::fenv_t before_;
};

}  // namespace clipgap
