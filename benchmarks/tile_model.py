"""What llvm-mca makes of the CPU filter's inner loops, for processors that are not at hand.

    python benchmarks/tile_model.py

Takes the loop around the products of bytes out of the compiled library and asks llvm-mca (Debian:
`apt-get install llvm`) how many cycles one turn of it takes, against the cycles that the products
alone would need of the processor's ports. A model knows neither memory nor the rest of the kernel;
where both exist, hold it against `clipgap bench`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from clipgap.kernels import cpu

LOOPS = {
    "Avx2": ("vpmaddubsw", ("znver3", "skylake-avx512")),
    "Avx512Vnni": ("vpdpbusd", ("icelake-server", "sapphirerapids")),
}
TURNS = 1000


def tile_loop(isa: str, product: str) -> list[str]:
    """The instructions of the smallest loop that holds the products."""
    command = ["objdump", "-d", "--no-show-raw-insn", "-C", str(cpu.LIBRARY)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    function = re.search(rf"<[^>\n]*\btile<[^\n]*{isa}>[^\n]*>:\n(.*?)\n\n", text, re.S)
    if function is None:
        sys.exit(f"the library holds no {isa} kernel")
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", function[1], re.M)
    place = {address: number for number, (address, _) in enumerate(lines)}
    loops = []
    for end, (_, instruction) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", instruction)
        start = place.get(jump[1], end) if jump else end
        body = [re.sub(r"\s*<.*>", "", text) for _, text in lines[start:end]]
        if any(product in line for line in body):
            loops.append(body)
    return min(loops, key=len)


def main() -> None:
    tool = next(filter(None, map(shutil.which, ("llvm-mca", "llvm-mca-16"))), None)
    if tool is None:
        sys.exit("there is no llvm-mca here; on Debian: apt-get install llvm")
    for isa, (product, processors) in LOOPS.items():
        loop = tile_loop(isa, product)
        products = sum(product in line for line in loop)
        for processor in processors:
            done = subprocess.run(
                [tool, f"-mcpu={processor}", f"-iterations={TURNS}"],
                input="\n".join(loop) + "\n",
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            cycles = int(re.search(r"Total Cycles:\s+(\d+)", done)[1]) / TURNS
            needed = float(re.search(r"Block RThroughput:\s+([\d.]+)", done)[1])
            print(
                f"{isa:11} {processor:15} {products} {product}: {cycles:.1f} cycles a turn, "
                f"{needed:.1f} by the ports alone: {needed / cycles:.2f}"
            )


if __name__ == "__main__":
    main()
