"""A worker that trains nothing: `fake_worker.py NODE_YAML --rank R`, doing what behaviour.json beside node.yaml says.

Behaviours: run (until told to stop), done, code:N, kill (itself), deaf (to stop and SIGTERM), wedged (deaf to all but
SIGKILL, its parent's death too), loses (a peer, once told to stop; it says so as a rank does), child (run, with a child
of its own), env (print the thread variables); a|b is a at the first start, b at the second and every later one. Starts
without smolcluster and torch, so that tests are fast.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

node_file, rank = Path(sys.argv[1]), int(sys.argv[3])
behaviour = json.loads((node_file.parent / "behaviour.json").read_text())[str(rank)]
pids = node_file.parent / f"pid-{rank}"
starts = node_file.parent / f"starts-{rank}"
with starts.open("a") as file:
    file.write("x")
each = behaviour.split("|")
behaviour = each[min(starts.stat().st_size, len(each)) - 1]
told = threading.Event()
ready = threading.Event()


def listen():
    for line in sys.stdin:
        if line == "stop\n" and behaviour not in ("deaf", "wedged"):
            told.set()
    if behaviour != "wedged":
        os._exit(130)


if behaviour in ("deaf", "wedged"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=listen, daemon=True).start()
children = []
if behaviour == "child":
    children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
text = " ".join(str(pid) for pid in (os.getpid(), *(child.pid for child in children)))
pids.with_suffix(".part").write_text(text)
pids.with_suffix(".part").replace(pids)
print(f"rank {rank} does {behaviour}", flush=True)
if behaviour == "done":
    sys.exit(0)
if behaviour == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour.startswith("code:"):
    print("something went wrong", file=sys.stderr, flush=True)
    sys.exit(int(behaviour[5:]))
if behaviour == "env":
    print(os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], flush=True)
    sys.exit(0)
deadline = time.monotonic() + 120
while time.monotonic() < deadline:
    if told.wait(1.0) and behaviour == "loses":
        lost = {"status": "failed", "exit_code": 3, "reason": "rank 1 was lost: it closed the connection"}
        node = node_file.parent.name
        result = node_file.parents[2] / "nodes" / node / f"rank-{rank}" / "result.json"
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps({"schema": 1, "rank": rank, "node": node, **lost}))
        sys.exit(3)
    if told.is_set():
        sys.exit(130)
sys.exit(1)
