"""Images made on the spot, for studies that need no downloads."""

from clipgap.study.render.api import Rendered, render
from clipgap.study.render.worlds import WORLDS

__all__ = ["WORLDS", "Rendered", "render"]
