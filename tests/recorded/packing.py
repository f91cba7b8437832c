"""Real runs, kept small: what trainings recorded, to be judged again wherever the tests run.

    python tests/recorded/packing.py RUN…    pack run folders of the trainings in tests/on_gpu

`on_gpu` holds what a GPU recorded of those; `scenarios` what `record.py` had of the trainings in tests/scenarios.
Names of people, machines and folders are taken out; reports are left out, since they are made from the rest.
"""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from pathlib import Path

FOLDER = Path(__file__).parent
CHECKOUT = FOLDER.parents[1]
ON_GPU, SCENARIOS = "on_gpu", "scenarios"  # kinds: folders here, and of the scripts
TOKEN = "/scripts"  # stands for the folder of the scripts
TEXTS = (".json", ".jsonl")
MADE = {"report.html", "summary.json", "term.txt"}
ENDING = ".tar.xz"
HOST = re.compile(r'("host": )"[^"]*"')
PYTHON = re.compile(r'/[^"\s]*?(?=/lib/python3)')
PROGRAMS = re.compile(r'/[^"\s]*?/bin/(?=python|torchrun|prof)')


def scripts(kind: str) -> Path:
    """The folder of that kind's trainings."""
    return FOLDER.parent / kind


def recordings(kind: str) -> list[str]:
    """Names of what is packed, in order."""
    return sorted(path.name.removesuffix(ENDING) for path in (FOLDER / kind).glob(f"*{ENDING}"))


def pack(run: Path, kind: str, name: str) -> Path:
    """Write a run folder as NAME.tar.xz. Raises OSError where the run cannot be read."""
    target = FOLDER / kind / f"{name}{ENDING}"
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(run.rglob("*")):
            if path.is_file() and path.name not in MADE:
                held = path.read_bytes()
                if path.suffix in TEXTS:
                    held = _scrubbed(held.decode(), run, name).encode()
                member = tarfile.TarInfo(f"{name}/{path.relative_to(run)}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    return target


def unpack(kind: str, name: str, folder: Path) -> Path:
    """The run folder of that name, its scripts those of this checkout."""
    with tarfile.open(FOLDER / kind / f"{name}{ENDING}") as archive:
        archive.extractall(folder, filter="data")
    run = folder / name
    for path in run.rglob("*"):
        if path.suffix in TEXTS:
            path.write_text(path.read_text().replace(f'"{TOKEN}', f'"{scripts(kind)}'))
    return run


def _scrubbed(text: str, run: Path, name: str) -> str:
    told = json.loads((run / "run.json").read_text())
    ran = [argument for argument in told["command"] if Path(argument).name.startswith(name.split("-")[0])]
    text = text.replace(str(Path(ran[-1]).parent), TOKEN).replace(str(told["script"]), f"{TOKEN}/{Path(ran[-1]).name}")
    text = PROGRAMS.sub("", PYTHON.sub("/python", HOST.sub(r'\1"host"', text)))
    text = text.replace(str(CHECKOUT), "/checkout").replace(f'"{Path.home()}/', '"/home/')
    return text.replace(f'"{told.get("cwd") or TOKEN}', '"/runs')


if __name__ == "__main__":
    for each in map(Path, sys.argv[1:]):
        print(pack(each, ON_GPU, each.name))
