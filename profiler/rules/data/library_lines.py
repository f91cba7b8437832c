"""What a batch's lines do, told from the library that runs there or from their text.

In:  the lines that the sampler saw make batches.
Out: those that decode, and those that open files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from profiler.analysis.facts import LineTime


@dataclass(frozen=True, slots=True)
class Decoder:
    """A kind of stored data whose decoding takes CPU."""

    what: str  # completes "decoding …"
    summary: str
    code: str
    leaf: str  # pattern of the function that ran
    source: str  # pattern of the line's text


DECODERS = (
    Decoder(
        "pictures",
        "Store the pictures at the size that the network sees.",
        "# once, before training: shrink the files themselves\n"
        "for path in paths:\n"
        '    picture = Image.open(path).convert("RGB")\n'
        '    picture.resize((256, 256)).save(small / path.with_suffix(".jpg").name, quality=90)\n\n'
        "# or let the JPEG decoder skip what is thrown away: decode at an eighth, a quarter or a half of the size\n"
        "picture = Image.open(path)\n"
        'picture.draft("RGB", (256, 256))  # before the first access to its pixels\n\n'
        "# or decode whole batches on the GPU\n"
        'torchvision.io.decode_jpeg(files, device="cuda")',
        r"^(PIL\.(ImageFile|JpegImagePlugin|PngImagePlugin|WebPImagePlugin|TiffImagePlugin|Image\.open)|torchvision\.io|"
        r"imageio|skimage\.io|tifffile|matplotlib\.image)",
        r"\b(Image\.open|imdecode|imread|decode_(jpeg|png|image|webp|gif)|read_image|pil_loader|default_loader)\(",
    ),
    Decoder(
        "sound",
        "Store the sound as arrays, at the rate that the network hears.",
        "# once, before training\n"
        "wave, rate = torchaudio.load(path)\n"
        "np.save(target, torchaudio.functional.resample(wave, rate, 16_000).half().numpy())\n\n"
        "# in the data set\n"
        'wave = torch.from_numpy(np.load(target, mmap_mode="r")[:, start:stop].copy()).float()',
        r"^(torchaudio|librosa|soundfile|audioread|pydub|scipy\.io\.wavfile)",
        r"\b(torchaudio\.load|librosa\.load|sf\.read|soundfile\.read|wavfile\.read)\(",
    ),
    Decoder(
        "video",
        "Store the frames that are used, or decode on the GPU.",
        "# once, before training: short clips, at the size that the network sees\n"
        "# ffmpeg -i in.mp4 -vf scale=-2:256 -g 16 small.mp4   (a key frame every 16 frames: cheap to seek)\n"
        'decoder = torchcodec.decoders.VideoDecoder(path, device="cuda")',
        r"^(decord|av\.|torchcodec|torchvision\.io\.video)",
        r"\b(VideoReader|VideoCapture|VideoDecoder|read_video)\(",
    ),
    Decoder(
        "compressed files",
        "Store the data without compression, or in one that is cheap to read.",
        "# once, before training\n"
        'np.save("items.npy", array)  # not np.savez_compressed, not .gz\n\n'
        "# in the data set\n"
        'items = np.load("items.npy", mmap_mode="r")\n\n'
        "# with h5py: no gzip filter, or chunks of one item each\n"
        'file.create_dataset("items", data=array, chunks=(1, *array.shape[1:]), compression="lzf")',
        r"^(gzip|zlib|bz2|lzma|_compression|zipfile|zstandard|lz4|blosc|h5py)\b",
        r"\b(gzip|bz2|lzma|zlib)\.(open|decompress)\(",
    ),
)
_OPENS_LEAF = (
    r"^(pathlib\.Path\.(open|read_bytes|read_text)|numpy\.lib.*\b(load|read_array|open_memmap)|torch\.serialization|"
    r"codecs|io\.|os\.)"
)
_OPENS = (
    r"(?<!Image\.)\b(open|read_bytes|read_text|np\.load|numpy\.load|torch\.load|safetensors\.\w+|load_file|read_csv|"
    r"read_parquet|loadmat)\("
)


def decoding(lines: Iterable[LineTime]) -> tuple[Decoder, list[LineTime]] | None:
    """The decoder that takes most of a batch, and its lines, most first."""
    by_decoder: dict[str, list[LineTime]] = {}
    for line in lines:
        decoder = next((it for it in DECODERS if _matches(it.leaf, it.source, line)), None)
        if decoder is not None:
            by_decoder.setdefault(decoder.what, []).append(line)
    if not by_decoder:
        return None
    what = max(by_decoder, key=lambda name: total_ms(by_decoder[name]))
    decoder = next(it for it in DECODERS if it.what == what)
    return decoder, sorted(by_decoder[what], key=lambda line: -line.ms_per_step)


def opening(lines: Iterable[LineTime]) -> list[LineTime]:
    """Lines that open or read files, most first."""
    return sorted((line for line in lines if _matches(_OPENS_LEAF, _OPENS, line)), key=lambda line: -line.ms_per_step)


def total_ms(lines: Iterable[LineTime]) -> float:
    """Milliseconds of a batch."""
    return sum(line.ms_per_step for line in lines)


def _matches(leaf: str, source: str, line: LineTime) -> bool:
    return bool(re.search(leaf, line.leaf) or re.search(source, line.source.split("#", 1)[0]))
