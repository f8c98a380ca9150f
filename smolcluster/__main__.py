"""`python -m smolcluster` is the command line of cli.py."""

import gc

from smolcluster.cli import main

if __name__ == "__main__":
    code = main()
    gc.freeze()  # what is left goes with the process: nobody has to look through it first
    raise SystemExit(code)
