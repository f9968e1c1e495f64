"""The programs in docs/devices that measure latency elsewhere, with stand-ins for ssh and adb."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from torch import nn

from nasdistill.common.errors import UserError
from nasdistill.common.types import Input
from nasdistill.models.latency import measure_latencies

DEVICES = Path(__file__).parents[1] / "docs" / "devices"
SSH = """#!/bin/sh
# Runs the command here, as ssh runs it there: joined by spaces, by a shell.
while [ "${1#-}" != "$1" ]; do shift 2; done
[ "$1" = pi@here ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
exec sh -c "$*"
"""
ADB = """#!/bin/sh
case $1 in
  push) cp "$2" "$ADB_ROOT/${3##*/}" ;;
  shell) shift; echo "$*" >> "$ADB_ROOT/asked"
    case "$*" in
      *perf_test*) for n in 1 2 3 4; do echo "m,0.002$n,1,2,$n" >> "$ADB_ROOT/times.csv"; done ;;
      cat*) cat "$ADB_ROOT/times.csv" ;;
    esac ;;
esac
"""
INPUT = Input(1, 8, 8)


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


def stand_in(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a program of that name first on the path."""
    (folder / name).write_text(code)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_ssh_measures_in_the_runtime_there(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "ssh", SSH, monkeypatch)
    program = f"command:{sys.executable} {DEVICES / 'ssh_onnxruntime.py'} --python {sys.executable}"
    engine = f"{program} --seconds 0.05 pi@here"
    measured = measure_latencies({"m": model}, {"m": INPUT}, engine=engine)["m"]
    assert measured.repeats >= 20 and 0 < measured.median_ms < 50
    with pytest.raises(UserError, match="Could not resolve hostname pi@elsewhere"):
        measure_latencies({"m": model}, {"m": INPUT}, engine=f"{program} pi@elsewhere")
    lacking = engine.replace(f"--python {sys.executable}", f"--python '{sys.executable} -S'")
    with pytest.raises(UserError, match="failed"):
        measure_latencies({"m": model}, {"m": INPUT}, engine=lacking)


def test_adb_runs_the_benchmark_and_reads_its_times(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "adb", ADB, monkeypatch)
    monkeypatch.setenv("ADB_ROOT", str(tmp_path))
    engine = f"command:sh {DEVICES / 'adb_onnxruntime.sh'}"
    measured = measure_latencies({"m": model}, {"m": INPUT}, engine=engine)["m"]
    assert measured.median_ms == pytest.approx(2.25) and measured.repeats == 4
    commands = (tmp_path / "asked").read_text()
    assert "onnxruntime_perf_test -I -m times -r 200 -x 1" in commands and "rm -f" in commands
    assert list(tmp_path.glob("nasdistill-*.onnx"))


def test_adb_without_a_device_is_told(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "#!/bin/sh\necho 'adb: no devices/emulators found' >&2\nexit 1\n"
    stand_in(tmp_path, "adb", code, monkeypatch)
    engine = f"command:sh {DEVICES / 'adb_onnxruntime.sh'}"
    with pytest.raises(UserError, match="no devices/emulators found"):
        measure_latencies({"m": model}, {"m": INPUT}, engine=engine)
