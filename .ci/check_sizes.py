"""Fails where a module is too long, lies outside of a folder, or an `__init__` holds logic.

Run by .ci/run and by hand: python .ci/check_sizes.py
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MOST_LINES = 450
TOP_LEVEL = {"__init__.py", "__main__.py", "testing.py"}
PACKAGE = Path(__file__).parents[1] / "nasdistill"


def complaints() -> list[str]:
    """What is wrong, a line each."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE.parent)
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if path.name != "__init__.py" and lines > MOST_LINES:
            found.append(f"{name}: {lines} lines; at most {MOST_LINES}")
        if path.parent == PACKAGE and path.name not in TOP_LEVEL:
            found.append(f"{name}: modules lie in the package's folders")
        if path.name == "__init__.py" and path.parent != PACKAGE:
            logic = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            if any(isinstance(node, logic) for node in ast.parse(text).body):
                found.append(f"{name}: a face of a package holds names to import, no logic")
    return found


if __name__ == "__main__":
    for line in complaints():
        print(line, file=sys.stderr)
    sys.exit(bool(complaints()))
