"""The whole `clipgap` command: the commands of `clipgap.cli`, and the studies that run them."""

from clipgap.cli.main import HOMES, app, main, run

__all__ = ["app", "main", "run"]

HOMES |= {
    "demo": "clipgap.study.demo",
    "run": "clipgap.study.command",
    "check": "clipgap.study.check",
}

if __name__ == "__main__":
    run()
