"""Functions of Python in a trace: what their events are called, and whose they are.

In:  names of `python_function` events, and the call stacks that operators carry.
Out: the user's functions, and what those call, under names that don't change from call to call.

torch cuts the folders of `sys.path` off the files, so that a package's file looks like one of the user's
(`numpy/core/numeric.py`): packages are told by their names.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

import numpy as np

from profiler.record.trace.recording import Ints

MOST_NUMBERED = 1 << 25  # functions whose number is kept: a call by a later one counts as the caller's own
_FRAME = re.compile(r"(?P<file>.+)\((?P<line>\d{1,9})\): (?P<function>.+)", re.DOTALL)
_BUILT_IN = re.compile(
    r"<built-in (?:function|method) (?P<name>[\w.]+|<\w+>)(?: of (?:type object|(?P<owner>[\w.]+) object))?"
)
_LIBRARY = re.compile(r"(^|/)(site-packages|dist-packages|lib/python3[^/]*|torchinductor[^/]*|torch_compile_debug)/")
_NOTEBOOK = re.compile(r"^<(stdin|ipython-input)|/ipykernel_\d+/")
_SCRIPTS = frozenset({"code", "profile", "test", "trace"})  # names that people give their scripts
_PACKAGES = frozenset(
    {
        "IPython", "PIL", "_pytest", "accelerate", "aiohttp", "albumentations", "apex", "attr", "av", "bitsandbytes",
        "boto3", "botocore", "click", "composer", "cupy", "cv2", "dask", "datasets", "decord", "deepspeed",
        "detectron2", "diffusers", "einops", "evaluate", "fairscale", "fastai", "fastcore", "flash_attn", "fsspec",
        "functorch", "google", "h5py", "huggingface_hub", "hydra", "ignite", "imageio", "ipykernel",
        "ipykernel_launcher", "joblib", "jupyter_client", "kornia", "lightning", "lightning_fabric",
        "lightning_utilities", "lmdb", "matplotlib", "mlflow", "mmcv", "mmengine", "monai", "msgspec", "neptune",
        "nltk", "numba", "numpy", "omegaconf", "orjson", "pandas", "peft", "pluggy", "psutil", "pyarrow", "pydantic",
        "pytest", "pytorch_lightning", "ray", "requests", "rich", "s3fs", "safetensors", "scipy",
        "sentence_transformers", "sentencepiece", "six", "skimage", "sklearn", "streaming", "tensorboard",
        "tensorboardX", "tiktoken", "timm", "tokenizers", "torch", "torch_geometric", "torch_xla", "torchaudio",
        "torchdata", "torchmetrics", "torchrec", "torchtext", "torchvision", "tornado", "tqdm", "traitlets",
        "transformer_engine", "transformers", "triton", "trl", "typing_extensions", "urllib3", "wandb", "webdataset",
        "xformers", "yaml", "zmq",
    }
)  # fmt: skip
_KNOWN = _PACKAGES | (sys.stdlib_module_names - _SCRIPTS)


class Frame(NamedTuple):
    """A function of Python: where it begins or, in a call stack that an operator carries, where it stood."""

    file: str
    line: int
    function: str


def frame_of(name: str) -> Frame | None:
    """The frame that a name stands for; None for functions that are not written in Python."""
    found = _FRAME.fullmatch(name)
    return Frame(found["file"], int(found["line"]), found["function"]) if found else None


def is_library(file: str) -> bool:
    """Whether a file is torch's, another package's or Python's own."""
    if _NOTEBOOK.search(file):
        return False
    path = file.replace("\\", "/")
    if path.startswith("<") or _LIBRARY.search(path):
        return True
    return path.removesuffix(".py").split("/", 1)[0] in _KNOWN


def users_frame(stack: str) -> str:
    """The user's innermost frame of a call stack, whose frames come innermost first; "" for none."""
    for name in stack.split(";"):
        frame = frame_of(name.strip())
        if frame is not None and not is_library(frame.file):
            return name.strip()
    return ""


def called(name: str) -> str:
    """What a function that is not the user's is called: `json.encoder.encode`, `Tensor.item`, `print`."""
    frame = frame_of(name)
    if frame is not None:
        module = frame.file.replace("\\", "/").removesuffix(".py").removesuffix("/__init__")
        for root in ("site-packages/", "dist-packages/"):
            module = module.rpartition(root)[2]
        return f"{module.strip('/').replace('/', '.')}.{frame.function}"
    built_in = _BUILT_IN.match(name)
    if built_in is None:
        return name
    return f"{built_in['owner']}.{built_in['name']}" if built_in["owner"] else built_in["name"]


class Functions(dict[Any, int]):
    """Numbers of functions by their names: of the user's that of the name, of others' -1 less that of the call."""

    MOST = 1 << 14  # names that are remembered

    def __init__(self, names: dict[Any, int]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, given: object) -> int:
        if len(self) >= self.MOST:
            self.clear()
        name = str(given)
        if name.startswith("<built-in"):
            name = name.partition(" at 0x")[0]  # the address of an object tells nothing, and makes a name for each
        frame = frame_of(name)
        users = frame is not None and not is_library(frame.file)
        number = self[given] = self._names[name] if users else -1 - self._names[called(name)]
        return number


class Stacks(dict[Any, int]):
    """Numbers of the user's frames by the call stack; -1 where there is none."""

    MOST = 1 << 14  # stacks that are remembered

    def __init__(self, names: dict[Any, int]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, stack: object) -> int:
        if len(self) >= self.MOST:
            self.clear()
        name = users_frame(stack) if isinstance(stack, str) else ""
        number = self[stack] = self._names[name] if name else -1
        return number


class Numbered:
    """Which numbers were given to functions of the user's."""

    def __init__(self) -> None:
        self._users = np.zeros(1024, dtype=bool)

    def add(self, numbers: Ints) -> None:
        """These are the user's."""
        numbers = numbers[(numbers >= 0) & (numbers < MOST_NUMBERED)]
        if len(numbers):
            highest = int(numbers.max())
            if highest >= len(self._users):
                self._users = np.concatenate((self._users, np.zeros(highest + 1, dtype=bool)))
            self._users[numbers] = True

    def holds(self, numbers: Ints) -> np.ndarray:
        """Which of these are the user's."""
        inside = (numbers >= 0) & (numbers < len(self._users))
        return inside & self._users[np.where(inside, numbers, 0)]
