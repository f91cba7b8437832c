"""Act when a module has been imported, without importing it.

A finder at the head of `sys.meta_path` lets the others find the module and wraps its loader, so that our
action runs right after the module's own code, before anyone can take names from it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Action = Callable[[Any], None]


class _Loader(importlib.abc.Loader):
    """Runs the real loader, then the actions."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        # the module is to look as if we had never been here
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.imported(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the modules that somebody asked for."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Action]] = {}
        self._looking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def imported(self, module: ModuleType) -> None:
        """Run what waited for this module; an error there must not reach the import."""
        for action in self.waiting.pop(module.__name__, []):
            try:
                action(module)
            except Exception as error:
                sys.stderr.write(
                    f"prof: could not watch {module.__name__} ({type(error).__name__}: {error}); it goes unobserved.\n"
                )
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


_finder = _Finder()


def when_imported(name: str, action: Action) -> Callable[[], None]:
    """Run `action(module)` once `name` is imported, or now if it is. Returns how to stop waiting."""
    if name in sys.modules:
        action(sys.modules[name])
        return lambda: None
    _finder.waiting.setdefault(name, []).append(action)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)

    def stop() -> None:
        waiting = _finder.waiting.get(name, [])
        if action in waiting:
            waiting.remove(action)
        if not waiting:
            _finder.waiting.pop(name, None)

    return stop
