"""`python -m smolcluster` is the command line of cli.py."""

from smolcluster.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
