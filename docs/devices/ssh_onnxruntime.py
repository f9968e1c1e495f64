#!/usr/bin/env python3
"""Milliseconds of an ONNX file in ONNX Runtime on a machine that ssh reaches, a line each.

    latency_engine: "command:python3 docs/devices/ssh_onnxruntime.py pi@raspberrypi"

That machine needs Python with onnxruntime and numpy, and a key that ssh may use without asking. The
file goes there through the connection; nothing is written there. Options stand before the host:
`--threads 4`, `--seconds 2`, `--python venv/bin/python`.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

REMOTE = """
import sys, time
import numpy, onnxruntime
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(
    sys.stdin.buffer.read(), options, providers=["CPUExecutionProvider"]
)
value = session.get_inputs()[0]
pictures = numpy.random.default_rng(0).random(value.shape, numpy.float32)
for _ in range(10):
    session.run(None, {value.name: pictures})
times, until = [], time.perf_counter() + seconds
while len(times) < 20 or time.perf_counter() < until:
    start = time.perf_counter()
    session.run(None, {value.name: pictures})
    times.append(1000 * (time.perf_counter() - start))
print(*times, sep="\\n")
"""


def main() -> None:
    """Runs the file there; ends with ssh's or Python's own message where that fails."""
    parser = argparse.ArgumentParser(description="Latency of an ONNX file over ssh.")
    parser.add_argument("host", help="as ssh takes it: pi@raspberrypi")
    parser.add_argument("model", type=Path, help="an ONNX file of a fixed batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--python", default="python3", help="Python there")
    given = parser.parse_args()
    there = [given.python, "-c", REMOTE, str(given.threads), str(given.seconds)]
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", given.host]
    done = subprocess.run([*command, shlex.join(there)], input=given.model.read_bytes())
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
