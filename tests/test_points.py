"""Rules 1 to 3 of the design: points are fixed, the budget is exact, augmentation moves none."""

import unicodedata

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from conftest import write_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import landcover_segmentation as lc

masks = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.sampled_from([0, 1, 2, 3, 255]),
)


def labelled(mask: np.ndarray) -> int:
    return int((mask != 255).sum())


def test_points_depend_on_name_and_seed_alone(tmp_path):
    write_tiles(tmp_path, 4)
    before = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 10, seed=3)
    wanted = {before.tiles[i][0].name: before[i][1] for i in range(4)}

    for path in (tmp_path / "images/tile_0.png", tmp_path / "masks/tile_0.png"):
        path.unlink()  # the others keep their points though their place in the list has changed
    after = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 10, seed=3)
    after.epoch = 7
    for index, (path, _) in reversed(list(enumerate(after.tiles))):
        assert torch.equal(after[index][1], wanted[path.name])

    other_seed = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 10, seed=4)
    assert not torch.equal(other_seed[0][1], after[0][1])


def test_points_stay_the_same_over_the_epochs(tmp_path):
    write_tiles(tmp_path, 1)
    dataset = lc.LandCoverDataset(
        tmp_path / "images", tmp_path / "masks", 10, lc.get_transforms("train", "strong", 64)
    )
    epochs = []
    for dataset.epoch in range(6):
        _, points = dataset[0]
        epochs.append(points)
        assert points.shape == (64, 64)
        assert points.dtype == torch.int64
        assert torch.equal(points[points != 255].sort().values, epochs[0][epochs[0] != 255].sort().values)
    assert any(not torch.equal(points, epochs[0]) for points in epochs), (
        "augmentation is not the same every epoch"
    )


@settings(deadline=None)
@given(masks, st.integers(1, 100), st.integers(0, 9), st.sampled_from(list(lc.SAMPLERS)))
def test_budget_is_exact(mask, num_points, seed, sampler):
    points = lc.SAMPLERS[sampler](mask, num_points, np.random.default_rng(seed))
    assert labelled(points) == min(num_points, labelled(mask))
    assert (points[points != 255] == mask[points != 255]).all()


@settings(deadline=None)
@given(masks, st.integers(4, 100))
def test_stratified_shares_over_the_classes(mask, num_points):
    points = lc.sample_stratified_points(mask, num_points)
    present = np.unique(mask[mask != 255])
    got = np.array([(points == c).sum() for c in present])
    available = np.array([(mask == c).sum() for c in present])
    assert (got >= 1).all()
    unfilled = got[got < available]  # those that could have given more share equally, to one point
    if unfilled.size:
        assert unfilled.max() - unfilled.min() <= 1
        assert (got[got == available] <= unfilled.max()).all()


def test_rare_class_passes_its_share_on():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, :3] = 1
    mask[10:] = 2
    points = lc.sample_stratified_points(mask, 90)
    assert [(points == c).sum() for c in range(3)] == [43, 3, 44]


def test_no_class_is_left_out_for_ever_when_points_are_fewer_than_classes():
    mask = np.repeat(np.arange(4, dtype=np.uint8), [10, 50, 200, 764]).reshape(32, 32)
    seen = [lc.sample_stratified_points(mask, 2, np.random.default_rng(seed)) for seed in range(40)]
    assert all(labelled(points) == 2 for points in seen)
    assert {int(c) for points in seen for c in points[points != 255]} == {0, 1, 2, 3}


def test_accents_are_the_same_letters_however_they_are_stored():
    assert lc.named_rng(0, "Gew\u00e4sser").random() == lc.named_rng(0, "Gewa\u0308sser").random()
    lc.named_rng(0, "Gew\udce4sser")  # a Latin-1 file name on Linux


def test_boundary_points_lie_on_boundaries():
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 1
    mask[30:] = 5
    rows, columns = np.nonzero(lc.sample_boundary_points(mask, 30) != 255)
    for row, column in zip(rows, columns, strict=True):
        around = mask[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        assert len(np.unique(around)) > 1
    assert labelled(lc.sample_boundary_points(mask, 500)) == 500, "too few edges are filled up"


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_the_edge_of_what_is_labelled_is_no_boundary(kind):
    mask = np.zeros((60, 60), kind)
    mask[:, 30:] = 2
    mask[20:40, 10:20] = 255
    mask[50:] = 255
    columns = np.nonzero(lc.sample_boundary_points(mask, 40) != 255)[1]
    assert len(columns) == 40
    assert ((columns == 29) | (columns == 30)).all()


def test_accents_split_off_in_one_folder_alone_are_no_lonely_files(tmp_path):
    for kind, form in (("images", "NFD"), ("masks", "NFC")):
        (tmp_path / kind).mkdir()
        name = unicodedata.normalize(form, "Orl\u00e9ans")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / kind / f"{name}.png")
    assert len(lc.list_tiles(tmp_path / "images", tmp_path / "masks")) == 1


def test_transforms_of_ones_own_that_pad_give_no_labels(tmp_path):
    """albumentations fills masks with 0, which is a class."""
    write_tiles(tmp_path, 1, 40)
    padding = A.Compose([A.PadIfNeeded(64, 64), A.RandomCrop(64, 64), A.Normalize(), ToTensorV2()])
    image, points = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 20, padding)[0]
    assert labelled(points.numpy()) == 20
    assert (points[(image == 0).all(0)] == 255).all()
    assert (image == 0).all(0).sum() == 64 * 64 - 40 * 40


def test_create_sparse_mask_keeps_the_given_positions():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    points = lc.create_sparse_mask([(0, 1), (2, 3)], mask)
    assert points[0, 1] == 1
    assert points[2, 3] == 11
    assert labelled(points) == 2
    assert labelled(lc.create_sparse_mask(np.empty((0, 2)), mask)) == 0
    for outside in [(3, 0), (0, 4), (-1, 0)]:
        with pytest.raises(lc.InputError, match="outside the mask"):
            lc.create_sparse_mask([outside], mask)


@pytest.mark.parametrize("strength", ["weak", "medium", "strong"])
def test_augmentation_neither_loses_nor_moves_a_point(strength):
    """Every pixel of the image carries its label in its blue channel, far brighter where it is 1."""
    rng = np.random.default_rng(0)
    for seed in range(30):
        mask = np.full((48, 48), 255, np.uint8)
        # 6 x 6 pixels each: points lie apart, for a blur spreads one over its neighbours.
        cells = rng.permutation(64)[:40]
        rows, columns = np.stack([cells // 8, cells % 8]) * 6 + rng.integers(1, 5, (2, 40))
        mask[rows, columns] = rng.integers(0, 2, 40)
        image = np.full((48, 48, 3), 128, np.uint8)
        image[mask == 0], image[mask == 1] = 0, 255
        transform = lc.get_transforms("train", strength, 48)
        transform.set_random_seed(seed)
        item = transform(image=image, mask=mask)
        points, brightness = item["mask"].numpy(), item["image"].mean(0).numpy()
        assert [(points == c).sum() for c in (0, 1)] == [(mask == c).sum() for c in (0, 1)]
        blurred_ground = np.median(brightness)
        assert (brightness[points == 0] < blurred_ground).all()
        assert (brightness[points == 1] > blurred_ground).all()


def test_crop_moves_image_and_points_together_and_pads_with_255():
    mask = np.arange(40 * 30, dtype=np.int64).reshape(40, 30) % 200
    mask = mask.astype(np.uint8)
    image = np.repeat(mask[..., None], 3, axis=2)
    geometry = [
        step for step in lc.get_transforms("train", "strong", 36) if isinstance(step, A.RandomCrop | A.D4)
    ]
    for seed in range(20):
        transform = A.Compose(geometry, seed=seed)
        item = transform(image=image, mask=mask)
        inside = item["mask"] != 255
        assert inside.sum() == 36 * 30
        assert (item["image"][..., 0][inside] == item["mask"][inside]).all()
        assert (item["image"][~inside] == (124, 116, 104)).all()


def test_dense_supervision_sees_every_label(tmp_path):
    write_tiles(tmp_path, 1)
    dataset = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", None)
    assert (dataset[0][1].numpy() == lc.read_mask(tmp_path / "masks/tile_0.png")).all()


def test_every_epoch_sees_every_tile_in_even_batches():
    for num_tiles, batch_size in [(24, 8), (25, 8), (9, 8), (5, 8), (2, 2), (5, 2), (7, 3)]:
        batches = lc.shuffled_batches(num_tiles, batch_size, seed=0, epoch=1)
        assert sorted(index for batch in batches for index in batch) == list(range(num_tiles))
        assert min(map(len, batches)) >= 2, "batch norm cannot learn from a single tile"
        assert max(map(len, batches)) <= max(3, batch_size)
    assert lc.shuffled_batches(24, 8, 0, 1) != lc.shuffled_batches(24, 8, 0, 2)


def test_augmentation_does_not_depend_on_workers(tmp_path):
    write_tiles(tmp_path, 4)
    seen = []
    for workers in (0, 2):
        dataset = lc.LandCoverDataset(
            tmp_path / "images", tmp_path / "masks", 10, lc.get_transforms("train", "strong", 32)
        )
        epochs = []
        for dataset.epoch in (1, 2):
            loader = lc.make_loader(dataset, [[0, 1], [2, 3]], workers, torch.device("cpu"))
            epochs.append(torch.cat([images for images, _ in loader]))
        seen.append(torch.stack(epochs))
    assert torch.equal(*seen)
    assert not torch.equal(seen[0][0], seen[0][1])


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("amount", [-0.2, 0.2])
def test_the_matrix_of_colours_does_what_albumentations_does(change, amount):
    image = np.random.default_rng(0).integers(60, 180, (32, 32, 3), dtype=np.uint8)
    nothing = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    only = nothing | {change: amount / 8 if change == "hue" else 1 + amount}
    theirs = A.ColorJitter(**{name: (value, value) for name, value in only.items()}, p=1)(image=image)[
        "image"
    ]
    ours = cv2.transform(image, lc.color_matrix(image.mean((0, 1)), **only)).astype(float)
    if (
        change == "hue"
    ):  # turned at constant luma here, there at constant value: the same way, not to the same colours
        assert np.corrcoef((ours - image).ravel(), (theirs.astype(float) - image).ravel())[0, 1] > 0.5
    else:
        assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(cv2.transform(image, lc.color_matrix(image.mean((0, 1)), **nothing)), image)


def test_colours_are_jittered_by_no_more_than_asked():
    image = np.full((8, 8, 3), 100, np.uint8)
    means = [lc.ColorJitter(0.25, 0.02)(image=image)["image"].mean() for _ in range(200)]
    assert 74 < min(means) < 85 and 115 < max(means) < 126
