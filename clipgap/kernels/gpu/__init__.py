"""The scan on GPUs: filter on the device, decide on the device in float64, one host thread.

    order.py     which kernel `auto` takes on which chip
    devices.py   which devices there are, and errors that say what was needed and what was found
    bounds.py    the two filters: int8 on a common grid, float16 with a bound on its rounding
    steps.py     what a scan asks of a device, between two filters: cuda_filter.py, triton_filter.py
    panels.py    the test points on the device: operands, exact rows, lists of the k best
    scanner.py   `GpuScanner`: blocks in, exact results out, two blocks in flight
    dense.py     what floods the queue, decided with float64 matrix products
    several.py   `SeveralGpus`: one scanner a device, blocks dealt to whichever is free, where one
                 process has several

The kernels are those of `triton_kernels/`; with TRITON_INTERPRET=1 they run on the CPU.
"""
