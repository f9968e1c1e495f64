"""What the files of a final are made from: its module, its ONNX file, pictures of its data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nasdistill.common.events import Emit
from nasdistill.common.types import Input
from nasdistill.deployment.calibration import Calibration
from nasdistill.models import Classifier


@dataclass(frozen=True)
class Source:
    """What a final's files are made from.

    Attributes:
        module: The final, on the CPU in eval mode.
        input: The image that it takes.
        onnx: Its fp32 ONNX file.
        metadata: What its files say of themselves where their format lets them, by key.
        calibration: Pictures, for formats that need some; None where the data are not at hand.
        max_loss: Points that a file may lose against fp32.
        distil_quantised: Distils the final on with fake quantisation, on the CPU in eval mode; None
            where nothing can be trained. It gives None where this final cannot.
        emit: Told how far it is.
    """

    module: Classifier
    input: Input
    onnx: Path
    metadata: Mapping[str, str]
    calibration: Calibration | None
    max_loss: float
    emit: Emit
    distil_quantised: Callable[[], Classifier | None] | None = None

    def onnx_with_metadata(self) -> bytes:
        """The fp32 ONNX file with the metadata of this final."""
        from nasdistill.deployment.metadata import with_metadata

        return with_metadata(self.onnx.read_bytes(), self.metadata)

    def write_metadata_beside(self, path: Path) -> None:
        """Writes what a file cannot say of itself to a JSON file named after it."""
        content = json.dumps(dict(self.metadata), indent=1, ensure_ascii=False)
        path.with_name(f"{path.name}.json").write_text(content, encoding="utf-8")
