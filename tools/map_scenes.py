"""Map images of any size with a trained model: class ids, overlay, area per class.

    python tools/map_scenes.py --input scenes --output maps                    with best_model.pth
    python tools/map_scenes.py --checkpoint a.pth b.pth --input s.tif --output maps    mean of both
    torchrun --nproc_per_node=4 tools/map_scenes.py --input scenes --output maps
                                                    shares the files, of fewer than processes their windows

NAME_classes holds class ids, 255 = no data, in the classes' colours: a GeoTIFF if the image has a
georeference (pip install rasterio), else a PNG. NAME_overlay.png shows them over the image, NAME_legend.png
which colour is which. NAME_area.csv counts pixels, share and, where the pixel size is known, hectares of each
class, area.csv those of a folder in total; such counts inherit the map's errors: tools/assess.py.
The model sees an image in windows that overlap and are blended; memory holds one row of windows.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import hashlib
import math
import signal
import sys
import warnings
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from tqdm.auto import tqdm

import landcover_segmentation as lc

OVERLAY_SIDE = 4096  # pixels; larger overlays are thinned

# =====================================================================================================
# Checkpoints -> a model for prediction alone
# =====================================================================================================


class Ensemble(nn.Module):
    """Several models as one: images (B, 3, H, W) -> the log of their mean probability (B, C, H, W).

    They need not be alike. Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        total = sum(model(images).float().softmax(1) for model in self.models)
        return (total / len(self.models)).clamp(min=1e-9).log()


def load_ensemble(paths: Sequence[str | Path], device: str = "auto") -> nn.Module:
    """Loads one checkpoint, as `lc.load_model`, or several as one model.

    Raises InputError if these differ in classes or bands.
    """
    models = [lc.load_model(path, device) for path in paths]
    first = models[0]
    first.checkpoint = "; ".join(map(fingerprint, paths))
    for path, model in zip(paths, models, strict=True):
        if (model.class_names, model.reading, model.normalisation) != (
            first.class_names,
            first.reading,
            first.normalisation,
        ):
            problem = f"has other classes or bands than {paths[0]}"
            raise lc.InputError(f"{path}: {problem}; an ensemble is of models of the same data")
    if len(models) == 1:
        return first
    ensemble = Ensemble(models).eval()
    for name in ("num_classes", "class_names", "class_colors", "reading", "normalisation", "checkpoint"):
        setattr(ensemble, name, getattr(first, name))
    return ensemble


def fingerprint(path: str | Path) -> str:
    """A checkpoint's name and the first 16 digits of its SHA-256, by which a map tells what made it."""
    return f"{Path(path).name} sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"


def fold_batch_norm(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Copies a model for prediction alone: its batch norms become part of the convolutions before them.

    dtype: of the convolutions' weights; if it is not float32, predict under `lc.autocast`, which then need
    not convert them.
    """
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for (_, before), (name, after) in pairwise(list(module.named_children())):
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                norm = after.running_mean, after.running_var, after.eps, after.weight, after.bias
                before.weight, before.bias = fuse_conv_bn_weights(before.weight, before.bias, *norm)
                setattr(module, name, getattr(after, "act", nn.Identity()))  # timm's norms hold theirs
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype, memory_format=torch.channels_last)
    return model


# =====================================================================================================
# Window -> probabilities
# =====================================================================================================


def predict_window(
    model: nn.Module,
    images: Tensor,
    views: int = 1,
    scales: Sequence[float] = (1.0,),
    crf: bool = False,
) -> Tensor:
    """Logits (B, C, H, W) of normalised images (B, 3, H, W): the model's, or the log of what improves them.

    views: as for `lc.predict_probabilities`. scales: the mean over the images resized by each; it costs
    sharpness. crf: refined by `refine_with_crf`.
    """
    if (views, tuple(scales), crf) == (1, (1.0,), False):
        return model(images).float()
    at_scales = [model if scale == 1 else partial(lc.at_scale, model, scale) for scale in scales]
    opinions = [lc.predict_probabilities(one, images, views) for one in at_scales]
    probabilities = sum(opinions) / len(opinions)
    probabilities = refine_with_crf(probabilities, images) if crf else probabilities
    return probabilities.clamp(min=1e-9).log()


def refine_with_crf(
    probabilities: Tensor,
    images: Tensor,
    iterations: int = 5,
    weight: float = 3.0,
    radius: int = 5,
    sigma_xy: float = 6.0,
    sigma_rgb: float = 0.1,
) -> Tensor:
    """Sharpens a prediction along the edges of the image, by mean-field inference in a CRF.

    probabilities: (B, C, H, W); images: (B, 3, H, W), normalised. Each iteration adds to the
    log-probabilities weight times the mean of the neighbours' probabilities, weighted as in
    `pairwise_messages`. Returns probabilities (B, C, H, W).

    Krähenbühl & Koltun 2011, https://arxiv.org/abs/1210.5644; pairs reach no further than radius, as in
    ConvCRF (Teichmann & Cipolla 2018, https://arxiv.org/abs/1805.04777).
    """
    unary = probabilities.clamp(min=1e-6).log()
    for _ in range(iterations):
        messages, strength = pairwise_messages(probabilities, images, radius, sigma_xy, sigma_rgb)
        probabilities = (unary + weight * messages / strength).softmax(1)
    return probabilities


def pairwise_messages(
    values: Tensor, images: Tensor, radius: int = 5, sigma_xy: float = 6.0, sigma_rgb: float = 0.1
) -> tuple[Tensor, Tensor]:
    """What every pixel hears from its neighbours: their values, weighted by nearness and likeness of colour.

    values: (B, C, H, W); images: (B, 3, H, W), normalised. The kernel is 0.9 exp(-d²/2 sigma_xy² -
    c²/2 sigma_rgb²) + 0.1 exp(-d²/2 sigma_xy²) for a distance d in pixels and c in RGB of 0..1, over the
    window of the given radius without the pixel itself (Obukhov et al. 2019,
    https://arxiv.org/abs/1906.04651). Returns the weighted sums (B, C, H, W) and the sums of weights
    (B, 1, H, W).
    """
    height, width = values.shape[-2:]
    std = torch.tensor(lc.IMAGENET_STD[: images.shape[1]], device=images.device).view(-1, 1, 1)
    colors = images[:, :3].float() * std
    messages, strength = torch.zeros_like(values), torch.zeros_like(values[:, :1])
    for dy in range(radius + 1):  # half of the window: each pair is visited once and speaks both ways
        for dx in range(-radius if dy else 1, radius + 1):
            if dy >= height or abs(dx) >= width:
                continue
            left = slice(max(0, -dx), width - max(0, dx))
            right = slice(max(0, dx), width - max(0, -dx))
            here, there = (..., slice(0, height - dy), left), (..., slice(dy, height), right)
            unlikeness = (colors[here] - colors[there]).square_().sum(1, keepdim=True)
            kernel = unlikeness.mul_(-1 / (2 * sigma_rgb**2)).exp_().mul_(0.9).add_(0.1)
            kernel *= math.exp(-(dy**2 + dx**2) / (2 * sigma_xy**2))
            messages[here] += kernel * values[there]
            messages[there] += kernel * values[here]
            strength[here] += kernel
            strength[there] += kernel
    return messages, strength


# =====================================================================================================
# Scene -> strips of class ids
# =====================================================================================================


def lay_windows(size: int, tile: int = 512, overlap: int | None = None) -> tuple[np.ndarray, Tensor]:
    """Lays windows along `size` pixels: where each begins (N,), and the weights of its pixels (N, length).

    The windows are spread evenly over the size rounded up to a multiple of 32, and begin at multiples of
    32, so that a network that halves five times sees the same grid in each. Neighbours share at least
    `overlap` pixels (None: a quarter of the tile). In the middle of what they share one weight falls as
    the other rises, in a raised cosine over half the overlap; the rest, where a window sees too little
    around it, weighs nothing. At every pixel the weights sum to 1.
    """
    overlap = tile // 4 if overlap is None else overlap
    if tile < 64 or tile % 32:
        raise lc.InputError(f"tile = {tile}: must be a multiple of 32, and at least 64")
    if not 0 <= overlap <= tile // 2:
        raise lc.InputError(f"overlap = {overlap}: must lie between 0 and {tile // 2}, half of the tile")
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
    model: nn.Module, scene: geo.Scene, *,
    tile: int = 512, overlap: int | None = None, batch_size: int | None = None,
    dtype: torch.dtype = torch.float32, confidence: bool = False, together: bool = False,
    progress: str | None = None, **improvement,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]:  # fmt: skip
    """Predicts a scene in windows whose logits are blended by `lay_windows`, and reads ahead meanwhile.

    Yields strips of finished rows from top to bottom, each as the number of its first row, image (h, W,
    bands + 1), class ids (h, W) and, if asked for, confidence (h, W), the probability in percent; all uint8,
    the last two 255 where there is no data. A network whose logits depend on no more than overlap / 4
    pixels around gives what it would give for the whole scene at once. Memory is that of tile x W x classes
    float32. batch_size: windows per forward pass; None: 8 on a GPU, 1 on a CPU, whose caches hold no more.
    together: whether the ranks of torchrun share the windows; all get the same strips. progress names a bar.
    improvement: views, scales, crf of `predict_window`.
    """
    device = next(model.parameters()).device
    batch_size = batch_size or (1 if device.type == "cpu" else 8)
    share = slice(lc.rank(), None, lc.world_size()) if together else slice(None)
    tops, downs = lay_windows(scene.height, tile, overlap)
    lefts, acrosses = lay_windows(scene.width, tile, overlap)
    (height, width), span = (downs.shape[1], acrosses.shape[1]), lefts[-1] + acrosses.shape[1]
    downs, acrosses = downs.to(device), acrosses.to(device)
    predict = partial(window_logits, model, dtype=dtype, **improvement)
    classes = predict([np.zeros((32, 32, scene.bands), np.uint8)]).shape[1]
    total = torch.zeros(classes, height, span, device=device)
    pixels = np.empty((0, span, scene.bands + 1), np.uint8)
    mean = lc.as_color(normalisation(model)["mean"])
    how = {"desc": progress, "unit": "window", "disable": None if progress else True}
    bar = tqdm(total=len(tops) * len(lefts), **how)
    rows_ahead = contextlib.closing(in_background(read_padded(scene, tops + height, span, mean)))
    with rows_ahead as fresh_rows:  # after an error, too, no row is read when the scene is closed
        for top, bottom, down, fresh in zip(tops, [*tops[1:], scene.height], downs, fresh_rows, strict=True):
            pixels = np.concatenate([pixels, fresh])
            seen = [at for at, left in enumerate(lefts) if pixels[:, left : left + width, -1].any()][share]
            batches = [seen[at : at + batch_size] for at in range(0, len(seen), batch_size)]
            windows = ([pixels[:, left : left + width, :-1] for left in lefts[batch]] for batch in batches)
            for batch, logits in zip(batches, side_by_side(predict, windows, device), strict=True):
                for left, across, part in zip(lefts[batch], acrosses[batch], logits, strict=True):
                    total[:, :, left : left + width].addcmul_(part, across * down[:, None])
                bar.update(len(batch))
            bar.update(len(lefts) - len(seen))
            done, rest = pixels[: bottom - top, : scene.width], total[:, bottom - top :].clone()
            logits = total[:, : len(done), : scene.width]
            logits = lc.sum_over_ranks(logits.contiguous()) if together else logits
            yield int(top), done, *decide(logits, done[..., -1] > 0, confidence)
            pixels = pixels[len(done) :]
            total.zero_()[:, : rest.shape[1]] = rest
    bar.close()


def normalisation(model: nn.Module) -> dict[str, Sequence[float]]:
    return getattr(model, "normalisation", {"mean": lc.IMAGENET_MEAN, "std": lc.IMAGENET_STD})


@torch.no_grad()
def window_logits(
    model: nn.Module, windows: Sequence[np.ndarray], dtype: torch.dtype, **improvement
) -> Tensor:
    """Logits (B, C, H, W) of B windows (H, W, bands) uint8, which are normalised on the device."""
    device = next(model.parameters()).device
    how = (torch.tensor(normalisation(model)[name], device=device) for name in ("mean", "std"))
    mean, std = (255 * values.view(-1, 1, 1) for values in how)
    images = torch.from_numpy(np.stack(windows)).to(device).permute(0, 3, 1, 2)
    with lc.autocast(device, dtype):
        return predict_window(model, (images - mean) / std, **improvement)


def decide(logits: Tensor, known: np.ndarray, confidence: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Class ids (h, W) uint8 of logits (C, h, W) and, if asked for, their probability in percent.

    known: whether there is data, (h, W); without, both are 255.
    """
    results = [logits.max(0)[1]]  # on a CPU a quarter of the time of argmax
    if confidence:
        results.append((100 * logits.softmax(0).amax(0)).round())
    class_ids, *percent = (np.where(known, each.byte().cpu(), lc.IGNORE_INDEX) for each in results)
    return class_ids, *(percent or [None])


def read_padded(
    scene: geo.Scene, ends: Sequence[int], width: int, mean: Sequence[int]
) -> Iterator[np.ndarray]:
    """Reads a scene by rows up to each of the ends, (h, width, bands + 1) uint8, alpha last.

    Where there is no data is the mean colour, as beyond a tile in training; beyond the scene its edge goes
    on, as the model itself pads.
    """
    for begin, end in pairwise([0, *ends]):
        rows = scene.read(begin, min(end, scene.height))
        rows[rows[..., -1] == 0, :-1] = mean
        yield np.pad(rows, ((0, end - begin - len(rows)), (0, width - scene.width), (0, 0)), mode="edge")


# =====================================================================================================
# Threads, which let the network wait neither for a file to be read nor for one to be written
# =====================================================================================================


def side_by_side(predict: Callable, windows: Iterable, device: torch.device) -> Iterator[Tensor]:
    """Predicts windows in their order; on a CPU each core one of its own, which wastes less than sharing."""
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    if cores == 1:
        yield from map(predict, windows)
        return
    threads = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from threads.map(predict, windows)
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def in_background(items: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Runs an iterator in a thread, one item ahead of who takes them. Its errors are raised here."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


@contextlib.contextmanager
def behind(write: Callable[..., None]) -> Iterator[Callable[..., None]]:
    """Yields a function by which a thread calls `write`, one call at a time; its errors are raised here."""
    with ThreadPoolExecutor(1) as thread:
        calls = [thread.submit(int)]

        def call(*arguments: object) -> None:
            calls.pop().result()
            calls.append(thread.submit(write, *arguments))

        yield call
        calls.pop().result()


# =====================================================================================================
# Strips -> maps, areas, pictures
# =====================================================================================================


def predict_scene(
    model: nn.Module, path: str | Path, output_dir: str | Path, *, confidence: bool = False, **options
) -> list[Path]:
    """Maps an image of any size with a model of `lc.load_model`. Writes all of its files or none.

    NAME_classes: the .aux.xml beside it tells GDAL and GRASS names and colours of the classes and which
    checkpoint made it, the .qml is QGIS's legend, other programs find tags. NAME_overlay.png: thinned to
    4096 pixels at most, with its place in an .aux.xml; NAME_legend.png: its legend. With confidence,
    NAME_confidence: the probability of the class in percent.

    options: as for `predict_strips`; of ranks that map it together rank 0 calls this, the others
    `help_to_predict`. Returns the files written. Raises InputError as `geo.open_scene` and `lay_windows` do.
    """
    palette = lc.class_palette(model.class_colors, model.num_classes)
    names, written = model.class_names, []
    reading = getattr(model, "reading", {})  # a network of another make reads 8-bit RGB
    with (
        geo.open_scene(path, **reading) as scene,
        contextlib.ExitStack() as results,
        contextlib.ExitStack() as rasters,
    ):

        def target(ending: str) -> Path:
            written.append(Path(output_dir) / f"{Path(path).stem}_{ending}")
            return results.enter_context(lc.atomic_write(written[-1]))

        placed = scene.transform is not None
        suffix = "tif" if placed else "png"
        classes = target(f"classes.{suffix}")
        tags = map_tags(model, scene, written[-1])
        writers = [geo.raster_writer(classes, scene, "land cover", names, palette, tags)]
        if confidence:
            sure = target(f"confidence.{suffix}")
            writers.append(geo.raster_writer(sure, scene, "confidence in percent"))
        write_text(target(f"classes.{suffix}.aux.xml"), geo.legend_xml(names, palette, tags))
        if placed:
            write_text(target("classes.qml"), geo.qgis_style(names, palette))
        writers = [rasters.enter_context(writer) for writer in writers]
        strips = predict_strips(model, scene, confidence=confidence, **options)
        counts, areas, overlay = write_strips(strips, scene, writers, palette)
        quickly = {"compress_level": 1, "compress_type": zlib.Z_RLE}  # a fifth of the time, a tenth larger
        Image.fromarray(overlay).save(target("overlay.png"), **quickly)
        with lc.fonts_for(names):
            draw_legend(target("legend.png"), names, palette)
        if placed:
            write_text(target("overlay.png.aux.xml"), geo.placement(scene, overlay_step(scene)))
        lc.write_history(target("area.csv"), area_table(names, counts, areas))
    remove_stale_places(written)
    return written


def overlay_step(scene: geo.Scene) -> int:
    return math.ceil(max(scene.height, scene.width) / OVERLAY_SIDE)


def write_strips(
    strips: Generator[tuple], scene: geo.Scene, writers: Sequence[Callable], palette: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Writes strips of `predict_strips` in a thread, class ids and confidence each by a writer of its own.

    Returns pixels and hectares by class id, (256,), the latter None where they are not known, and the
    thinned overlay (h, w, 3).
    """
    step, hectares, overlay = overlay_step(scene), geo.pixel_hectares(scene), []
    counts, areas = np.zeros(256, np.int64), None if hectares is None else np.zeros(256)

    def take(top: int, pixels: np.ndarray, *results: np.ndarray | None) -> None:
        for write, rows in zip(writers, results, strict=False):
            write(top, rows)
        by_row = np.stack([np.bincount(row, minlength=256) for row in results[0]])
        np.add(counts, by_row.sum(0), out=counts)
        if areas is not None:
            np.add(areas, hectares[top : top + len(by_row)] @ by_row, out=areas)
        thin = slice(-top % step, None, step), slice(None, None, step)
        overlay.append(shade(pixels[thin], results[0][thin], palette))

    with contextlib.closing(strips), behind(take) as take_behind:
        for strip in strips:
            take_behind(*strip)
    return counts, areas, np.concatenate(overlay)


def help_to_predict(model: nn.Module, path: Path, confidence: bool, **options) -> None:
    """Predicts a rank's share of the windows of a scene that rank 0 maps by `predict_scene`."""
    with geo.open_scene(path, **model.reading) as scene:
        for _ in predict_strips(model, scene, **options):
            pass


def map_tags(model: nn.Module, scene: geo.Scene, path: Path) -> dict[str, str]:
    """What a map says of itself: which checkpoint made it and, with a warning, whether it is turned."""
    tags = {"CHECKPOINT": model.checkpoint} if hasattr(model, "checkpoint") else {}
    if geo.is_turned(scene):
        cure = f"gdalwarp -r near {path} {path.stem}_north.tif"
        tags["NOTE"] = f"is rotated or south-up, as its scene is, which some programs cannot read; {cure}"
        warnings.warn(f"{path}: {tags['NOTE']}", stacklevel=2)
    return tags


def remove_stale_places(written: Sequence[Path]) -> None:
    """Removes what earlier files left beside new pictures: a world file beats the place in an .aux.xml."""
    for picture in (path for path in written if path.suffix == ".png"):
        beside = Path(f"{picture}.aux.xml")
        for stale in [*geo.world_files(picture), beside]:
            if stale not in written:
                stale.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def shade(pixels: np.ndarray, class_ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Lays the colours of classes (h, W) over an image (h, W, bands + 1), alpha last: (h, W, 3).

    Of more bands than three it shows the first three, of fewer the first; white where there is no data.
    """
    colors = lc.colorize(class_ids, palette)
    hidden = class_ids[..., None] == lc.IGNORE_INDEX
    visible = pixels[..., :3] if pixels.shape[-1] > 3 else pixels[..., :1]
    return np.where(hidden, colors, colors // 2 + visible // 2)


def draw_legend(path: Path, names: Sequence[str], palette: np.ndarray) -> None:
    """Draws the legend of overlays: each colour as it is in the map beside the name of its class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(dpi=150)
    FigureCanvasAgg(figure)
    patches = [Patch(color=color / 255, label=name) for name, color in zip(names, palette, strict=True)]
    patches.append(Patch(facecolor="white", edgecolor="grey", label="no data"))
    figure.legend(handles=patches, loc="center", ncols=math.ceil(len(patches) / 20), frameon=False)
    figure.savefig(path, bbox_inches="tight", format="png")


def area_table(names: Sequence[str], counts: np.ndarray, areas: np.ndarray | None) -> list[dict]:
    """A row per class from pixels and hectares by class id, (256,); shares are of the pixels with data."""
    shares = (counts / max(1, counts[: lc.IGNORE_INDEX].sum())).round(6)
    rows = []
    for index, name in enumerate(names):
        row = {"class_id": index, "class": name, "pixels": counts[index], "share": shares[index]}
        row |= {} if areas is None else {"hectares": round(areas[index], 4)}
        rows.append(row | {"method": "pixel count; areas with intervals: tools/assess.py"})
    return rows


def total_areas(names: Sequence[str], tables: Sequence[Path]) -> list[dict]:
    """The sum of the area tables of several maps; without hectares, if one of them has none."""
    counts, areas, known = np.zeros(256, np.int64), np.zeros(256), True
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                counts[int(row["class_id"])] += int(row["pixels"])
                areas[int(row["class_id"])] += float(row.get("hectares") or 0)
                known &= "hectares" in row
    return area_table(names, counts, areas if known else None)


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    # fmt: off
    flag("--checkpoint", metavar="FILE", nargs="+", default=["best_model.pth"],
         help="the trained model (default: best_model.pth); of several the mean, as of runs with other SEEDs")
    flag("--input", metavar="PATH", type=Path, required=True,
         help="an image or a folder of them; GeoTIFFs: pip install rasterio")
    flag("--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    flag("--tile", metavar="N", type=int, default=512, help="side of the windows in pixels (default: 512)")
    flag("--overlap", metavar="N", type=int,
         help="of neighbouring windows in pixels (default: a quarter of the tile)")
    flag("--device", metavar="NAME", default=lc.DEVICE,
         help=f"auto, cpu, cuda or another of PyTorch (default: {lc.DEVICE})")
    flag("--tta", action="store_true", help="mean over the eight flips and quarter turns, eight times slower")
    flag("--scales", metavar="X", nargs="+", type=float, default=[1.0],
         help="mean over these sizes, as 0.8 1 1.25")
    flag("--crf", action="store_true",
         help="refine along the edges of the image, by a CRF; it gained nothing: mIoU -0.000, IoU of roads "
         "-0.008, 4.5 times as slow on a CPU (benchmarks/results/inference.csv, val, three seeds)")
    flag("--confidence", action="store_true", help="write the probability of the class too, in percent")
    # fmt: on
    config = parser.parse_args(argv)
    if config.output.resolve() == config.input.resolve():
        raise lc.InputError(f"--output {config.output}: is the input; name another folder")
    if not all(0.25 <= scale <= 4 for scale in config.scales):
        given = " ".join(map(str, config.scales))
        raise lc.InputError(f"--scales {given}: must lie between 0.25 and 4")
    lay_windows(1, config.tile, config.overlap)
    return config


def list_scenes(folder: Path) -> list[Path]:
    """The images of a folder, without what this program made of them there."""
    images = lc.list_images(folder)
    endings = "classes", "confidence", "overlay", "legend"
    made = images.keys() & {f"{stem}_{ending}" for stem in images for ending in endings}
    if made:
        print(f"note: {geo.counted(len(made), 'image')} called {min(made)} or the like: maps, passed over")
    return [path for stem, path in images.items() if stem not in made]


def open_on_trial(paths: Sequence[Path], reading: dict, tile: Path | None) -> list[str]:
    """Reads rows of each image before the first is predicted, and warns where values, bands or the size of
    the pixels are odd, or other than in a tile that the model learnt from.

    Returns notes on images that are converted, and on such that share ground.
    """
    kinds: dict[str, list[Path]] = {}
    learnt = None
    if tile:
        with contextlib.suppress(lc.InputError):  # another file has its name now: nothing to compare with
            learnt = geo.names_and_metres(tile, reading["bands"])
    for path in tqdm(paths, "looking at the images", leave=False, disable=None):
        with geo.open_scene(path, **reading) as scene:
            scene.read(0, 1)
        told = geo.odd_values(path, reading["bands"], reading["ranges"])
        for line in chain(told, geo.unlike_tile(path, learnt, reading["bands"]) if learnt else ()):
            warnings.warn(line, stacklevel=2)
        kinds.setdefault(scene.kind, []).append(path)
    bands, ranges = geo.listed(reading["bands"]), reading["ranges"]
    scaled = f", scaled from {ranges} to 0..255 as in training" if ranges else ""
    notes = []
    for kind, own in kinds.items():
        more = f" and {len(own) - 1:,} more" if len(own) > 1 else ""
        if "band" in kind:
            notes.append(f"{own[0]}{more}: of {kind}, of which the model sees {bands}{scaled}")
    if twice := sharing_ground(paths):
        more = f", and {len(twice) - 1:,} more pairs do" if len(twice) > 1 else ""
        problem = f"{twice[0][0]} and {twice[0][1]} share ground{more}"
        notes.append(f"{problem}: in area.csv it counts twice where both have data")
    return notes


def sharing_ground(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The pairs of images that lie on the same ground, of those that tell where they lie."""
    placed = [(path, place) for path in paths if (place := lc.place_of(path))]
    if len(placed) < 2:
        return []
    corners = np.array([place[2] for _, place in placed])  # (N, 2, 4) x and y
    low, high = corners.min(2), corners.max(2)
    near = (low[:, None] < high).all(2)  # few are; asking all pairs of thousands would take minutes
    systems = np.array([str(place[0]) for _, place in placed])
    near = (near & near.T) | (systems[:, None] != systems)
    pairs = [(placed[one], placed[other]) for one, other in np.argwhere(np.triu(near, 1)).tolist()]
    return [(one[0], other[0]) for one, other in pairs if lc.overlap(one[1], other[1])]


def tile_learnt_from(checkpoint: Path) -> Path | None:
    """An image from which a model learnt, if it still lies where it lay."""
    known = lc.load_checkpoint(checkpoint)
    given = Path(known.get("config", {}).get("train_image_dir", ""))
    folders = Path(checkpoint).parent / given, given  # training began mostly where its results are
    tiles = (folder / name for folder in folders for name in known.get("labelled_pixels", ()))
    return next(filter(Path.is_file, tiles), None)


@lc.command_line
def main(argv: list[str]) -> None:
    """Ranks of torchrun check the same and share the images or, if there are fewer, the windows of each."""
    own_stdout = sys.stdout  # the group mutes all ranks but one, but each says what it wrote
    with lc.process_group():
        if lc.world_size() > 1:  # nothing here asks the others whether Ctrl-C has reached them
            signal.signal(signal.SIGINT, signal.default_int_handler)
        config = parse(argv)
        is_folder = config.input.is_dir()
        paths = list_scenes(config.input) if is_folder else [config.input]
        model = load_ensemble(config.checkpoint, config.device)
        notes = open_on_trial(paths, model.reading, tile_learnt_from(config.checkpoint[0]))
        lc.prepare_output(config.output)
        print("".join(f"note: {note}\n" for note in notes), end="")
        dtype = lc.pick_precision("auto", next(model.parameters()).device)
        model = fold_batch_norm(model, dtype)
        options = {"tile": config.tile, "overlap": config.overlap, "confidence": config.confidence}
        options |= {"views": 8 if config.tta else 1, "scales": config.scales, "crf": config.crf}
        together = len(paths) < lc.world_size()
        for path in paths if together else paths[lc.rank() :: lc.world_size()]:
            how = {"dtype": dtype, "progress": path.name, "together": together, **options}
            if together and lc.rank():
                help_to_predict(model, path, **how)
                continue
            written = predict_scene(model, path, config.output, **how)
            print("wrote " + ", ".join(map(str, written)), file=own_stdout)
        if is_folder:
            lc.sum_over_ranks(torch.zeros(1))  # waits until all have written theirs
            tables = [config.output / f"{path.stem}_area.csv" for path in paths]
            if not lc.rank():
                lc.write_history(config.output / "area.csv", total_areas(model.class_names, tables))
                twice = "; what overlaps counts twice" if len(paths) > 1 else ""
                print(f"wrote {config.output / 'area.csv'}, the sum of all{twice}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.stderr.reconfigure(errors="replace")
    sys.exit(main())
