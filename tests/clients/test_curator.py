"""NeMo Curator's decisions: what its release says of rows is what `--ties curator` goes by.

It needs RAPIDS and a GPU to be installed whole. What decides is plain torch and pandas, though: the
ranking and the comparison (stages/deduplication/semantic/pairwise.py) and what falls to the limit
(identify_duplicates.py). That runs here, with stand-ins for what it merely imports, and scores in
float64.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.clients.installing import installed, run
from tests.test_dedup_given import ROWS, clusters, curator, reached

pytest.importorskip("torch")

DECIDE = """
import json, sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from unittest.mock import MagicMock
import numpy, pandas, torch

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cosmos_xenna", "cudf", "loguru", "ray", "rmm"):
            return ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return MagicMock()
    def exec_module(self, module):
        pass

class OnHost(torch.Tensor):
    is_cuda = True

sys.meta_path.insert(0, Absent())
semantic = "nemo_curator.stages.deduplication.semantic"
sys.modules |= {"cupy": numpy, f"{semantic}.workflow": MagicMock()}
from nemo_curator.stages.deduplication.semantic import pairwise, identify_duplicates
from nemo_curator.tasks import FileGroupTask

folder, *epsilons = sys.argv[1:]
rows, label, far = (numpy.load(f"{folder}/{name}.npy") for name in ("rows", "label", "far"))
for keep, epsilon in zip(("hard", "easy"), epsilons):
    stage = pairwise.PairwiseStage("id", "embeddings", folder, folder, which_to_keep=keep)
    tasks = []
    for cluster in numpy.unique(label):
        ids = numpy.flatnonzero(label == cluster)
        frame = pandas.DataFrame({"id": ids, "cosine_dist_to_cent": far[ids]})
        ids = stage.ranking_strategy.rank_cluster(frame)["id"].to_numpy()
        reps = torch.tensor(rows[ids], dtype=torch.float64).as_subclass(OnHost)
        scores, _ = pairwise.pairwise_cosine_similarity_batched(reps, 16)
        path = f"{folder}/cluster_{cluster}.parquet"
        pandas.DataFrame({"id": ids, "cosine_sim_score": scores}).to_parquet(path)
        tasks.append(FileGroupTask(dataset_name="rows", data=[path]))
    stage = identify_duplicates.IdentifyDuplicatesStage(folder, float(epsilon))
    (task,) = stage.process_batch(tasks)
    print(json.dumps(pandas.read_parquet(task.data)["id"].tolist()))
"""


def test_what_goes(tmp_path: Path) -> None:
    package = installed(tmp_path / "package", "nemo-curator==1.4.0")
    label, far = clusters()
    for name, array in (("rows", ROWS), ("label", label), ("far", far)):
        np.save(tmp_path / f"{name}.npy", array)
    bests = [curator(order, label, far) for order in (-1, 1)]
    epsilons = list(map(reached, bests))
    said = run(sys.executable, "-c", DECIDE, tmp_path, *epsilons, PYTHONPATH=str(package))
    for line, best, epsilon in zip(said.splitlines(), bests, epsilons, strict=True):
        assert json.loads(line) == np.flatnonzero(best >= 1.0 - epsilon).tolist()
