// The table of one instruction set, put together from its kernels.

#pragma once

#include "admit.inl.h"
#include "kernels.inl.h"

namespace clipgap {
namespace {

template <class Isa>
constexpr Kernels table(const char* name, float max_limit, int32_t row_bias) {
  return {name,
          Isa::kRows,
          Isa::kVectors * Isa::kWidth,
          Isa::kGroup,
          max_limit,
          row_bias,
          admit<Isa>,
          quantise<Isa>,
          round<Isa>,
          centred<Isa>,
          project<Isa>,
          pack<Isa>,
          tile<Isa>,
          tile_row<Isa>,
          largest<Isa>,
          survivors<Isa>,
          sift<Isa>,
          look_again<Isa>,
          dot<Isa>,
          weigh<Isa>,
          sums_of_words<Isa>,
          add_to<Isa>,
          widen<Isa>,
          exact<Isa>,
          column_max<Isa>,
          burn_fma<Isa>,
          burn_integer<Isa>};
}

}  // namespace
}  // namespace clipgap
