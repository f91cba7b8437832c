"""What we leave on other people's objects must not travel with them."""

from __future__ import annotations

from typing import Any


class Transient:
    """Pickled or deep-copied, it becomes None: the copy knows nothing of us."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        return type(None), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None
