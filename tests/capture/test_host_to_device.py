"""Copies that leave the CPU; to "meta" here, where there is no accelerator."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from profiler.capture import host_to_device, optimizer, settings
from profiler.capture.session import CaptureConfig, Session
from profiler.record.reader import of_kind, read_notes


def test_the_line_of_the_copy_is_the_loops_and_not_that_which_moved_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_to_device, "has_accelerator_build", lambda: True)
    session = Session(CaptureConfig(tmp_path))
    for part in (settings, optimizer, host_to_device):
        part.install(session)
    try:
        nn.Linear(4, 4).to("meta")
        model = nn.Linear(4, 1)
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        batch = torch.ones(2, 4)
        for _ in range(3):
            batch.to("meta")
            line = sys._getframe().f_lineno - 1
            model(batch).sum().backward()
            sgd.step()
    finally:
        session.close()
    calls = [note for note in of_kind(read_notes(session.folder())[0], "call") if note["stage"] == "host_to_device"]
    assert [(note["file"], note["line"]) for note in calls] == [(__file__, line)]
