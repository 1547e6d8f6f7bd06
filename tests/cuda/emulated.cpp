// The kernels of csrc/cuda, launched on a CPU by name.
#include "emulated.h"

#include "../../csrc/cuda/kernels.cu"

#include <string>
#include <tuple>

namespace {

using Start = std::function<std::function<void()>(void**)>;

template <typename... Arguments, size_t... I>
std::function<void()> with_arguments(void (*kernel)(Arguments...), void** given, std::index_sequence<I...>) {
    std::tuple<Arguments...> values{*static_cast<Arguments*>(given[I])...};
    return [=] { std::apply(kernel, values); };
}

template <typename... Arguments>
Start start(void (*kernel)(Arguments...)) {
    return [=](void** given) {
        return with_arguments(kernel, given, std::index_sequence_for<Arguments...>{});
    };
}

#define KERNEL(name) {#name, start(name)}
#define KERNELS(shape) \
    KERNEL(filter_int8_##shape), KERNEL(filter_int8_##shape##_margin), \
        KERNEL(filter_float16_##shape), KERNEL(filter_float16_##shape##_margin)
const std::map<std::string, Start> kernels = {
    KERNELS(sm80_128_4), KERNELS(sm80_128_2), KERNELS(sm80_64_4), KERNELS(sm80_64_2),
    KERNELS(sm90_256),   KERNELS(sm90_128),   KERNELS(sm90_64),
};

}  // namespace

extern "C" const char* emulated_launch(const char* name, int grid, int threads, int shared, int landing,
                                       void** arguments) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return "there is no such kernel";
    emulated::machine.landing = static_cast<emulated::Landing>(landing);
    emulated::machine.random = 1;
    return emulated::launch(grid, threads, shared, found->second(arguments));
}
