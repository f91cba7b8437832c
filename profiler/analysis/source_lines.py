"""From a function of the user's to the line in it that was running.

In:  a function as a trace names it, what it called then, and the text of its file where that can be read.
Out: `Line`.

A trace says where a function begins, and not which line of it ran; of one that was running when the recording began it
says where that stood then. The line is told by what was called there: where only one line of the function calls
something of that name, that line ran.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.analysis.site import Site
from profiler.record.trace.source import ReadSource

if TYPE_CHECKING:  # the module needs numpy, which no report does
    from profiler.record.trace.python import Frame

_IN_ONE_LINE = frozenset({"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"})
TO_NUMBER = r"\.item\(|\.tolist\(|(?<![\w.])(float|int|bool)\("
_BY_OPERATOR = {
    "aten::item": TO_NUMBER,
    "aten::_local_scalar_dense": TO_NUMBER,
    "aten::is_nonzero": r"(?<![\w.])(if|elif|while|assert|not|and|or)\b|(?<![\w.])bool\(",
    "aten::_to_copy": r"\.(to|cpu|cuda)\(",
    "aten::to": r"\.(to|cpu|cuda)\(",
    "aten::copy_": r"\.(to|cpu|cuda|copy_)\(",
}
_BY_CALL = {
    "torch.utils.data.dataloader.__next__": r"(?<!\w)for\b|(?<!\w)next\(",
    "torch.utils.data.dataloader.__iter__": r"(?<!\w)for\b|(?<!\w)iter\(",
    "torch.optim.optimizer.wrapper": r"(?<!\w)step\(",
    "torch.optim.optimizer.profile_hook_step": r"(?<!\w)step\(",
    "Tensor.__getitem__": r"[\w)\]]\[",
}
_WORD = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True, slots=True)
class Line:
    """A place in the user's code."""

    site: Site
    text: str  # "" where the line is not known, but the function


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    first: int  # its decorators with it
    body: int  # line of its first statement
    last: int
    inner: tuple[tuple[int, int], ...]  # first and last lines of functions and classes within it


class Sources:
    """The files of a trace; each is read once."""

    def __init__(self, read: ReadSource) -> None:
        self._read = read
        self._files: dict[str, tuple[list[str], list[_Function]] | None] = {}

    def line(self, frame: Frame, called: str, stood: bool, operator: str = "") -> Line:
        """The line of a function that called this, or in which this operator ran.

        Args:
            frame: the function.
            called: what the function itself called, "" for nothing that is no operator.
            stood: it was running when the recording began.
            operator: the outermost operator that it ran.
        """
        plain = Line(Site(frame.file, frame.line, frame.function), "")
        file = self._file(frame.file)
        if file is None:
            return plain
        lines, functions = file
        if frame.function in _IN_ONE_LINE and not stood:
            return Line(plain.site, _text(lines, frame.line))
        function = _function(functions, frame, stood)
        if function is None:
            return plain
        pattern = _pattern(called, operator)
        found = [it for it in _own(function, len(lines)) if pattern and pattern.search(_code(lines[it - 1]))]
        if stood and not called.startswith("torch.profiler."):
            found = [it for it in found if it != frame.line]  # where the recording was begun
        if len(found) == 1:
            return Line(Site(frame.file, found[0], frame.function), _text(lines, found[0]))
        known = stood and frame.function != "<module>"
        return Line(Site(frame.file, function.first, frame.function), "") if known else plain

    def _file(self, name: str) -> tuple[list[str], list[_Function]] | None:
        if name not in self._files:
            text = self._read(name)
            try:
                tree = ast.parse(text) if text else None
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                tree = None
            lines = (text or "").splitlines()
            self._files[name] = (lines, _functions(tree, len(lines))) if tree is not None else None
        return self._files[name]


def _functions(tree: ast.Module, last: int) -> list[_Function]:
    """The functions of a file, and the file itself as one."""
    found = [_Function("<module>", 1, 1, last, _within(tree))]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            found.append(_Function(node.name, _first(node), node.body[0].lineno, end, _within(node)))
    return found


def _first(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(it.lineno for it in node.decorator_list)])


def _within(node: ast.AST) -> tuple[tuple[int, int], ...]:
    inner = (it for it in ast.walk(node) if it is not node)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return tuple((_first(it), it.end_lineno or it.lineno) for it in inner if isinstance(it, kinds))


def _function(functions: list[_Function], frame: Frame, stood: bool) -> _Function | None:
    """The function that the frame means; None where the file is another one by now."""
    named = [it for it in functions if it.name == frame.function and it.first <= frame.line <= it.last]
    found = max(named, key=lambda it: it.first, default=None)
    if found is None or stood or frame.line <= found.body:
        return found
    return None


def _own(function: _Function, lines: int) -> list[int]:
    """Lines of the function itself."""
    whole = range(function.body, min(function.last, lines) + 1)
    return [number for number in whole if not any(first <= number <= last for first, last in function.inner)]


def _pattern(called: str, operator: str) -> re.Pattern[str] | None:
    """What a line that calls this looks like."""
    if called in _BY_CALL:
        return re.compile(_BY_CALL[called])
    if called:
        word = called.rpartition(".")[2]
        return re.compile(rf"(?<!\w){word}\(") if _WORD.fullmatch(word) else None
    if operator in _BY_OPERATOR:
        return re.compile(_BY_OPERATOR[operator])
    word = operator.removeprefix("aten::")
    return re.compile(rf"(?<!\w){word}\(") if _WORD.fullmatch(word) else None


def _code(line: str) -> str:
    return line.split("#", 1)[0]


def _text(lines: list[str], number: int) -> str:
    return lines[number - 1] if 0 < number <= len(lines) else ""
