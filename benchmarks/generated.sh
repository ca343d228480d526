#!/usr/bin/env bash
# The run on the shipped, generated tiles whose pictures README shows: 100 points per tile, one seed, the defaults but for the
# backbone (whose ImageNet weights come by pip), its learning rate and fewer epochs. Interrupted, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python}" landcover_segmentation.py --resume --output-dir benchmarks/results/generated_efficientnet \
    --backbone efficientnet_lite0 --weights imagenet --learning-rate 1e-3 --epochs 30
