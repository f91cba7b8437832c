"""What a script writes while it is only looked at must not reach the user's files.

A training often saves a checkpoint, opens its log or clears a folder before its first backward pass. Under the probe
what it saves is worth nothing: models hold no numbers. So `torch.save` to a path does nothing, a file that is opened
for writing is one in a scratch folder, and whatever else would change a file is refused. Folders may be made, and
caches of data sets and the temporary folder may be written.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CACHES = ("XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "HF_DATASETS_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def only_look(scratch: Path) -> None:
    """From now on this process changes nothing outside of `scratch`, temporary folders, caches and devices."""
    sys.dont_write_bytecode = True
    free = _free_folders(scratch)
    _keep_opened(scratch, free)
    plain_save: Any = torch.save

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(f, (str, os.PathLike)) or _is_free(f, free):
            plain_save(obj, f, *args, **kwargs)

    torch.save = save
    sys.addaudithook(lambda event, args: _refuse(event, args, free))


def _free_folders(scratch: Path) -> tuple[str, ...]:
    folders = [scratch, tempfile.gettempdir(), "/dev", "/proc", Path.home() / ".cache"]
    folders += [os.environ[name] for name in _CACHES if os.environ.get(name)]
    return tuple(os.path.realpath(str(folder)) for folder in folders)


def _is_free(path: Any, free: tuple[str, ...]) -> bool:
    where = os.path.realpath(os.fsdecode(path))
    return any(where == folder or where.startswith(folder + os.sep) for folder in free)


def _keep_opened(scratch: Path, free: tuple[str, ...]) -> None:
    """`open` for writing gives a file in the scratch folder, and so does a later `open` of the same path."""
    plain_open = builtins.open
    kept: dict[str, Path] = {}

    def open_kept(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not isinstance(file, (str, bytes, os.PathLike)) or _is_free(file, free):
            return plain_open(file, mode, *args, **kwargs)
        where = os.path.realpath(os.fsdecode(file))
        if where not in kept and any(letter in mode for letter in "wax+"):
            copy = scratch / f"{len(kept)}-{Path(where).name}"
            if Path(where).is_file() and not any(letter in mode for letter in "wx"):
                shutil.copyfile(where, copy)
            elif "x" in mode and Path(where).exists():
                return plain_open(file, mode, *args, **kwargs)  # raises FileExistsError, as it should
            kept[where] = copy
        return plain_open(kept.get(where, file), mode, *args, **kwargs)

    builtins.open = open_kept
    io.open = open_kept


def _refuse(event: str, args: tuple[Any, ...], free: tuple[str, ...]) -> None:
    """An audit hook: whatever changes a file of the user's is refused before it happens."""
    if event == "open":
        path, flags = args[0], args[2]
        if not isinstance(path, (str, bytes)) or not isinstance(flags, int) or not flags & _WRITES:
            return
        changed = [path]
    elif event in _CHANGES:
        changed = [path for path in args[:2] if isinstance(path, (str, bytes))]
    else:
        return
    for path in changed:
        if not _is_free(path, free):
            raise PermissionError(f"prof plan only looks at a script, and it would change {os.fsdecode(path)}")
