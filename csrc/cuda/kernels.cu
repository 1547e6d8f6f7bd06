// All filters, one unit: a cubin for each chip, or compiled where it runs.
#include "filter_sm80.cuh"
#include "filter_sm90.cuh"
