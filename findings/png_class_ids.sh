#!/usr/bin/env bash
# Class ids in a grey PNG of 2 or 4 bits come back as other numbers from Pillow, OpenCV and scikit-image.
#
# Behaviour  A mask that holds the ids 0, 1, 2, 3 as grey of 2 bits is read as 0, 85, 170, 255 (4 bits: 0,
#            17, 34 ... 255). Pillow calls it mode L, as it calls a file of 8 bits; nothing tells the two
#            apart any more, and the last class becomes 255, which many programs take for "no label".
#            rasterio (GDAL) reads the same file as 0, 1, 2, 3. The same ids of 2 bits with a palette stay
#            as they are in Pillow (mode P), and 8 bits stay in all of them.
# Version    Pillow 13.0.0, opencv-python-headless 5.0.0.93, scikit-image 0.26.0, rasterio 1.4.4 with GDAL
#            3.10.3, Python 3.11.
# Source     https://pillow.readthedocs.io/en/stable/handbook/image-file-formats.html#png lists the modes,
#            not what happens to the values. In the code, _MODES maps (2, 0) to ("L", "L;2"):
#            https://github.com/python-pillow/Pillow/blob/main/src/PIL/PngImagePlugin.py
#            As a picture it is right; the specification tells how to scale samples to another depth:
#            https://www.w3.org/TR/png-3/#13Sample-depth-rescaling
# Guessed    That a lossless file gives back the numbers that were written, and that readers agree.
# Way out    Read the bit depth from byte 24 of the file; divide by 255 // (2**bits - 1).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile pillow==13.0.0 opencv-python-headless==5.0.0.93 \
    scikit-image==0.26.0 rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'EOF'
import struct
import sys
import warnings
import zlib

import cv2
import numpy as np
import PIL
import rasterio
import skimage
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from skimage import io

warnings.simplefilter("ignore", NotGeoreferencedWarning)
GREY, PALETTE = 0, 3  # colour types of the PNG specification


def write_png(path, ids, bits, colour_type):
    """One row of ids as a PNG, by the specification alone: no library has a say in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = "".join(f"{number:0{bits}b}" for number in ids)
    row = int(row, 2).to_bytes(len(row) // 8, "big")
    header = struct.pack(">IIBBBBB", len(ids), 1, bits, colour_type, 0, 0, 0)
    colours = bytes(range(3 * 2**bits)) if colour_type == PALETTE else None
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        if colours:
            file.write(chunk(b"PLTE", colours))
        file.write(chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))


def read_with_pillow(path):
    return np.asarray(Image.open(path))[0].tolist()


def read_with_opencv(path):
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)[0].tolist()


def read_with_skimage(path):
    return io.imread(path)[0].tolist()


def read_with_rasterio(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)[0].tolist()


print("Pillow", PIL.__version__, "| OpenCV", cv2.__version__, "| scikit-image", skimage.__version__)
print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
held = True
for bits in (2, 4, 8):
    ids = list(range(min(2**bits, 16)))
    write_png("mask.png", ids, bits, GREY)
    stretched = [number * (255 // (2**bits - 1)) for number in ids]
    for read in (read_with_pillow, read_with_opencv, read_with_skimage, read_with_rasterio):
        values = read("mask.png")
        print(f"grey, {bits} bits, {read.__name__}: {values}")
        held &= values == (ids if read is read_with_rasterio else stretched)
    held &= Image.open("mask.png").mode == "L"
write_png("mask.png", [0, 1, 2, 3], 2, PALETTE)
print("palette, 2 bits, Pillow:", Image.open("mask.png").mode, read_with_pillow("mask.png"))
held &= read_with_pillow("mask.png") == [0, 1, 2, 3]
print("as described" if held else "NOT as described")
sys.exit(not held)
EOF
