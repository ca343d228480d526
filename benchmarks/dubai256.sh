#!/usr/bin/env bash
# What the report lacks, for a machine with a GPU and a network: DeepLabV3-ResNet50 from torchvision's
# ImageNet weights, on all Dubai tiles in their full size, 50 epochs, three seeds; the default, plain
# partial cross-entropy and dense masks.
#   benchmarks/dubai256.sh DATA [HOURS]
# DATA, made by dubai_tiles.py, holds {train,val}/{images,masks} of the Dubai tiles. One seed of
# everything comes before the next. After so many HOURS (default: no limit) it stops; started again, it
# trains anew the cell that it was in, and goes on. Rows go to benchmarks/results/study.csv, and
# benchmarks/report.py puts them into its tables.
set -euo pipefail
data=$(realpath "${1:?usage: benchmarks/dubai256.sh DATA [HOURS]}")
cd "$(dirname "$(realpath "$0")")/.."
timeout "${2:-0}h" "${PYTHON:-python}" benchmarks/study.py --data "$data" --device auto \
    --split val --every 1 --size 256 --epochs 50 \
    --variants default_resnet50 plain_resnet50 dense_resnet50 forest --points 100 20 --seeds 0 1 2
