"""`prof memory SNAPSHOT.pickle`: what held a device's memory."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="memory")
@click.argument("snapshot", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with charts.")
@click.option(
    "-o", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write memory.html and memory.json here."
)
@click.option("--json", "as_json_", is_flag=True, help="Print one JSON object instead.")
def command(snapshot: Path, html: Path | None, folder: Path | None, as_json_: bool) -> None:
    """Explain a snapshot of torch's CUDA allocator: what held the memory at the peak, and at which line.

    SNAPSHOT is the file that `torch.cuda.memory._dump_snapshot` wrote. It is read as plain data: nothing in it
    is run.

    \b
    torch.cuda.memory._record_memory_history(stacks="python")     # in the script, before the training
    torch.cuda.memory._dump_snapshot("snapshot.pickle")           # after some steps, or in the except of an OOM
    prof memory snapshot.pickle --html memory.html
    """
    from profiler.report.snapshot.contract import as_json
    from profiler.report.snapshot.pipeline import explain
    from profiler.report.summary import json_safe, summary_bytes

    explained = explain(snapshot)
    page = html
    text = summary_bytes(json_safe(as_json(explained))) if folder or as_json_ else b""
    if folder is not None:
        page = html or folder / "memory.html"
        write_to(folder / "memory.json", text)
    if page is not None:
        from profiler.report.snapshot.page import render_page

        write_to(page, render_page(explained).encode("utf-8", "backslashreplace"))
    if as_json_:
        click.echo(text.decode("ascii"), nl=False)
        return
    from rich.console import Console

    from profiler.report.snapshot.terminal import print_snapshot

    print_snapshot(explained, Console(), page)


def write_to(path: Path, content: bytes) -> None:
    """Write a file, making its folder. Raises ProfError when that can't be."""
    from profiler.errors import ProfError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ProfError(f"{path} can't be written: {error.strerror or error}.") from error
