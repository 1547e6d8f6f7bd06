"""The whole `clipgap` command: the commands of `clipgap.cli`, and the studies that run them."""

from clipgap.cli.main import app, main, run
from clipgap.study import command, demo

__all__ = ["app", "main", "run"]

for part in (command, demo):
    part.register(app)

if __name__ == "__main__":
    run()
