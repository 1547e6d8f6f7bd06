"""The server of stages, in which trainings are done by their stage itself: torch is there already.

That ranks are processes of their own is for the tests of training.
"""

from __future__ import annotations

import sys

import open_clip_train.main  # noqa: F401  so that no stage has to

from clipgap.clip.train import driver
from clipgap.study.server import serve
from tests.train_worlds import launch_here

if __name__ == "__main__":
    driver.launch = launch_here
    serve(*map(int, sys.argv[-2:]))
