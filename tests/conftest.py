"""Small data sets to try things on, and a wall between the tests and the network."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each of pytest-xdist's processes keeps to a core of its own

import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "landcover_segmentation.py"
REAL_DATA = ROOT.parent / "shared" / "data" / "dubai256"

sys.path.insert(0, str(ROOT))
os.environ["TORCH_HOME"] = "/nonexistent"  # no test depends on what this machine has downloaded before


PYTHON = [sys.executable, ROOT / "tests/quick_python.py"]  # starts a program as a user does, and sooner


def pytest_configure(config):
    """The first of pytest's processes starts the server that forks programs for all of them."""
    if not hasattr(os, "pidfd_open") or "QUICK_PYTHON" in os.environ:
        return
    folder = tempfile.mkdtemp()
    os.environ["QUICK_PYTHON"] = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.environ["QUICK_PYTHON"])
        server.listen()
        command, how = [*PYTHON, "--serve", str(server.fileno())], {"pass_fds": [server.fileno()]}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, **how)
    config.add_cleanup(process.stdin.close)  # ends it
    config.add_cleanup(lambda: shutil.rmtree(folder))


LONGEST = "test_distributed.py", "test_learning.py"


def pytest_collection_modifyitems(items):
    """The longest come first: no process is left alone with them, or steals half of what shares a fixture."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("the tests do not download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)


def write_tiles(
    folder: Path, count: int, size: int | tuple[int, int] = 64, num_classes: int = 3, seed: int = 0
) -> None:
    """Tiles of blobs, each class with a colour of its own, in the standard layout."""
    rng = np.random.default_rng(seed)
    height, width = (size, size) if isinstance(size, int) else size
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        level = cv2.resize(
            rng.random((4, 4)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        mask = np.clip(level * num_classes, 0, num_classes - 1).astype(np.uint8)
        color = np.linspace(40, 220, num_classes)[mask][..., None] + rng.normal(0, 10, (height, width, 3))
        cv2.imwrite(str(folder / "images" / f"tile_{index}.png"), np.clip(color, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / "masks" / f"tile_{index}.png"), mask)


@pytest.fixture
def data(tmp_path) -> Path:
    """A data set of 5 train and 2 val tiles with 3 classes."""
    write_tiles(tmp_path / "data" / "train", 5)
    write_tiles(tmp_path / "data" / "val", 2, seed=1)
    return tmp_path / "data"


@pytest.fixture(autouse=True, scope="session")
def tiny_network():
    """`tiny`, a backbone of this process alone: most of a short run's time would go into a real network's
    millions of weights, drawn, copied and saved. Tests that look at a network, or start a program, name one.
    """
    import landcover_segmentation as lc

    nn = lc.nn

    def build(num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        return backbone, nn.Conv2d(8, num_classes, 1)

    lc.ARCHITECTURES["deeplabv3"]["tiny"] = build


def flags(data: Path, **settings) -> list[str]:
    """Command-line flags for a quick run on `data`; settings override."""
    given = {
        "num_classes": 3,
        "class_names": "low,middle,high",
        "class_colors": "none",
        "train_image_dir": data / "train/images",
        "train_mask_dir": data / "train/masks",
        "val_image_dir": data / "val/images",
        "val_mask_dir": data / "val/masks",
        "num_points": 20,
        "backbone": "tiny",
        "weights": "none",
        "epochs": 1,
        "batch_size": 2,
        "crop_size": 64,
        "device": "cpu",
        "output_dir": data.parent / "out",
        **settings,
    }
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def pictures():
    """For tests of what a run draws; the others get files that say what would be drawn."""


@pytest.fixture(autouse=True)
def quick_pictures(request, monkeypatch):
    """Most of a short run's time would go into drawing its pictures."""
    for name in ("draw_history", "draw_predictions") if "pictures" not in request.fixturenames else ():
        stub = lambda path, *given, name=name: Path(path).write_text(f"{name}{given}")  # noqa: E731
        monkeypatch.setattr(f"landcover_segmentation.{name}", stub)


@pytest.fixture
def quick_starts(monkeypatch):
    """The Python that the code under test starts, too, has its imports made."""
    start = subprocess.Popen.__init__

    def start_quickly(process, command, *given, **options):
        quick = [*PYTHON, *command[1:]] if command[0] in ("python", sys.executable) else command
        start(process, quick, *given, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", start_quickly)


@pytest.fixture(scope="session")
def a_finished_run(tmp_path_factory) -> Path:
    """A folder with the data and the results of one run, for all tests of this process to copy."""
    import landcover_segmentation as lc

    folder = tmp_path_factory.mktemp("finished")
    write_tiles(folder / "data/train", 5)
    write_tiles(folder / "data/val", 2, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a run to resume has the same paths: relative ones are those of any copy
        assert lc.main(flags(Path("data"))) == 0
    return folder


@pytest.fixture
def finished(a_finished_run, tmp_path, monkeypatch) -> Path:
    """A data set of a test's own, and beside it `out` of the run that `flags(finished)` asks for."""
    shutil.copytree(a_finished_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("data")


def run_script(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Starts the program as a user would."""
    return subprocess.run(
        [*PYTHON, SCRIPT, *arguments], capture_output=True, text=True, timeout=900, **options
    )
