#!/usr/bin/env bash
# Pillow turns 255 into the last class where a PNG of class ids gets a palette of the classes alone.
#
# Behaviour  A mask of the ids 0 to 3 with 255 for unlabelled, of which 2% are labelled. putpalette() with the four
#            colours of the classes, saved as PNG: every 255 has become 3, so that the whole tile is labelled. Nobody
#            warns, and in memory, in TIFF and in BMP the 255 is there. The length of the palette sets the bits of a
#            pixel, 1, 2, 4 or 8, and higher bits are cut off: with 2 colours 255 becomes 1, with 5 to 16 it becomes 15,
#            which with 16 classes is one of them; with 17 it stays 255. bits=8 changes nothing, though in Pillow 12.3
#            it kept the ids. What reads the file, here OpenCV and rasterio, cannot tell.
# Version    Pillow 13.0.0, rasterio 1.4.4 with GDAL 3.10.3, OpenCV 5.0.0, numpy 2.4.6, Python 3.11.
# Source     https://pillow.readthedocs.io/en/stable/handbook/image-file-formats.html#png-saving says of bits that 8 are
#            used where it is left out. https://github.com/python-pillow/Pillow/issues/6210 met ids that changed in an
#            image of mode P without any palette. In the code, _save of src/PIL/PngImagePlugin.py. No report of an
#            ignored id that becomes a class was found.
# Guessed    That a palette says how ids look, not which there are; or an error for an id that it does not hold.
# Way out    A palette of 256 colours: putpalette(colours + [0] * (768 - len(colours))); compare the ids after.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile pillow==13.0.0 rasterio==1.4.4 opencv-python-headless==5.0.0.93 \
    numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import cv2
import numpy as np
import PIL
import rasterio
from PIL import Image

print("Pillow", PIL.__version__, "| rasterio", rasterio.__version__, "| OpenCV", cv2.__version__)
draw = np.random.default_rng(0)
ids = np.where(draw.random((64, 64)) < 0.02, draw.integers(0, 4, (64, 64)), 255).astype(np.uint8)
colours = draw.integers(0, 256, (256, 3)).tolist()
held = True


def saved(values: np.ndarray, count: int, name: str, **options) -> np.ndarray:
    picture = Image.fromarray(values)
    picture.putpalette(sum(colours[:count], []))
    assert (np.asarray(picture) == values).all()
    picture.save(name, **options)
    with Image.open(name) as picture:
        return np.asarray(picture)


for name, count, options, becomes in (
    ("mask.png", 4, {}, 3),
    ("mask.png", 4, {"bits": 8}, 3),
    ("mask.png", 256, {}, 255),
    ("mask.tif", 4, {}, 255),
    ("mask.bmp", 4, {}, 255),
):
    read = saved(ids, count, name, **options)
    shares = {int(value): f"{np.mean(read == value):.1%}" for value in np.unique(read)}
    print(f"{name}, {count} colours, {options}: {shares}")
    held &= bool((read == np.where(ids == 255, becomes, ids)).all())
saved(ids, 4, "mask.png")
with rasterio.open("mask.png") as dataset:
    others = {"rasterio": dataset.read(1)}
with rasterio.open("mask.png") as dataset:  # OpenCV gives the colours: each pixel has that of a class
    table = np.array([dataset.colormap(1)[value][2::-1] for value in range(4)])
others["OpenCV"] = (cv2.imread("mask.png")[:, :, None] == table).all(-1).argmax(-1)
for reader, read in others.items():
    held &= bool((read == np.where(ids == 255, 3, ids)).all())
    print(f"{reader} reads the values {np.unique(read).tolist()}, 3 in {np.mean(read == 3):.1%}")
ends = {count: int(saved(np.full((1, 8), 255, np.uint8), count, "one.png")[0, 0]) for count in (2, 3, 4, 5, 16, 17)}
print("255 comes back as, by the number of colours:", ends)
held &= ends == {2: 1, 3: 3, 4: 3, 5: 15, 16: 15, 17: 255}
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
