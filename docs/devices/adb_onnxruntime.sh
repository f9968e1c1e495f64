#!/bin/sh
# Milliseconds of an ONNX file in ONNX Runtime on an Android device, a line each.
#
#   latency_engine: "command:sh docs/devices/adb_onnxruntime.sh"
#
# Needs adb with one device (or ANDROID_SERIAL), and ONNX Runtime's benchmark, built for the device:
# in ONNX Runtime's sources `./build.sh --android --android_abi arm64-v8a … --config Release` makes
# onnxruntime_perf_test, and `adb push onnxruntime_perf_test /data/local/tmp/` brings it there once.
# THREADS, RUNS and PROVIDER (cpu, xnnpack, nnapi) may be set in the environment.
set -eu
[ $# -eq 1 ] || { echo "usage: adb_onnxruntime.sh MODEL.onnx" >&2; exit 2; }
there=/data/local/tmp
name=nasdistill-$$
trap 'adb shell rm -f $there/$name.onnx $there/$name.csv >/dev/null 2>&1 || true' EXIT

adb push "$1" $there/$name.onnx >/dev/null
# -I: random inputs. Each line of the result file is: model, seconds, memory, CPU, run.
adb shell "cd $there && ./onnxruntime_perf_test -I -m times -r ${RUNS:-200} -x ${THREADS:-1} \
  -e ${PROVIDER:-cpu} $name.onnx $name.csv" >&2
adb shell cat $there/$name.csv | tr -d '\r' | awk -F, 'NF >= 5 { print 1000 * $2 }'
