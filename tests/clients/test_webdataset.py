"""webdataset at both ends of what we take: open_clip's own extra stops at 0.2.86.

The newest is what the suite runs with everywhere; the oldest is put in front of it here.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from clipgap.__main__ import main
from clipgap.clip.train import driver
from clipgap.shards.samples import kept_samples
from tests.clients.installing import ROOT, installed, run
from tests.clip_worlds import write_config, write_shards
from tests.shards import write_datacomp, write_keep
from tests.train_worlds import launch_here, losses

OLDEST, NEWEST = "0.2.86", "1.0.2"
UIDS = [f"{i:032x}" for i in range(12)]
BOTH = """
import json, sys
from importlib.metadata import version
import webdataset as wds
from clipgap import KeepSelector, KeepStage
from clipgap.__main__ import main
from clipgap.clip.train import driver
from tests.train_worlds import launch_here

keep, urls, train = sys.argv[1], sys.argv[2].split("::"), sys.argv[3:]
dataset = wds.WebDataset(urls, shardshuffle=False).compose(KeepStage(KeepSelector.open(keep, urls)))
found = [sample["__key__"] for sample in wds.WebLoader(dataset, batch_size=None, num_workers=2)]
driver.launch = launch_here
assert main(train) == 0
print(json.dumps([version("webdataset"), wds.__file__, sorted(found)]))
"""


def test_the_oldest_gives_what_the_newest_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of a keep-list in a pipeline, and the losses of a training."""
    folder = installed(tmp_path / "oldest", f"webdataset=={OLDEST}", "braceexpand")
    shards = write_datacomp(tmp_path / "in", {"0": UIDS[:5], "1": UIDS[5:]}, table=False)
    keep = write_keep(tmp_path / "keep", {"0a1b": UIDS}, {("0a1b", row) for row in (0, 4, 5, 11)})
    urls = "::".join(str(path) for path in sorted(shards.glob("*.tar")))
    write_shards(tmp_path / "train", (9, 7))
    train = f"train --train-data {tmp_path}/train --model {write_config(tmp_path)} --device cpu"
    train += f" --epochs 1 --batch-size 4 --workers 1 --log-every-n-steps 1 --logs {tmp_path}/logs"
    paths = f"{folder}:{ROOT}"
    command = [keep, urls, *train.split(), "--name", "oldest"]
    said = run(sys.executable, "-c", BOTH, *command, PYTHONPATH=paths).splitlines()[-1]
    used, path, found = json.loads(said)
    assert used == OLDEST and path.startswith(str(folder))
    assert found == sorted(sample.key for sample in kept_samples(shards, keep)) and len(found) == 4
    monkeypatch.setattr(driver, "launch", launch_here)
    assert version("webdataset") == NEWEST
    assert main([*train.split(), "--name", "newest"]) == 0
    oldest, newest = (losses(tmp_path / "logs" / name) for name in ("oldest", "newest"))
    assert oldest == newest and len(oldest) == 4
