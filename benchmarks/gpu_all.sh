#!/usr/bin/env bash
# Every check that needs a GPU, in one visit of under 8 minutes on one card; its figures are summed
# up in docs/gpu.md.
#
#     benchmarks/gpu_all.sh [DATA]
#
# DATA is a folder in which cifar10/unpack.py makes arrays of CIFAR-10; without it the steps on CIFAR-10
# are left out. Logs, figures and the page go to
# $OUT (default reports/gpu), eight files at the most. Packages of wheels/, if there is one, are used
# before installed ones (benchmarks/gpu_wheels.sh). MINUTES (default 8) is the limit of the whole: a
# step that does not fit any more is left out, and one that fails does not stop the others.
set -u
cd "$(dirname "$0")/.."
ROOT=$PWD
OUT=${OUT:-reports/gpu}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
DATA=${1:-}
[ -n "$DATA" ] && DATA=$(cd "$DATA" && pwd)

# Benchmarks write beside themselves and into docs/: a copy keeps the CPU's figures as they are.
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cp -r benchmarks docs "$WORK"
touch "$WORK/begun"
mkdir "$WORK/logs"
export PYTHONPATH=$ROOT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
if ls wheels/*.whl >/dev/null 2>&1; then
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$WORK/site" wheels/*.whl
    PYTHONPATH=$WORK/site:$PYTHONPATH
fi
python3 -c 'import torch; assert torch.cuda.is_available()' || { echo "no CUDA device"; exit 1; }

DEADLINE=$(($(date +%s) + 60 * ${MINUTES:-8} - 15))

step() { # NAME SECONDS COMMAND...: runs it in the copy, within its own and the whole limit
    local name=$1 limit=$2 left begin code
    shift 2
    left=$((DEADLINE - $(date +%s)))
    [ "$left" -lt "$limit" ] && limit=$left
    begin=$(date +%s)
    code=skipped
    if [ "$limit" -ge 10 ]; then
        echo "== $name, at most $limit s"
        (cd "$WORK" && timeout --kill-after=5 "$limit" "$@") >"$WORK/logs/$name.log" 2>&1
        code=$?
        tail -n 3 "$WORK/logs/$name.log"
    fi
    printf '%s\t%s\t%s\n' "$name" "$code" "$(($(date +%s) - begin))" | tee -a "$WORK/steps.tsv"
}

bench() { # NAME SECONDS OPTIONS...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" python3 "benchmarks/$name.py" "$@"
}

# shellcheck disable=SC2046  # a list of files
step tests 90 python3 -m pytest -q -rs -p no:cacheprovider --rootdir "$ROOT" -c "$ROOT/pyproject.toml" \
    $(grep -rl "is_available" "$ROOT"/tests --include="test_*.py")
bench kd_overhead 40 --device cuda --repeats 3
bench cache_exact 30 --device cuda
bench roofline 45 --device cuda
bench streaming 45 --device cuda --repeats 3
if [ -n "$DATA" ]; then
    ARRAYS=npz:$WORK/cifar10/train.npz
    step unpack 40 python3 "$DATA/cifar10/unpack.py" arrays "$WORK/cifar10"
    bench cifar10_teacher 170 --data "$ARRAYS" --out "$WORK/teacher"
    step search 95 python3 -m nasdistill search --data "$ARRAYS" --teacher "folder:$WORK/teacher" \
        --study cifar10 --device cuda --trials 64 --time-limit 75s --top-k 1 \
        --minimize params --minimize macs --final-budget "6 epochs" --json
    bench scaling 100 --device cuda --data "$ARRAYS" --teacher "folder:$WORK/teacher" \
        --repeats 2 --trials 250 --seconds 25
fi
bench trials_per_hour 90 --device cuda --epochs 1 --repeats 3 --architectures 4
if [ "$(python3 -c 'import torch; print(torch.cuda.device_count())')" -ge 2 ]; then
    step final_gpus 90 python3 -m nasdistill search --space resnet --study final-gpus --device cuda \
        --trials 4 --top-k 1 --minimize params --final-gpus 2 --json
else
    echo "== final_gpus left out: it takes two cards, and there is one"
fi
bench latency 30 --engine cuda --runs 3
bench fp8 90 --device cuda --epochs 2 --seeds 0 1
# A part of the shared table, which goes on at the next visit where its lines are kept.
bench full_runs 60 --device cuda --kinds full trunk --seeds 0 --minutes 0.7
bench ranking 30 --device cuda

python3 benchmarks/gpu_page.py "$WORK" "$ROOT/docs/gpu.md"
cp docs/gpu.md "$WORK/docs/benchmarks.md" "$WORK/steps.tsv" "$OUT"  # with the tables of CUDA
tar -C "$WORK" -czf "$OUT/logs.tar.gz" logs
(cd "$WORK/benchmarks" && find . -name '*.json*' -newer ../begun -print0 |
    tar --null --files-from=- -czf "$OUT/figures.tar.gz")
report=$WORK/reports/cifar10/index.html
[ -f "$report" ] && cp "$report" "$OUT/cifar10.html"
cat docs/gpu.md
