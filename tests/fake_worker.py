"""A worker that registers nothing: it speaks the protocol of neuroreg/cohort/worker.py with the standard library alone.

What becomes of a case stands in its option ``act`` (and ``once``, a file: the act happens only while it is not there).
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

LOCK = threading.Lock()


def say(**message: object) -> None:
    """One line of the protocol."""
    with LOCK:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def sha256(path: str | Path) -> str:
    """Of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def leave(job: dict, seconds: float) -> None:
    """A folder as a registration leaves it: the outputs are made of the inputs, so that they can be compared."""
    config = job["config"]
    folder = Path(job["work"]) / f"{os.getpid()}-{time.monotonic_ns()}" / job["id"]
    folder.mkdir(parents=True)
    data = Path(config["fixed"]).read_bytes() + Path(config["moving"]).read_bytes()
    (folder / "moved.nii.gz").write_bytes(data)
    inputs = {
        role: {"name": Path(config[role]).name, "sha256": sha256(config[role])}
        for role in ("fixed", "moving")
    }
    verdict = config["options"].get("verdict", "pass")
    record = {
        "command": "register",
        "argv": [],
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:00:01+00:00",
        "versions": {"neuroreg": os.environ.get("FAKE_VERSION", "0.1.0")},
        "machine": "fake",
        "device": "cpu",
        "threads": 1,
        "seed": 0,
        "deterministic": False,
        "config": {**config, **{role: Path(config[role]).name for role in inputs}},
        "inputs": inputs,
        "weights": None,
        "seconds": {"total": seconds},
        "qc": {"verdict": verdict, "reasons": [] if verdict == "pass" else ["a reason"]},
        "warnings": [],
        "outputs": {
            "moved.nii.gz": {"sha256": sha256(folder / "moved.nii.gz"), "bytes": len(data)},
        },
    }
    (folder / "run.json").write_text(json.dumps(record))
    outputs = {"moved.nii.gz": sha256(folder / "moved.nii.gz")}
    say(
        event="done", id=job["id"], folder=str(folder), verdict=verdict, reasons=record["qc"]["reasons"],
        seconds=seconds, key="k", outputs=outputs,
    )  # fmt: skip


def act(job: dict) -> None:
    """What the case asks for."""
    options = job["config"]["options"]
    what, once = options.get("act", "ok"), options.get("once")
    if once:
        if Path(once).exists():
            what = "ok"
        Path(once).touch()
    say(event="started", id=job["id"], attempt=job["attempt"], pid=os.getpid(), host="here")
    say(event="stage", id=job["id"], stage="toying")
    time.sleep(float(options.get("seconds", 0.02)))
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(600)
    if what == "eat":
        _ = bytearray(b"x") * (400 << 20)
        time.sleep(600)
    if what in ("data", "io", "bug"):
        code = {"data": 65, "io": 74, "bug": 70}[what]
        state = f"failed-{what}"
        say(event="failed", id=job["id"], state=state, kind="Kind", message=f"it was {what}", code=code)
        return
    leave(job, 1.5)


def lane(jobs: list, ready: threading.Condition) -> None:
    """One case after the other."""
    while True:
        with ready:
            while not jobs:
                ready.wait()
            job = jobs.pop(0)
        act(job)


def main() -> None:
    """Serve until nobody is there."""
    options = json.loads(sys.argv[1])
    jobs: list = []
    ready = threading.Condition()
    for _ in range(options["lanes"]):
        threading.Thread(target=lane, args=(jobs, ready), daemon=True).start()
    say(event="ready", pid=os.getpid())
    for line in sys.stdin:
        with ready:
            jobs.append(json.loads(line))
            ready.notify()
    os._exit(0)


if __name__ == "__main__":
    main()
