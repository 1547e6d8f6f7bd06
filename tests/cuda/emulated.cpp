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
const std::map<std::string, Start> kernels = {
    KERNEL(filter_sm80_128_4), KERNEL(filter_sm80_128_4_margin),
    KERNEL(filter_sm80_128_2), KERNEL(filter_sm80_128_2_margin),
    KERNEL(filter_sm80_64_4),  KERNEL(filter_sm80_64_4_margin),
    KERNEL(filter_sm80_64_2),  KERNEL(filter_sm80_64_2_margin),
    KERNEL(filter_sm90_128),   KERNEL(filter_sm90_128_margin),
    KERNEL(filter_sm90_64),    KERNEL(filter_sm90_64_margin),
    KERNEL(quantise_64),       KERNEL(quantise_128),
    KERNEL(score),             KERNEL(decide),
    KERNEL(merge),
};

}  // namespace

extern "C" const char* emulated_launch(const char* name, int grid, int threads, int cluster, int shared,
                                       int landing, void** arguments) {
    const auto found = kernels.find(name);
    if (found == kernels.end()) return "there is no such kernel";
    emulated::machine.landing = static_cast<emulated::Landing>(landing);
    emulated::machine.random = 1;
    return emulated::launch(grid, threads, cluster, shared, found->second(arguments));
}
