"""The real supervisor with the fake worker: what start_job launches in these tests."""

import sys
from pathlib import Path

from smolcluster.supervisor import main

if __name__ == "__main__":
    sys.exit(main(worker=(str(Path(__file__).with_name("fake_worker.py")),)))
