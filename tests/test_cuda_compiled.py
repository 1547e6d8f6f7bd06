"""The CUDA kernels as both compilers make them, for chips that are not here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")  # brings the tools that read machine code

from clipgap.triton_kernels.sass import Function, functions_of, resident

from clipgap.kernels.gpu import cuda_modules
from clipgap.kernels.gpu.cuda_shapes import OPERANDS, every_shape

ROUTES = ("nvcc", "nvrtc")
MATRIX = {"int8": {80: "IMMA", 90: "IGMMA"}, "float16": {80: "HMMA", 90: "HGMMA"}}
CHIPS = (80, 90)


@lru_cache
def functions(route: str, chip: int) -> dict[str, Function]:
    if route == "nvcc":
        file = cuda_modules.BUILT / cuda_modules.CUBINS[chip]
        if not file.exists():
            pytest.skip("installed without nvcc")
        return functions_of(file.read_bytes())
    pytest.importorskip("cupy")
    code, said = cuda_modules.compile_here("sm_90a" if chip == 90 else "sm_80")
    assert said == "", "a warning"
    return functions_of(code)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("route", ROUTES)
def test_kernels_are_as_planned(route: str, chip: int) -> None:
    found = functions(route, chip)
    shapes = {
        one.kernel: one
        for operand in OPERANDS
        for one in every_shape(chip, 4 << 20, 640, operand)  # whether they fit at 640 or not
    }
    meant = {name + margin: shape for name, shape in shapes.items() for margin in ("", "_margin")}
    assert found.keys() >= meant.keys()
    for name, shape in meant.items():
        one = found[name]
        assert one.spilled == 0, f"{name} spills registers"
        assert resident(chip, shape.threads, one.registers, 0) >= 1
        # One instruction is 16 x 8 sums of a warp, or 64 x columns of four, of 32 bytes of depth.
        per_slice = (
            shape.slice // 32 * (64 // 16) * (64 // 8) * shape.columns // 128
            if chip == 80
            else shape.slice // 32
        )
        matrix = MATRIX[shape.operand][chip]
        assert list(one.instructions) == [matrix], name
        count = one.instructions[matrix]
        assert count % per_slice == 0, f"{name}: {count} instructions are not whole slices"


@pytest.mark.parametrize("route", ROUTES)
def test_products_of_a_slice_follow_each_other_and_no_wait_touches_memory(route: str) -> None:
    """On an H100, what a warp waits for between slices is a signal in its own shared memory. A
    fence would hold it until all its writes are seen, or empty the first-level cache."""
    filters = {n: f for n, f in functions(route, 90).items() if "sm90" in n}
    assert len(filters) == 12
    for name, one in filters.items():
        of_memory = {"MEMBAR", "ERRBAR", "CCTL", "LDL", "STL"}
        met = {instruction.partition(".")[0] for instruction in one.main_loop}
        assert not met & of_memory, f"{name}: {met & of_memory} in the main loop"
        # A slice of 128 bytes is four products deep.
        products, waits = 0, {"WARPGROUP", "SYNCS", "BAR", "DEPBAR"}
        for instruction in one.main_loop:
            if instruction.startswith(("IGMMA", "HGMMA")):
                products += 1
            elif instruction.partition(".")[0] in waits:
                assert products % 4 == 0, f"{name}: {instruction} after {products} products"
        assert [products] == list(one.instructions.values())


def test_both_routes_hold_the_same_kernels() -> None:
    for chip in CHIPS:
        assert functions("nvcc", chip).keys() == functions("nvrtc", chip).keys()


def test_what_is_compiled_here_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled = []
    monkeypatch.setattr(
        cuda_modules, "compile_here", lambda target: (compiled.append(target), (b"code", ""))[1]
    )
    first = cuda_modules.compiled("sm_80")
    assert first.read_bytes() == b"code"
    assert first.is_relative_to(tmp_path)
    assert cuda_modules.compiled("sm_80") == first
    assert cuda_modules.compiled("sm_90a") != first
    assert compiled == ["sm_80", "sm_90a"]


class Loaded:
    def __init__(self, file: Path, index: int) -> None:
        if "refused" in str(file) or file.stem == "kernels-sm_90a":
            raise RuntimeError("the driver does not take it\nmore")
        self.file = file


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda_modules, "BUILT", tmp_path)
    monkeypatch.setattr(cuda_modules, "CupyModule", Loaded)
    monkeypatch.setattr(cuda_modules, "compiled", lambda target: Path(f"by-nvrtc-{target}"))
    cuda_modules._load.cache_clear()
    yield tmp_path
    cuda_modules._load.cache_clear()


def test_what_was_built_is_taken_first(loading: Path) -> None:
    (loading / "kernels-sm_80.cubin").touch()
    assert cuda_modules._load(0, 8, 6).file == loading / "kernels-sm_80.cubin"
    assert cuda_modules._load(0, 9, 0).file == Path("by-nvrtc-sm_90a"), "quietly: it was not built"


def test_a_file_that_the_driver_refuses_is_compiled_here_and_said(loading: Path) -> None:
    (loading / "kernels-sm_90a.cubin").touch()
    with pytest.warns(UserWarning, match=r"by NVRTC: kernels-sm_90a.cubin: the driver does not"):
        module = cuda_modules._load(0, 9, 0)
    assert module.file == Path("by-nvrtc-sm_90a")


def test_for_a_chip_that_no_file_is_for_the_sources_are_compiled(loading: Path) -> None:
    assert cuda_modules._load(0, 12, 0).file == Path("by-nvrtc-sm_120")


def test_when_nothing_can_be_loaded_both_reasons_are_given(
    loading: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipgap.errors import MissingDependency

    monkeypatch.setattr(cuda_modules, "compiled", lambda target: Path("refused"))
    with pytest.raises(MissingDependency, match=r"--kernel triton.*was not built.*NVRTC for sm_80"):
        cuda_modules._load(0, 8, 0)
