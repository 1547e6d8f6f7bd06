"""torchrun, told to leave signals to us and to fail without a traceback of its own.

python -m clipgap.clip.train.launch --standalone --nproc-per-node=2 -m MODULE FOLDER
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Run torchrun; its ranks save and leave when asked, which may take longer than it waits."""
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
    run: Any = importlib.import_module("torch.distributed.run")  # has no types
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    parsed = run.parse_args(list(arguments))
    # Otherwise torchrun sets it again, from its own defaults.
    if hasattr(parsed, "signals_to_handle"):
        parsed.signals_to_handle = "SIGQUIT"
    try:
        run.run(parsed)
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    return 0


def die_with_parent() -> None:
    """On Linux, be killed when the process that started this one is: nobody else would do it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
