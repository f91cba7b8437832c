"""Settings that matter, from the notes that were made where they passed by.

In:  notes of kinds `loader`, `root`, `optimizer` and `setting`; `batch` and `structure` add to the first two.
Out: `Settings`. Of several notes with one number or name the last one counts; but autocast that was in use stays so:
regions without it (a loss in float32, and checkpointing's own for the CPU) say nothing about the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from profiler.analysis.facts import LoaderSettings, OptimizerSettings, RootSettings, Settings
from profiler.analysis.stages import site_of
from profiler.record.reader import of_kind

Note = Mapping[str, Any]


def settings_of(notes: Sequence[dict[str, Any]], trained_loaders: frozenset[int]) -> Settings:
    """The settings of a training process."""
    values: dict[str, Any] = {}
    sites = {}
    for note in of_kind(notes, "setting"):
        name = str(note.get("name"))
        if name == "autocast" and _enabled(values.get(name)) and not _enabled(note.get("value")):
            continue
        values[name] = note.get("value")
        site = site_of(note)
        if site is not None:
            sites[name] = site
    structures = {note.get("id"): _of(note, "values") for note in of_kind(notes, "structure")}
    batches = {note.get("id"): _of(note, "values") for note in of_kind(notes, "batch")}
    return Settings(
        loaders=tuple(
            _loader(note, trained_loaders, batches.get(note.get("id"), {})) for note in _latest(notes, "loader")
        ),
        roots=tuple(_root(note, structures.get(note.get("id"), {})) for note in _latest(notes, "root")),
        optimizers=tuple(_optimizer(note) for note in _latest(notes, "optimizer")),
        values=values,
        sites=sites,
    )


def _latest(notes: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The last note for each number, in the order in which the numbers first came."""
    return list({note.get("id"): note for note in of_kind(notes, kind)}.values())


def _loader(note: Note, trained: frozenset[int], batch: dict[str, Any]) -> LoaderSettings:
    number = _whole(note, "id") or 0
    return LoaderSettings(
        id=number,
        dataset=str(note.get("dataset") or ""),
        batch_size=_whole(note, "batch_size"),
        num_workers=_whole(note, "num_workers") or 0,
        pin_memory=bool(note.get("pin_memory")),
        prefetch_factor=_whole(note, "prefetch_factor"),
        persistent_workers=bool(note.get("persistent_workers")),
        iterable=bool(note.get("iterable")),
        shuffle=_flag(note, "shuffle"),
        length=_whole(note, "length"),
        context=note["context"] if isinstance(note.get("context"), str) else None,
        site=site_of(note),
        trains=number in trained,
        extra=_of(note, "extra") | batch,
    )


def _root(note: Note, structure: dict[str, Any]) -> RootSettings:
    dtypes = note.get("dtypes")
    return RootSettings(
        id=_whole(note, "id") or 0,
        name=str(note.get("name") or ""),
        is_loss=bool(note.get("is_loss")),
        parameters=_whole(note, "parameters") or 0,
        parameter_bytes=_whole(note, "parameter_bytes") or 0,
        trainable_parameters=_whole(note, "trainable_parameters") or 0,
        dtypes=tuple(map(str, dtypes)) if isinstance(dtypes, list) else (),
        submodules=_whole(note, "submodules") or 0,
        compiled=bool(note.get("compiled")),
        site=site_of(note),
        extra=_of(note, "extra") | structure,
    )


def _optimizer(note: Note) -> OptimizerSettings:
    return OptimizerSettings(
        id=_whole(note, "id") or 0,
        name=str(note.get("name") or ""),
        foreach=_flag(note, "foreach"),
        fused=_flag(note, "fused"),
        capturable=_flag(note, "capturable"),
        tensors=_whole(note, "tensors") or 0,
        groups=_whole(note, "groups") or 0,
        parameters=_whole(note, "parameters") or 0,
        site=site_of(note),
        extra=_of(note, "extra"),
    )


def _whole(note: Note, name: str) -> int | None:
    value = note.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _flag(note: Note, name: str) -> bool | None:
    value = note.get(name)
    return value if isinstance(value, bool) else None


def _enabled(autocast: Any) -> bool:
    return isinstance(autocast, Mapping) and bool(autocast.get("enabled"))


def _of(note: Note, name: str) -> dict[str, Any]:
    value = note.get(name)
    return dict(value) if isinstance(value, dict) else {}
