"""YAML 1.2 with positions: duplicate keys and tags are refused. No torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import TagToken

from nasdistill.common.errors import UserError


def read_yaml(path: Path) -> CommentedMap:
    """Reads a YAML 1.2 mapping with positions; duplicate keys and tags are refused.

    Raises:
        UserError: Naming the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> CommentedMap:
    """Parses a YAML 1.2 mapping with positions; duplicate keys and tags are refused.

    Args:
        text: The document.
        source: What error messages call it.

    Raises:
        UserError: Naming `source` and the line.
    """
    try:
        _refuse_tags(text, source)
        tree = YAML(typ="rt").load(text)
        if tree is None:
            return CommentedMap()
        if not isinstance(tree, CommentedMap):
            raise UserError(f"{source}:1: expected keys and values, found {text.strip()[:40]!r}")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = (error.problem or "not YAML").strip().splitlines()[0]
        raise UserError(f"{source}{line}: {problem}") from None
    except (YAMLError, ValueError) as error:
        problem = str(error).strip().splitlines()[0] if str(error).strip() else "not YAML"
        raise UserError(f"{source}: {problem}") from None
    except RecursionError:
        raise UserError(f"{source}: nested too deeply, or an alias holds itself") from None
    return tree


def write_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as a YAML 1.2 document in block style, in the order given."""
    buffer = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump(dict(values), buffer)
    return buffer.getvalue()


def plain(node: Any) -> Any:
    """A parsed node as plain JSON values; keys become strings, what JSON lacks becomes text."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    if type(node).__name__ == "ScalarBoolean":
        return bool(node)
    if isinstance(node, int):
        return int(node)
    return float(node) if isinstance(node, float) else str(node)


def line_of(tree: Any, path: tuple[Any, ...]) -> int:
    """The line, from 1, on which the value at a path stands; of its nearest parent if it is new."""
    line = 0
    for key in path:
        if not isinstance(tree, (CommentedMap, CommentedSeq)):
            break
        try:
            line = tree.lc.key(key)[0] if isinstance(tree, CommentedMap) else tree.lc.item(key)[0]
            tree = tree[key]
        except (KeyError, IndexError, TypeError):
            break
    return line + 1


def _refuse_tags(text: str, source: str) -> None:
    for token in YAML(typ="rt").scan(text):
        if isinstance(token, TagToken):
            tag = "".join(part or "" for part in token.value)
            line = token.start_mark.line + 1
            raise UserError(f"{source}:{line}: the tag {tag} is not allowed; write plain values")
