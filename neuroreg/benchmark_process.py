"""One program, run and measured.

``python -m neuroreg.benchmark_process RESULT.json TIMEOUT_S -- PROGRAM ...``

Standard library only and on purpose a process of its own: Linux counts the memory of the process that starts a
program into the program's peak, so a caller that has torch loaded would find its own size in every measurement.
Writes the exit code, wall seconds, CPU seconds (user + system, children included) and peak memory of PROGRAM.
Its output goes to RESULT.log. When whoever started this process is gone, killed outright, PROGRAM is killed too: it
would go on beside the next measurement otherwise.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOOK_S = 1.0


def measure(program: list[str], log: Path, timeout_s: float) -> dict[str, float]:
    """Run ``program`` in a process group of its own; after ``timeout_s`` seconds the group is killed."""
    caller = os.getppid()
    with log.open("wb") as stream:
        start = time.monotonic()
        process = subprocess.Popen(
            program, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )

    def stop(number: int, frame: object) -> None:
        os.killpg(process.pid, signal.SIGKILL)

    def look(number: int, frame: object) -> None:
        if os.getppid() != caller or time.monotonic() - start >= timeout_s:
            stop(number, frame)

    signal.signal(signal.SIGALRM, look)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.setitimer(signal.ITIMER_REAL, min(_LOOK_S, timeout_s), _LOOK_S)
    _, status, usage = os.wait4(process.pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    kilobyte = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS
    return {
        "code": process.returncode,
        "wall_s": round(time.monotonic() - start, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mb": round(usage.ru_maxrss * kilobyte / 1e6, 1),
    }


def main() -> None:
    """Parse, measure, write the result."""
    result, timeout_s, separator, *program = sys.argv[1:]
    if separator != "--" or not program:
        raise SystemExit("usage: python -m neuroreg.benchmark_process RESULT.json TIMEOUT_S -- PROGRAM ...")
    found = measure(program, Path(result).with_suffix(".log"), float(timeout_s))
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
