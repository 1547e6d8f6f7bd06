"""webdataset at both ends of what we take: open_clip's own extra stops at 0.2.86.

Each version is put into a folder of its own, in front of whatever is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.installing import installed
from tests.clip_worlds import write_config, write_shards
from tests.shards import write_datacomp, write_keep

pytest.importorskip("open_clip_train")
pytestmark = pytest.mark.clients

OLDEST, NEWEST = "0.2.86", "1.0.2"
UIDS = [f"{i:032x}" for i in range(12)]
PIPELINE = """
import json, sys
import webdataset as wds
from clipgap import KeepSelector, KeepStage
keep, *urls = sys.argv[1:]
stage = KeepStage(KeepSelector.open(keep, urls))
dataset = wds.WebDataset(urls, shardshuffle=False).compose(stage)
loader = wds.WebLoader(dataset, batch_size=None, num_workers=2)
print(json.dumps([wds.__file__, sorted(json.loads(s["json"])["uid"] for s in loader)]))
"""


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Variables with which Python finds that version first."""
    folder = installed(
        tmp_path_factory.mktemp("webdataset"), f"webdataset=={request.param}", "braceexpand"
    )
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "WDS": str(folder)}


def python(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_keep_list_in_a_pipeline(environment: dict[str, str], tmp_path: Path) -> None:
    shards = write_datacomp(tmp_path / "in", {"0": UIDS[:5], "1": UIDS[5:]}, table=False)
    keep = write_keep(tmp_path / "keep", {"0a1b": UIDS}, {("0a1b", row) for row in (0, 4, 5, 11)})
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    imported, found = json.loads(python(environment, "-c", PIPELINE, str(keep), *urls))
    assert imported.startswith(environment["WDS"])
    assert found == [UIDS[row] for row in (0, 4, 5, 11)]


def test_training(environment: dict[str, str], tmp_path: Path) -> None:
    """The losses are those of the version that is installed."""
    write_shards(tmp_path / "in", (9, 7))
    command = f"train --train-data {tmp_path}/in --model {write_config(tmp_path)} --device cpu"
    command += " --epochs 1 --batch-size 4 --workers 1 --log-every-n-steps 1"
    losses = []
    for name, variables in (("here", dict(os.environ)), ("there", environment)):
        logs = ["--logs", str(tmp_path / "logs"), "--name", name]
        python(variables, "-m", "clipgap", *command.split(), *logs)
        lines = (tmp_path / "logs" / name / "losses.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == losses[1] and len(losses[0]) == 4
