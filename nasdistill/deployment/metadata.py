"""What an ONNX file says of itself, so that it can be used without anything beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def metadata_of(
    description: Mapping[str, Any], study: str, fingerprint: str, licence: str
) -> dict[str, str]:
    """The metadata of a final's files, by key.

    Args:
        description: The content of its input.json.
        study: The study's name.
        fingerprint: The architecture's.
        licence: Credits and licence of the data; empty where they are not known.

    Returns:
        `classes` (a JSON list of names by label), `input` (JSON: input.json without the classes),
        `study`, `fingerprint`, `nasdistill` (its version), `data_licence` where it is known.
    """
    input = {key: value for key, value in description.items() if key != "classes"}
    values = {
        "classes": _compact(description["classes"]),
        "input": _compact(input),
        "study": study,
        "fingerprint": fingerprint,
        "nasdistill": str(sys.modules["nasdistill"].__version__),
        "data_licence": licence,
    }
    return {key: value for key, value in values.items() if value}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file with metadata in the place of what it says of itself.

    Args:
        content: The ONNX file.
        metadata: By key; ONNX Runtime gives it as `get_modelmeta().custom_metadata_map`.
    """
    import onnx

    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    result: bytes = model.SerializeToString()
    return result
