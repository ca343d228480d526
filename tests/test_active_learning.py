"""Which pixels to label next: equal budgets, suggestions spread out, and a study that can be stopped."""

import csv
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, flags, write_tiles
from PIL import Image

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import active_learning as al

ROUNDS, PER_ROUND, TILES, SIZE = 3, 4, 3, 48
ARMS = "errors_slips", "suggestions", "uncertainty", "random"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from more, and lose much where other processes want the cores too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def uncertain(size=60, band=slice(None), num_classes=3):
    """Probabilities (1, C, H, W) that are sure of class 0 everywhere but in a band of rows."""
    probabilities = torch.zeros(1, num_classes, size, size)
    probabilities[:, 0] = 1
    probabilities[:, :, band] = 1 / num_classes
    return probabilities


def positions(points):
    return np.argwhere(points != 255)


def closest(found):
    distance = np.linalg.norm(found[:, None] - found[None], axis=-1)
    return distance[~np.eye(len(found), dtype=bool)].min()


@pytest.mark.parametrize("strategy", ["uncertainty", "suggestions", "errors"])
@pytest.mark.parametrize(
    "probabilities", [None, uncertain(), uncertain(band=slice(30, 32)), uncertain(band=slice(0))]
)
def test_budget_is_exact_and_no_label_is_lost_or_invented(probabilities, strategy):
    """Whether the model is unsure everywhere, in places or nowhere."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (60, 60)).astype(np.uint8)
    mask[:, 40:] = 255
    points = np.full_like(mask, 255)
    for number in range(1, 6):
        before, points = points, al.label_more(strategy, probabilities, points, mask, 5, rng)
        assert len(positions(points)) == 5 * number
        assert (points[points != 255] == mask[points != 255]).all() and (points[:, 40:] == 255).all()
        assert (points[before != 255] == before[before != 255]).all()


def test_a_tile_with_fewer_labels_than_the_budget_gives_all():
    mask = np.full((20, 20), 255, np.uint8)
    mask[3, 4:9] = 1
    for probabilities in (None, uncertain(20)):
        points = np.full_like(mask, 255)
        for budget in (4, 5, 5):
            points = al.label_more("uncertainty", probabilities, points, mask, 4, np.random.default_rng(0))
            assert len(positions(points)) == budget


def test_where_the_annotator_knows_no_label_the_next_pixel_is_asked():
    probabilities, mask = uncertain(band=slice(10, 14)), np.zeros((60, 60), np.uint8)
    probabilities[:, :, 40:44] = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    mask[:20] = 255
    nothing, rng = np.full_like(mask, 255), np.random.default_rng(0)
    points = al.label_more("uncertainty", probabilities, nothing, mask, 4, rng)
    rows = positions(points)[:, 0]
    assert len(rows) == 4 and ((rows >= 40) & (rows < 44)).all()


def test_the_player_of_a_person_clicks_the_surest_pixel_of_the_largest_error_of_each_class():
    """The map has class 0 everywhere, but is least sure of it on the right."""
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 5:25], mask[20:23, 40:50], mask[30:32, 10:14] = 1, 1, 2
    probabilities = torch.zeros(1, 3, 40, 60)
    probabilities[:, 0] = torch.linspace(1, 0.5, 60)
    probabilities[:, 1] = 1 - probabilities[:, 0]
    nothing, rng = np.full_like(mask, 255), np.random.default_rng(0)
    points = al.label_more("errors", probabilities, nothing, mask, 3, rng)
    rows = sorted(map(tuple, positions(points).tolist()))
    assert rows == [(5, 5), (20, 40), (30, 10)] and [points[at] for at in rows] == [1, 1, 2]
    second = al.choose("errors", probabilities, points, mask, 2, None)
    assert sorted(map(tuple, second.tolist())) == [(6, 5), (31, 10)], "where a label is, none is given again"


def test_suggestions_keep_off_edges_and_give_a_class_that_scores_low_more_of_them():
    """Three classes in columns, unsure everywhere; the middle column, by its score, is known."""
    probabilities = torch.full((1, 3, 60, 90), 0.3)
    for class_id in range(3):
        probabilities[:, class_id, :, 30 * class_id : 30 * (class_id + 1)] = 0.4
    everywhere, nowhere = np.ones((60, 90), bool), np.zeros((60, 90), bool)

    def columns(scores):
        found = al.worth_labelling(probabilities, everywhere, nowhere, 9, scores)
        assert len(found) == 9 and closest(found) >= int(np.sqrt(60 * 90 / 9) / 2)
        assert (found >= 3).all() and (found < (57, 87)).all()
        return np.bincount(found[:, 1] // 30, minlength=3).tolist()

    assert columns(None) == [3, 3, 3]
    few = columns([0.2, 0.9, None])
    assert few[1] <= 1 and min(few[0], few[2]) >= 3


def test_slips_are_a_share_of_the_clicks_and_count_in_the_budget():
    mask, rng = np.full((80, 80), 2, np.uint8), np.random.default_rng(0)
    nothing, probabilities = np.full_like(mask, 255), uncertain(80, num_classes=4)
    points = al.label_more("errors_slips", probabilities, nothing, mask, 4000, rng)
    given = points[points != 255].tolist()
    assert len(given) == 4000 and set(given) == {0, 1, 2, 3}
    assert abs(1 - given.count(2) / 4000 - al.SLIPS) < 0.015
    first = al.label_more("errors_slips", None, nothing, mask, 4000, rng)
    assert set(first[first != 255].tolist()) == {2}, "before there is a map nobody slips"


def test_points_stay_spread_out_and_uncertain_round_after_round():
    """The distance shrinks as points gather: else the third round would find no room and draw at random."""
    known = np.zeros((60, 60), bool)
    for number in range(1, 9):
        (found,) = lc.select_informative_points(uncertain(), 0.0, 5, torch.from_numpy(known)[None])
        assert len(found) == 5 and not known[tuple(found.T)].any()
        known[tuple(found.T)] = True
        assert closest(np.argwhere(known)) >= int(np.sqrt(60 * 60 / (5 * number)) / 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small data set with an unlabelled corner, and the study on it."""
    folder = tmp_path_factory.mktemp("study")
    write_tiles(folder / "data/train", TILES, SIZE)
    write_tiles(folder / "data/val", 1, SIZE, seed=1)
    for path in (folder / "data/train/masks").iterdir():
        mask = np.array(Image.open(path))
        mask[:20, :20] = 255
        Image.fromarray(mask).save(path)
    assert al.main(command(folder, strategies=ARMS)) == 0
    return folder


def command(folder, output="out", strategies=(), **settings):
    given = {"epochs": 1, "crop_size": 32, "output_dir": folder / output, **settings}
    return [
        "simulate",
        "--rounds",
        str(ROUNDS),
        "--points-per-round",
        str(PER_ROUND),
        "--seeds",
        "3",
        *(["--strategies", *strategies] if strategies else []),
        *flags(folder / "data", **given),
    ]


def read_rows(folder, output="out"):
    return list(csv.DictReader((folder / output / "active_learning.csv").open(newline="")))


def test_all_arms_share_the_first_round_and_the_budget_of_every_other(study):
    rows = read_rows(study)
    assert [(row["arm"], row["round"]) for row in rows] == [
        (arm, str(number)) for arm in ARMS for number in range(1, ROUNDS + 1)
    ]
    for row in rows:
        assert int(row["points_per_tile"]) == PER_ROUND * int(row["round"])
        assert int(row["labelled_pixels"]) == TILES * int(row["points_per_tile"])
        assert row["starting_weights"] == "random initialisation" and 0 <= float(row["miou"]) <= 1
    assert all(row | {"arm": ""} == rows[0] | {"arm": ""} for row in rows[::ROUNDS])
    assert (study / "out/active_learning.png").stat().st_size > 5000
    assert (study / "out/active_learning_points.png").stat().st_size > 5000


def test_final_points_are_labels_of_the_mask_and_the_arms_have_only_the_start_in_common(study):
    for image, mask_path in lc.list_tiles(study / "data/train/images", study / "data/train/masks"):
        mask = lc.read_mask(mask_path)
        arms = [lc.read_mask(study / f"out/points/seed_3/{arm}/{image.stem}.png") for arm in ARMS]
        for arm, points in zip(ARMS, arms, strict=True):
            assert len(positions(points)) == ROUNDS * PER_ROUND and (points[:20, :20] == 255).all()
            assert (points == mask)[points != 255].all() or arm == "errors_slips"
        for one, other in itertools.combinations(arms, 2):
            assert PER_ROUND <= ((one != 255) & (other != 255)).sum() < ROUNDS * PER_ROUND


def test_a_stopped_study_goes_on_and_ends_as_if_it_had_not_been_stopped(study, monkeypatch):
    rounds, train_round, run_epoch, two = [], al.train_round, lc.run_epoch, ("uncertainty", "random")

    def stop_at_fifth_round(config, val, number, model, bar):
        rounds.append((Path(config.train_mask_dir).name, number, model))
        if len(rounds) == 5:
            raise KeyboardInterrupt
        return train_round(config, val, number, model, bar)

    def spy(run, *rest):
        """What training gets: the model of the round before, points, no more than paid for, no other mask."""
        _, number, model = rounds[-1]
        weights = run.model.state_dict()
        assert (model is None) == (number == 1)
        assert model is None or all(
            torch.equal(value, weights[name]) for name, value in model.state_dict().items()
        )
        assert str(study / "stopped/points") in str(run.train_set.tiles[0][1])
        assert {len(positions(run.train_set.read(index)[2])) for index in range(TILES)} == {
            PER_ROUND * number
        }
        return run_epoch(run, *rest)

    monkeypatch.setattr(al, "train_round", stop_at_fifth_round)
    monkeypatch.setattr(lc, "run_epoch", spy)
    assert al.main(command(study, "stopped", two)) == 130
    assert len(read_rows(study, "stopped")) == ROUNDS + 2 and rounds[-1][:2] == ("random", 3)
    assert al.main(command(study, "stopped", two)) == 0
    assert [row[:2] for row in rounds[5:]] == [("random", 1), ("random", 2), ("random", 3)], (
        "the arm done is not run again"
    )
    results = [
        [
            (row["arm"], row["round"], row["miou"], row["labelled_pixels"])
            for row in read_rows(study, output)
            if row["arm"] in two
        ]
        for output in ("out", "stopped")
    ]
    assert results[0] == results[1]
    assert al.main(command(study, "stopped", two)) == 0 and len(rounds) == 8, "nothing is left to do"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint that all tests read and none changes."""
    path = tmp_path_factory.mktemp("model") / "model.pth"
    torch.manual_seed(0)
    lc.save_checkpoint(path, lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None))
    return path


def suggest(model, folder, *more):
    """Runs `suggest` on the images of a folder; returns the rows of its CSV."""
    given = [
        "--checkpoint",
        model,
        "--images",
        folder / "images",
        "--output",
        folder / "new/points.csv",
        *more,
    ]
    assert al.main(["suggest", *map(str, given)]) == 0
    lines = (folder / "new/points.csv").read_text().splitlines()
    assert lines[0] == "image,x,y,class,uncertainty"
    return list(csv.DictReader(lines))


def test_suggest_names_the_program_to_label_in(tmp_path, model, capsys):
    write_tiles(tmp_path, 1, (64, 96))
    suggest(model, tmp_path)
    images, points = tmp_path / "images", tmp_path / "new/points.csv"
    assert f"python tools/annotate.py --images {images} --points {points}" in capsys.readouterr().out


def test_suggestions_are_ranked_spread_out_and_away_from_what_is_labelled(tmp_path, model):
    write_tiles(tmp_path, 2, (64, 96))
    known = np.full((64, 96), 255, np.uint8)
    for row in suggest(model, tmp_path, "--num-points", 3)[:3]:
        known[int(row["y"]), int(row["x"])] = 2
    (tmp_path / "known").mkdir()
    Image.fromarray(known).save(tmp_path / "known/tile_0.png")
    rows = suggest(
        model,
        tmp_path,
        "--num-points",
        12,
        "--labelled",
        tmp_path / "known",
        "--pictures",
        tmp_path / "drawn",
    )
    assert [row["image"] for row in rows] == ["tile_0.png"] * 12 + ["tile_1.png"] * 12
    for part, known_here in ((rows[:12], positions(known)), (rows[12:], np.empty((0, 2), int))):
        uncertainty = [float(row["uncertainty"]) for row in part]
        assert uncertainty == sorted(uncertainty, reverse=True) and 0 < uncertainty[-1] <= uncertainty[0] <= 1
        assert all(row["class"] == "" and 0 <= int(row["x"]) < 96 and 0 <= int(row["y"]) < 64 for row in part)
        found = np.array([(int(row["y"]), int(row["x"])) for row in part])
        together = np.concatenate([found, known_here])
        distance = np.linalg.norm(together[:, None] - found[None], axis=-1)
        assert distance[distance > 0].min() >= int(np.sqrt(64 * 96 / len(together)) / 2)
        assert (distance == 0).sum() == 12, "none twice, none that is labelled"
    assert [Image.open(path).width > 300 for path in sorted((tmp_path / "drawn").iterdir())] == [True, True]


def test_neither_labels_nor_images_are_written_over(tmp_path, model, capsys):
    """What was suggested may be replaced, but not what somebody has filled in since."""
    write_tiles(tmp_path, 1)
    assert suggest(model, tmp_path) == suggest(model, tmp_path)
    output = tmp_path / "new/points.csv"
    filled = output.read_text().replace(",,", ",class 1,", 1)
    output.write_text(filled)
    given = ["--checkpoint", model, "--images", tmp_path / "images", "--labelled", output]
    assert al.main(["suggest", *map(str, given), "--output", str(output)]) == 2
    assert "points.csv: holds labels" in capsys.readouterr().err and output.read_text() == filled
    pictures = ["--pictures", tmp_path / "images", "--output", tmp_path / "other.csv"]
    before = (tmp_path / "images/tile_0.png").read_bytes()
    assert al.main(["suggest", *map(str, [*given, *pictures])]) == 2
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "images/tile_0.png").read_bytes() == before and not (tmp_path / "other.csv").exists()


def test_the_mask_of_an_image_is_found_however_its_accent_is_stored(tmp_path, model):
    """As one letter in the one name and, as macOS does, as two in the other."""
    write_tiles(tmp_path, 1, 32)
    (tmp_path / "images/tile_0.png").rename(tmp_path / "images/caf\u00e9.png")
    known = np.zeros((32, 32), np.uint8)
    known[:, 20:] = 255
    (tmp_path / "known").mkdir()
    Image.fromarray(known).save(tmp_path / "known/cafe\u0301.png")
    rows = suggest(model, tmp_path, "--labelled", tmp_path / "known")
    assert rows and all(int(row["x"]) >= 20 for row in rows)


def test_uncertainty_is_that_of_the_model_at_that_pixel(tmp_path, model):
    write_tiles(tmp_path, 1, 64)
    p = lc.predict_probabilities(
        lc.load_model(model), lc.load_and_preprocess_image(tmp_path / "images/tile_0.png")
    )[0]
    for row in suggest(model, tmp_path):
        at = p[:, int(row["y"]), int(row["x"])]
        assert float(row["uncertainty"]) == pytest.approx(-(at * at.log()).sum().item() / np.log(3), abs=1e-3)


@pytest.mark.parametrize(
    "change, named",
    [
        (["--images", "{data}/nowhere"], "nowhere"),
        (["--images", "{data}/broken"], "tile_9.png"),
        (["--checkpoint", "{data}/images/tile_0.png"], "tile_0.png"),
        (["--labelled", "{data}/nowhere"], "--labelled"),
        (["--labelled", "{data}/small"], "tile_0.png"),
        (["--num-points", "0"], "--num-points"),
        (["--output", "{data}/images"], "--output"),
        (["--epochs", "3"], "--epochs"),
    ],
)
def test_bad_input_of_suggest_is_one_line_and_writes_nothing(tmp_path, model, capsys, change, named):
    write_tiles(tmp_path, 1)
    write_tiles(tmp_path / "other", 1, 32)
    (tmp_path / "other/masks").rename(tmp_path / "small")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/tile_9.png").write_bytes(b"no picture")
    output = tmp_path / "points.csv"
    given = ["--checkpoint", str(model), "--images", str(tmp_path / "images"), "--output", str(output)]
    capsys.readouterr()
    assert al.main(["suggest", *given, *(part.format(data=tmp_path) for part in change)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not output.exists()


@pytest.mark.parametrize(
    "change, named",
    [
        (["--epochs", "2"], "EPOCHS = 1, not 2"),
        (["--rounds", "2"], "ROUNDS"),
        (["--rounds", "none"], "--rounds"),
        (["--seeds", "-1"], "SEED"),
        (["--nonsense", "1"], "--nonsense"),
        (["--train-mask-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_of_simulate_is_one_line_and_leaves_the_study_as_it_is(study, capsys, change, named):
    before = (study / "out/active_learning.csv").read_text()
    assert al.main([*command(study), *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert (study / "out/active_learning.csv").read_text() == before


@pytest.mark.parametrize("shape", [(90, 300), (300, 250)])
def test_of_a_large_image_only_windows_are_predicted(shape, monkeypatch):
    """The model is unsure in bands of columns; each window gives one point in one of them.

    None lies where there is no data, none beside a known one.
    """
    monkeypatch.setattr(al, "WHOLE", 10_000)
    monkeypatch.setattr(al, "WINDOW", 64)
    monkeypatch.setattr(al, "REACH", 20)
    image = np.full((*shape, 4), 255, np.uint8)
    image[:, np.arange(shape[1]) // 15 % 2 == 0, 0] = 100
    image[shape[0] // 2 :, :, 3] = 0
    seen = []

    def predict(model, window):
        seen.append(window.shape[:2])
        unsure = torch.from_numpy(window[..., 0] == 100)
        return torch.where(unsure, 0.5, torch.tensor([0.9, 0.1])[:, None, None])[None]

    monkeypatch.setattr(al, "predict", predict)
    known = np.zeros(shape, bool)
    known[10, 100] = True
    positions, uncertainties = al.least_sure(None, image, known, 6)
    assert len(positions) == len({tuple(at) for at in positions}) == 6 and max(map(max, seen)) <= 64
    assert (positions[:, 1] // 15 % 2 == 0).all() and (positions[:, 0] < shape[0] // 2).all()
    assert np.allclose(uncertainties, 1) and np.hypot(*(positions - [10, 100]).T).min() > 10


def test_in_a_large_image_each_class_is_asked_for_too(monkeypatch):
    """A patchwork of which every window sees all three classes, the first most, the last least."""
    monkeypatch.setattr(al, "WHOLE", 200_000)
    places = np.add.outer(np.arange(1000) // 20 * 7, np.arange(1000) // 20 * 3) % 10
    seen = np.digitize(places, [6, 9])
    image = np.dstack([np.uint8(seen)] * 3 + [np.full(seen.shape, 255, np.uint8)])

    def predict(model, window):
        own = torch.from_numpy(window[..., 0] == np.arange(3)[:, None, None])
        return torch.where(own, 0.6, 0.2)[None]

    monkeypatch.setattr(al, "predict", predict)
    for scores, least in ((None, [4, 3, 1]), ([0.9, 0.9, 0.2], [0, 0, 7])):
        positions, _ = al.least_sure(None, image, np.zeros(seen.shape, bool), 12, scores)
        counts = np.bincount(seen[tuple(positions.T)], minlength=3)
        assert counts.sum() == 12 and (counts >= least).all() and counts.max() < 12
