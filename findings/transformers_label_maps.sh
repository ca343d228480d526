#!/usr/bin/env bash
# transformers' image processors of BEiT and DPT resize label maps bicubically, and make classes that nobody labelled.
#
# Behaviour  A map of the ids 0, 1, 2 and 255 for unlabelled, in patches of 16 pixels, given with its image as
#            segmentation_maps to BeitImageProcessor and DPTImageProcessor. The labels that come back, int64 as the loss
#            wants them, have ids from 4 to 251 as well, on 7% to 11% of the pixels; at borders between class and
#            unlabelled there are pixels of class 0, which no neighbour has. With more classes than that the loss takes
#            them. SegformerImageProcessor keeps to the four ids. With do_reduce_labels it is no better. The processors
#            on torchvision, taken where it is installed, do the same, and those of CHMv2 and Sapiens2, too.
# Version    transformers 5.24.0, Pillow 13.0.0, numpy 2.4.6, Python 3.11. In the repository's other processors,
#            Segformer's, MobileViT's, MobileNetV2's, Mask2Former's, label maps go by nearest.
# Source     https://huggingface.co/docs/transformers/model_doc/beit calls segmentation_maps what is to be preprocessed,
#            resample the filter for the image. DPT's came with https://github.com/huggingface/transformers/pull/34345,
#            adapted from BEiT's. No report of it was found.
# Guessed    That label maps are resized by nearest, as in the others of the same package.
# Way out    Resize image and map yourself, and do_resize=False; or resample=PILImageResampling.NEAREST for the maps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile transformers==5.24.0 pillow==13.0.0 numpy==2.4.6

cd "$work"
TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import PIL
import transformers
from transformers import BeitImageProcessor, DPTImageProcessor, SegformerImageProcessor

print("transformers", transformers.__version__, "| Pillow", PIL.__version__)
draw = np.random.default_rng(0)
ids = np.kron(draw.choice([0, 1, 2, 255], (16, 16)), np.ones((16, 16))).astype(np.uint8)
image = draw.integers(0, 256, (256, 256, 3)).astype(np.uint8)


def labels(processor: type, side: int, given: np.ndarray = ids, **options) -> np.ndarray:
    prepare = processor(size={"height": side, "width": side}, do_center_crop=False, **options)
    return np.asarray(prepare(images=image, segmentation_maps=given, return_tensors="np")["labels"][0])


held = True
for processor in (BeitImageProcessor, DPTImageProcessor, SegformerImageProcessor):
    for side in (224, 384):
        found = labels(processor, side)
        strange = np.mean(~np.isin(found, [0, 1, 2, 255]))
        print(f"{processor.__name__}, to {side}: {found.dtype}, {strange:.1%} of no class, {np.unique(found).tolist()}")
        held &= strange == 0 if processor is SegformerImageProcessor else 0.05 < strange < 0.15
reduced = np.unique(labels(BeitImageProcessor, 384, do_reduce_labels=True)).tolist()
print("BeitImageProcessor with do_reduce_labels:", reduced)
held &= not set(reduced) <= {0, 1, 255}
sparse = np.full((256, 256), 255, np.uint8)
sparse[8::16, 8::16] = 1  # 256 labelled pixels, all of class 1
for processor in (BeitImageProcessor, SegformerImageProcessor):
    values, counts = np.unique(labels(processor, 384, sparse), return_counts=True)
    print(f"points of class 1 alone, {processor.__name__}:", dict(zip(values.tolist(), counts.tolist(), strict=True)))
    held &= (set(values.tolist()) == {1, 255}) == (processor is SegformerImageProcessor)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
