"""What the tests of capture share: a compiler that remembers nothing of the test before."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forgetful_compiler() -> Iterator[None]:
    """Compiled code makes us look less deep: what one test compiled must not decide what the next one sees."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
