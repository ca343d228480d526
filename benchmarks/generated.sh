#!/usr/bin/env bash
# README's first command, with its results where README shows them: plain defaults on the shipped,
# generated tiles.
#     bash benchmarks/generated.sh
#     SEEDS="0 1 2" bash benchmarks/generated.sh      and the same once per seed, for results/first_run.csv
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python}" landcover_segmentation.py --output-dir benchmarks/results/generated_efficientnet
for seed in ${SEEDS:-}; do
    "${PYTHON:-python}" benchmarks/first_run.py --seeds "$seed"
done
