"""`python -m clipgap`."""

from clipgap.cli.main import run

if __name__ == "__main__":
    run()
