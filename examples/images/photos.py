"""A folder of JPEG photographs, cut from the ones that ship inside scikit-learn and scikit-image.

Nothing is downloaded. The first call writes `train/<photo>/<number>.jpg` (512 x 512) under `folder`; the
label of a crop is the photograph that it was cut from.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

SOURCES = {
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg",
}
CROPS_PER_PHOTO = 60
SIDE = 512


def shipped_file(path: str) -> Path:
    """A file inside an installed package, without importing the package."""
    package, _, rest = path.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"this example cuts its photographs from {package}: pip install scikit-learn scikit-image")
    return Path(spec.submodule_search_locations[0]) / rest


def cut_photos(folder: Path) -> list[tuple[Path, int]]:
    """The crops as (path, label), written on first use."""
    for name, source in SOURCES.items():
        if (folder / name / f"{CROPS_PER_PHOTO - 1:03d}.jpg").exists():
            continue
        (folder / name).mkdir(parents=True, exist_ok=True)
        photo = Image.open(shipped_file(source)).convert("RGB")
        rng = random.Random(name)
        for number in range(CROPS_PER_PHOTO):
            side = int(min(photo.size) * rng.uniform(0.4, 1.0))
            left, top = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
            crop = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
            crop.save(folder / name / f"{number:03d}.jpg", quality=90)
    return [(path, label) for label, name in enumerate(SOURCES) for path in sorted((folder / name).glob("*.jpg"))]
