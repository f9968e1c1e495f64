#!/usr/bin/env bash
# Brings into wheels/ what a machine without a network lacks, beside a Python 3.12 with torch,
# torchvision, numpy, pandas, scipy, pillow, onnx, onnxruntime, onnxscript, safetensors, rich, typer
# and pytest. Versions are those of constraints.txt; git ignores the folder.
#
#     benchmarks/gpu_wheels.sh            # then carry wheels/, about 22 MB; gpu_all.sh installs it
set -euo pipefail
cd "$(dirname "$0")/.."

NAMES="optuna alembic colorlog Mako MarkupSafe SQLAlchemy PyYAML tqdm plotly narwhals pydantic
pydantic_core annotated-types typing-inspection typing_extensions ruamel.yaml"
PLATFORMS=""
for version in 2_34 2_28 2_27 2_24 2_17 2_12 2_5; do
    PLATFORMS="$PLATFORMS --platform manylinux_${version}_x86_64"
done

pinned=""
for name in $NAMES; do
    pinned="$pinned $(grep -i "^$name==" constraints.txt)"
done
pinned="$pinned torchao==0.18.0"  # of benchmarks/fp8.py alone
rm -rf wheels
# shellcheck disable=SC2086  # lists of words
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp $PLATFORMS --platform manylinux2014_x86_64 --dest wheels $pinned
du -sh wheels
