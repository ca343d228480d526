#!/usr/bin/env bash
# scikit-image's slic gives one single segment, where 100 are asked for, if the image is noisy.
#
# Behaviour  Four fields of clearly different colours with noise of 20 grey levels (8 bits): slic(image,
#            n_segments=100) returns one label for the whole image, without a warning. Not only the
#            superpixels are lost but the fields as well. Smoothed first (sigma=1) the same image gives
#            94 to 99 segments, with compactness=30 it gives 76 to 80, with enforce_connectivity=False 100.
#            At the default compactness of 10 the noise outweighs the distance, so that segments fall into
#            crumbs; then each connected piece smaller than half a segment is merged into a neighbour, and
#            here no piece is larger (seen: 34774 pieces, the largest of 180 pixels; a segment has 655).
# Version    scikit-image 0.26.0, numpy 2.4.6, Python 3.11.
# Source     https://scikit-image.org/docs/stable/api/skimage.segmentation.html#skimage.segmentation.slic
#            calls n_segments the approximate number of labels; min_size_factor says that small pieces are
#            removed, not that nothing may be left. It does say that compactness depends on the contrast.
# Guessed    About 100 segments, rough ones at worst; or an error.
# Way out    Count the labels that come back; smooth the image (sigma=1) or raise compactness.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile scikit-image==0.26.0 numpy==2.4.6

"$work/venv/bin/python" - <<'EOF'
import sys

import numpy as np
import skimage
from skimage.segmentation import slic

print("scikit-image", skimage.__version__)
colours = np.array([[(60, 110, 50), (150, 130, 90)], [(40, 60, 90), (190, 190, 195)]])
fields = np.kron(colours, np.ones((128, 128, 1)))
held = True
for noise in (0, 20):
    for seed in range(3 if noise else 1):
        grain = np.random.default_rng(seed).normal(0, noise, fields.shape)
        image = np.clip(fields + grain, 0, 255).astype(np.uint8)
        count = {}
        for options in ({}, {"sigma": 1}, {"compactness": 30}, {"enforce_connectivity": False}):
            count[str(options)] = len(np.unique(slic(image, n_segments=100, **options)))
        print(f"noise {noise}, seed {seed}: segments by options {count}")
        held &= count["{}"] == (1 if noise else 100)
        held &= all(n > 50 for options, n in count.items() if options != "{}")
print("as described" if held else "NOT as described")
sys.exit(not held)
EOF
