"""Real runs, kept small: what a training on a GPU recorded, to be judged again wherever there is none.

    python tests/recorded/packing.py RUN…    pack run folders of the trainings in tests/on_gpu

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
SCRIPTS = FOLDER.parent / "on_gpu"
TOKEN = "/scripts"  # stands for the folder of the scripts
TEXTS = (".json", ".jsonl")
MADE = {"report.html", "summary.json", "term.txt"}
HOST = re.compile(r'("host": )"[^"]*"')
PYTHON = re.compile(r'/[^"\s]*?(?=/lib/python3)')


def pack(run: Path) -> Path:
    """Write `NAME.tar.xz` beside this file. Raises OSError where the run cannot be read."""
    target = FOLDER / f"{run.name}.tar.xz"
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(run.rglob("*")):
            if path.is_file() and path.name not in MADE:
                held = path.read_bytes()
                if path.suffix in TEXTS:
                    held = _scrubbed(held.decode(), run).encode()
                member = tarfile.TarInfo(f"{run.name}/{path.relative_to(run)}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    return target


def unpack(name: str, folder: Path) -> Path:
    """The run folder of that name, its scripts those of this checkout."""
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    run = folder / name
    for path in run.rglob("*"):
        if path.suffix in TEXTS:
            path.write_text(path.read_text().replace(f'"{TOKEN}', f'"{SCRIPTS}'))
    return run


def _scrubbed(text: str, run: Path) -> str:
    told = json.loads((run / "run.json").read_text())
    scripts = [argument for argument in told["command"] if Path(argument).name.startswith(run.name.split("-")[0])]
    text = text.replace(str(Path(scripts[-1]).parent), TOKEN).replace(str(told["script"]), f"{TOKEN}/{run.name}.py")
    return PYTHON.sub("/python", HOST.sub(r'\1"gpu"', text.replace(str(told["command"][0]), "python")))


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(pack(Path(each)))
