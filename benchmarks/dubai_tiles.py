"""Makes DATA, the tiles that the other benchmarks take, from the published images of Dubai.

    python benchmarks/dubai_tiles.py ARCHIVE DATA
    python benchmarks/dubai_tiles.py DATA              only say whether they are those that were measured

ARCHIVE is the folder `Semantic segmentation dataset` of
https://www.kaggle.com/datasets/humansintheloop/semantic-segmentation-of-aerial-imagery and holds `Tile 1`
to `Tile 8`, each with images/image_part_001.jpg to 009 and the masks of these, in colours, in
masks/*.png. A `Tile` is a scene here. Its images are cut from the top left corner into tiles of 256x256,
without overlap; what is left at the right and at the bottom is not used. Parts 3, 6 and 9 of each scene
become val. The JPEGs have quality 93, as those that were measured. Of these
benchmarks/results/dubai_tiles.csv has the number, the pixels of each class, and a SHA-256 over names and
class ids in order.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np
from convert_masks import read_palette, rgb_mask_to_class_ids
from PIL import Image
from study import CLASSES, append, provenance, read_csv
from tqdm import tqdm

import landcover_segmentation as lc

SIDE = 256
VAL_PARTS = (3, 6, 9)
MEASURED = ROOT / "benchmarks/results/dubai_tiles.csv"


def read_class_ids(path: Path) -> np.ndarray:
    """Class ids (H, W) uint8 of a mask in the publisher's colours, as CLASSES has them; 255 = unlabelled."""
    published = read_palette("dubai")  # whose land is "land (unpaved)"
    colors = {name.split()[0]: color for name, color in zip(published.names, published.colors, strict=True)}
    palette = [tuple(bytes.fromhex(colors[name][1:])) for name in CLASSES]
    with lc.open_picture(path) as picture:
        return rgb_mask_to_class_ids(np.asarray(picture.convert("RGB")), palette)


def cut(picture: np.ndarray) -> dict[str, np.ndarray]:
    """The tiles of an image or a mask by row and column, as file names have them."""
    return {
        f"r{row}_c{column}": picture[row * SIDE :, column * SIDE :][:SIDE, :SIDE]
        for row in range(picture.shape[0] // SIDE)
        for column in range(picture.shape[1] // SIDE)
    }


def cut_archive(archive: Path, data: Path) -> None:
    """Writes the tiles of all images of the archive."""
    images = sorted(archive.glob("Tile */images/image_part_*.jpg"))
    if not images:
        sys.exit(
            f"{archive}: holds no 'Tile */images/image_part_*.jpg'; name the folder of the archive that does"
        )
    for path in tqdm(images, "cutting", disable=None):
        scene, part = (int(re.search(r"\d+$", name)[0]) for name in (path.parents[1].name, path.stem))
        image, mask = (
            cut(lc.read_image(path)),
            cut(read_class_ids(path.parents[1] / f"masks/{path.stem}.png")),
        )
        if image.keys() != mask.keys():
            sys.exit(f"{path}: is of another size than its mask; unpack the archive anew")
        split = "val" if part in VAL_PARTS else "train"
        for place in image:
            for kind, tile, suffix in (("images", image[place], "jpg"), ("masks", mask[place], "png")):
                target = data / split / kind / f"scene{scene}_part{part}_{place}.{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(tile).save(target, quality=93)  # which PNG has not


def describe(data: Path, split: str) -> dict:
    """Number of tiles, pixels of each class, unlabelled pixels and hash of a split, as strings."""
    digest, pixels = hashlib.sha256(), np.zeros(256, int)
    tiles = lc.list_tiles(data / split / "images", data / split / "masks")
    for _, path in tqdm(tiles, split, leave=False, disable=None):
        mask = lc.read_mask(path)
        digest.update(path.stem.encode() + mask.tobytes())
        pixels += np.bincount(mask.ravel(), minlength=256)
    classes = zip([*CLASSES, "unlabelled"], [*pixels[: len(CLASSES)], pixels[lc.IGNORE_INDEX]], strict=True)
    row = {"split": split, "tiles": len(tiles), **dict(classes), "sha256": digest.hexdigest()}
    return {key: str(value) for key, value in row.items()}


def compare(data: Path) -> None:
    """Says of both splits whether they are the measured ones; where none are known yet, these become so."""
    known = {row["split"]: row for row in read_csv(MEASURED)}
    for split in sorted(path.name for path in data.iterdir() if path.name in ("train", "val")):
        row = describe(data, split)
        if split not in known:
            append(MEASURED, row | {"weights": "none", **provenance("benchmarks/dubai_tiles.py DATA")})
        same = row.items() <= known.get(split, row).items()
        what = "those that were measured" if same else f"other ones than in {MEASURED.name}"
        print(f"{split}: {row['tiles']} tiles, {what}")


def main() -> None:
    if len(sys.argv) == 3:
        cut_archive(Path(sys.argv[1]), Path(sys.argv[2]))
    elif len(sys.argv) != 2:
        sys.exit(__doc__)
    compare(Path(sys.argv[-1]))


if __name__ == "__main__":
    main()
