#!/usr/bin/env bash
# The runs on the shipped, generated tiles in README.md and technical_report.md: 100 points per tile, one seed.
#   benchmarks/generated.sh [RUN ...]
# RUN is efficientnet or resnet50 (default: both). Interrupted, a run goes on where it stopped.
# Results go to benchmarks/results/generated_RUN.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- efficientnet resnet50

for run in "$@"; do
    case $run in
        efficientnet) flags=(--backbone efficientnet_lite0 --precision float32 --weights imagenet --learning-rate 1e-3 --epochs 30) ;;
        resnet50) flags=() ;; # the main job as it stands
        *) echo "no such run: $run" >&2; exit 2 ;;
    esac
    "${PYTHON:-python}" landcover_segmentation.py --resume --teacher-decay 0 --cut-mix 0 --pseudo-label-weight 0 --point-sampling stratified --output-dir "benchmarks/results/generated_$run" "${flags[@]}"
done
