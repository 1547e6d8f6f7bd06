"""The whole `clipgap` command: that of `clipgap.cli`, and the studies that run its commands."""

from clipgap.cli.main import HOMES, app, main, run

__all__ = ["app", "main", "run"]

HOMES |= {
    "demo": "clipgap.study.demo",
    "run": "clipgap.study.command",
    "check": "clipgap.study.check",
    "plan": "clipgap.study.plan",
}

if __name__ == "__main__":
    run()
