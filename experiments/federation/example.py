"""A federation to try: sites on this machine, with generated folders of images."""

import shutil
import socket
from pathlib import Path

from fedmetanas.experiments.files import unwritable

from .folder import Federation, create
from .kits import write

EXPERIMENT = "sites.yaml"
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Of every site, how many of ten images of a class it has; the third has no nine.
SHARES = {
    "north": (6, 6, 6, 6, 6, 2, 2, 2, 2, 5),
    "south": (3, 3, 3, 3, 3, 6, 6, 6, 6, 5),
    "east": (1, 1, 1, 1, 1, 2, 2, 2, 2, 0),
}
SETTINGS = f"""\
# A run over the sites of this federation. `fedmetanas settings` says what else can be set.
rounds: 5
sites: [{", ".join(SHARES)}]

data:
  dataset: imagefolder
  classes: [{", ".join(CLASSES)}]
  image_size: 8
  channels: 1

search:
  channels: 8
  layers: 2
  nodes: 1
  tau_end: 0.005
  tau_rounds: 2

client:
  episodes: 40
  batch_size: 16
  outer_lr: 0.5
  weight_decay: 0.001
  momentum: 0.5
  clip: 1.0
  outer_alpha_lr: 0.05

evaluation:
  every: 5

engine:
  wait: 240  # seconds for all sites to come: here they share one machine
"""


def make_example(root: Path) -> Federation:
    """Make a federation whose sites have the handwritten digits of scikit-learn, by their shares.

    Raises
    ------
    SettingsError
        If there is something in the folder.
    UnwritableError
        If it cannot be written.
    """
    federation = create(root, tuple(SHARES), (), _free_port())
    try:
        _write_images(federation)
        for name in SHARES:
            file = federation.kit(name) / "site.toml"
            file.write_text(file.read_text().replace("/path/to/the/images", "images"))
        write(federation.root / EXPERIMENT, SETTINGS.encode())
    except BaseException as error:
        shutil.rmtree(federation.root)
        if isinstance(error, OSError):
            raise unwritable(federation.root, error) from error
        raise
    return federation


def _write_images(federation: Federation) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    for label, words in enumerate(CLASSES):
        of_class = (pixels[labels == label].reshape(-1, 8, 8) * (255 / 16)).astype("uint8")
        begin = 0
        for name, shares in SHARES.items():
            end = begin + len(of_class) * shares[label] // 10
            folder = federation.kit(name) / "images" / words
            folder.mkdir(parents=True)
            for number in range(begin, end):
                Image.fromarray(of_class[number]).save(folder / f"{number}.png")
            begin = end
            if not any(folder.iterdir()):
                folder.rmdir()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
