"""One change of one file."""

import difflib
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, order=True)
class Mutant:
    """`source[start:end]` becomes `text`."""

    start: int
    end: int
    text: str

    def applied_to(self, source: str) -> str:
        """Return the mutated file."""
        return source[: self.start] + self.text + source[self.end :]

    def changed_lines(self, source: str) -> tuple[int, str, str]:
        """Return the first line that changes, what it is, and what it becomes; both without their indentation."""
        before, after = source.splitlines(), self.applied_to(source).splitlines()
        opcodes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        changes = [opcode for opcode in opcodes if opcode[0] != "equal"]
        was = [line.strip() for _, a, b, _, _ in changes for line in before[a:b]]
        becomes = [line.strip() for _, _, _, a, b in changes for line in after[a:b]]
        return changes[0][1] + 1, " ".join(was), " ".join(becomes)

    def diff(self, path: PurePath, source: str) -> str:
        """Return a unified diff without context."""
        before, after = source.splitlines(), self.applied_to(source).splitlines()
        lines = difflib.unified_diff(before, after, str(path), str(path), lineterm="", n=0)
        return "\n".join(list(lines)[3:])
