"""img2dataset making shards from a server on loopback, and what becomes of them here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipgap.__main__ import main
from clipgap.errors import InputError
from clipgap.shards.api import filter_shards
from clipgap.shards.samples import read_samples
from tests.clients.installing import installed, variables
from tests.shards import link_as_documented, write_keep

PACKAGES = {
    "img2dataset": "1.47.0",
    "albucore": "0.0.23",
    "albumentations": "1.4.24",
    "ExifRead-nocycle": "3.0.1",
    "fire": "0.7.1",
    "opencv-python-headless": "4.14.0.94",
    "pandas": "2.3.3",
    "pytz": "2026.6",
    "simsimd": "6.5.16",
    "stringzilla": "5.3.2",
    "termcolor": "3.3.0",
    "webdataset": "0.2.111",
}
"""What it needs that is not there already, or in another version; of wandb only the name."""

GONE, CUT, BROKEN = {3, 11}, {5}, {8}
"""Images that are not found, that end before their length, and that are no whole picture."""

NUMBERS = range(14)
UIDS = [f"{n:032x}" for n in range(20)]
DOWNLOADS = """
import json, multiprocessing, os, sys
# Forked, its processes need not import all of it again.
fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method=None: fork
multiprocessing.context.SpawnProcess = multiprocessing.context.ForkProcess
from img2dataset import download
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for line in sys.stdin:
    try:
        download(
            input_format="parquet", output_format="webdataset", url_col="url", caption_col="text",
            save_additional_columns=["uid"], number_sample_per_shard=5, processes_count=1,
            thread_count=2, image_size=16, timeout=5, **json.loads(line),
        )
        print("done", file=answers)
    except ValueError as error:
        print(error, file=answers)
"""

Download = Callable[..., str]


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Download]:
    """The peer in a process of its own, which imports it once: what it says of a download."""
    wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
    package = installed(tmp_path_factory.mktemp("img2dataset"), *wanted)
    (package / "wandb.py").touch()
    peer = subprocess.Popen(
        [sys.executable, "-c", DOWNLOADS],
        env=variables(PYTHONPATH=str(package), NO_ALBUMENTATIONS_UPDATE="1"),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(package / "log").open("w"),
    )
    with peer:
        stdin, stdout = peer.stdin, peer.stdout
        assert stdin and stdout

        def ask(urls: Path, folder: Path, **given: str) -> str:
            asked = {"url_list": str(urls), "output_folder": str(folder), **given}
            print(json.dumps(asked), file=stdin, flush=True)
            return stdout.readline().strip() or (package / "log").read_text()[-4_000:]

        yield ask


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), (number * 9, 80, 90)).save(out, "JPEG")
    return out.getvalue()


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = int(self.path.strip("/"))
        content = jpeg(number)
        self.send_response(404 if number in GONE else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if number not in GONE:
            broken = content[: len(content) // 3] + bytes(len(content) - len(content) // 3)
            part = broken if number in BROKEN else content[: len(content) // 2]
            self.wfile.write(part if number in BROKEN | CUT else content)

    def log_message(self, *what: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def table(path: Path, server: str, numbers: range) -> Path:
    """URLs, captions and uids, as DataComp's metadata has them."""
    columns = {
        "url": [f"{server}/{n}" for n in numbers],
        "text": [f"image {n}" for n in numbers],
        "uid": [UIDS[n] for n in numbers],
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def shards(download: Download, server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    urls = table(folder / "urls.parquet", server, NUMBERS)
    assert download(urls, folder / "shards") == "done"
    return folder / "shards"


def found(folder: Path) -> dict[str, list[str]]:
    """The uids of the samples of each shard."""
    return {
        tar.stem: [
            json.loads(sample.contents["json"])["uid"]
            for sample in read_samples(str(tar), extensions=("jpg", "json"))
        ]
        for tar in sorted(folder.glob("*.tar"))
    }


def test_what_could_not_be_fetched_is_missing(shards: Path, tmp_path: Path) -> None:
    """Its tables list all, its tars what was fetched; filter goes by what is there."""
    there = sorted(uid for uids in found(shards).values() for uid in uids)
    lost = [UIDS[n] for n in NUMBERS if UIDS[n] not in there]
    assert set(lost) >= {UIDS[n] for n in GONE | CUT}
    tables = [pq.read_table(path) for path in sorted(shards.glob("*.parquet"))]
    assert sum(one.num_rows for one in tables) == len(NUMBERS)
    wanted = [0, 3, 4, 5, 9, 13]
    rows = {("store", n) for n in wanted}
    keep = write_keep(tmp_path / "keep", {"store": UIDS[: len(NUMBERS)]}, rows)
    command = ["filter", str(shards), "--keep", str(keep), "-o", str(tmp_path / "out")]
    assert main(command) == 3
    with pytest.raises(InputError, match="2 of its samples, matched by 'uid'"):
        filter_shards(shards, keep, tmp_path / "other")
    assert main([*command, "--missing", "ignore", "--resume"]) == 0
    kept = sorted(uid for uids in found(tmp_path / "out").values() for uid in uids)
    assert kept == [UIDS[n] for n in wanted if UIDS[n] in there]
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("mode", ["incremental", "extend"])
def test_links_to_a_filtered_folder_can_be_extended(
    download: Download, server: str, shards: Path, tmp_path: Path, mode: str
) -> None:
    """It takes each .json for statistics; those of ours are left out by the line in the docs."""
    uids = [uid for some in found(shards).values() for uid in some]
    keep = write_keep(tmp_path / "keep", {"s": uids}, {("s", n) for n in range(0, len(uids), 2)})
    before = found(filter_shards(shards, keep, tmp_path / "OUT").path)
    urls = table(tmp_path / "more.parquet", server, range(14, 20))
    refused = download(urls, tmp_path / "OUT", incremental_mode=mode)
    assert "invalid literal for int()" in refused
    link_as_documented(tmp_path)
    assert download(urls, tmp_path / "MORE", incremental_mode=mode) == "done"
    after = found(tmp_path / "MORE")
    assert {name: after[name] for name in before} == before
    if mode == "extend":  # the other one takes the new urls for those of shards that are there
        added = [uid for name in after.keys() - before.keys() for uid in after[name]]
        assert sorted(added) == UIDS[14:20]
    assert main(["verify", str(tmp_path / "OUT")]) == 0
