"""Generated scenes: the module and the study read them, and infrared tells what it should."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
import generate_dataset as generator
import study

import landcover_segmentation as lc

rasterio = pytest.importorskip("rasterio")
PROGRAM = [sys.executable, ROOT / "tools/generate_dataset.py"]
SIZE = 64


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Tiles of 8 scenes, 16 train and 8 val: with infrared as its user makes them, and without."""
    folder = tmp_path_factory.mktemp("scenes")
    how = ["--scenes", "8", "--train", "16", "--val", "8", "--size", str(SIZE)]
    for name, flags in (("infrared", ["--infrared"]), ("rgb", [])):
        done = subprocess.run(
            [*PROGRAM, "--output", folder / name, *how, *flags], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(f"{10 if flags else 8} classes, in order of id: water,forest,")
    return folder


def tiles(folder, split="train"):
    return lc.list_tiles(folder / split / "images", folder / split / "masks")


def stack(folder, bands):
    """All train pixels (N, bands) and their classes (N,)."""
    read = [(lc.read_image(image, bands=bands), lc.read_mask(mask)) for image, mask in tiles(folder)]
    return np.concatenate([image.reshape(-1, len(bands)) for image, _ in read]), np.concatenate(
        [mask.ravel() for _, mask in read]
    )


def test_every_split_of_the_study_has_tiles_of_several_scenes():
    both = []
    for part, count in (("train", 96), ("val", 24)):
        names = sorted(generator.place_of(part, i, 8)[1] for i in range(count))
        assert len(set(names)) == count
        both.append([(Path(name), Path(name)) for name in names])
    for split in ("val", "choose", "scenes", "choose_scenes"):
        learnt, scored = ({image.stem for image, _ in tiles} for tiles in study.choose_tiles(split, 2, *both))
        assert not learnt & scored
        for names in (learnt, scored):
            assert len({name.split("_")[0] for name in names}) >= 2


def test_the_module_reads_every_pixel(scenes):
    for name, bands, classes in (("infrared", [1, 2, 3, 4], 10), ("rgb", [1, 2, 3], 8)):
        for split, count in (("train", 16), ("val", 8)):
            folders = scenes / name / split / "images", scenes / name / split / "masks"
            statistics = lc.band_statistics(folders[0].iterdir(), {"bands": bands, "ranges": None})
            dataset = lc.LandCoverDataset(*folders, num_classes=classes, bands=bands, **statistics)
            report = lc.check_dataset(dataset, classes)
            assert report.labels_per_class.sum() == count * SIZE**2, "none is hidden, none unlabelled"
            assert split == "val" or (report.labels_per_class > 0).all()


def test_infrared_leaves_the_labels_of_what_light_tells(scenes):
    alike = np.arange(10)
    alike[[generator.CONIFER, generator.TURF]] = generator.FOREST, generator.GRASSLAND
    for (image, mask), (photo, seen) in zip(tiles(scenes / "infrared"), tiles(scenes / "rgb"), strict=True):
        assert image.stem == photo.stem
        assert np.array_equal(alike[lc.read_mask(mask)], lc.read_mask(seen))
        difference = lc.read_image(image).astype(int) - lc.read_image(photo)
        assert np.abs(difference).mean() < 6, "the same picture, but for JPEG"


def test_infrared_is_bright_on_plants_dark_on_water_and_tells_what_light_does_not(scenes):
    pixels, ids = stack(scenes / "infrared", [1, 2, 3, 4])

    def separation(a, b, band):
        """Difference of the means in standard deviations."""
        one, other = (pixels[ids == label, band].astype(float) for label in (a, b))
        return abs(one.mean() - other.mean()) / np.sqrt((one.var() + other.var()) / 2)

    for plants in (generator.FOREST, generator.GRASSLAND):
        assert pixels[ids == plants, 3].mean() > 3 * pixels[ids == generator.WATER, 3].mean()
    for kind, looks_like in generator.SEEN_AS.items():
        by_infrared = separation(kind, looks_like, 3)
        assert by_infrared > 1 and all(by_infrared > 1.4 * separation(kind, looks_like, i) for i in range(3))


def test_scenes_differ_in_pixel_size_and_keep_theirs(scenes):
    sizes = {}
    for image, _ in tiles(scenes / "infrared"):
        with rasterio.open(image) as file:
            sizes.setdefault(image.stem.split("_")[0], set()).add(file.res)
    (found,) = zip(*sizes.values(), strict=True)
    assert len(set(found)) == 8 and all(1 <= x == y <= 2 for x, y in found)


def test_grass_is_green_in_spring_and_yellow_in_a_dry_summer():
    greenness = []
    for number in (0, 1):
        scene = generator.draw_scene(np.random.default_rng(0), number)
        image, mask = generator.generate_tile(7, 64, scene)
        red, green, _, _ = image[mask == generator.GRASSLAND].mean(0)
        greenness.append(green / red)
    spring, dry_summer = greenness
    assert spring > dry_summer + 0.05


def test_more_tiles_leave_those_there_as_they_were(tmp_path):
    for count in (1, 2):
        generator.write_dataset(tmp_path / str(count), {"train": count, "val": 1}, 3, 64, scenes=2)
    for split in ("train", "val"):
        for few, many in zip(tiles(tmp_path / "1", split), tiles(tmp_path / "2", split), strict=False):
            assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many]


@pytest.mark.parametrize(
    ("flags", "word"), [(["--infrared"], "add --scenes 8"), (["--scenes", "-1"], "0 or more")]
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, flags, word):
    done = subprocess.run([*PROGRAM, "--output", tmp_path / "new", *flags], capture_output=True, text=True)
    assert done.returncode == 2 and word in done.stderr.splitlines()[-1]
    assert not (tmp_path / "new").exists()
