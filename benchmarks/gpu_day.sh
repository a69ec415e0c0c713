#!/bin/sh
# Run the GPU day on a bare machine: benchmarks/gpu_day.sh --call 1 --out FOLDER
# PYTHON=...           the interpreter that has torch and triton (default: python3)
# ZOETROPE_COMMIT=...  the commit, where neither git nor the carried folder tells it
# Everything after the name goes to `python -m zoetrope.benchmarks.gpu_day run`.
set -eu
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m zoetrope.benchmarks.gpu_day run "$@"
