"""A page that classifies pictures in a browser: a final's file, and ONNX Runtime for the web.

The page's own files lie in `web_page`. ONNX Runtime's take 14 MB, so that they are no part of this
package: npm brings them once, into the user's cache.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from nasdistill.common import formats
from nasdistill.common.errors import UserError
from nasdistill.common.events import Emit, Event
from nasdistill.results import Final

VERSION = "1.30.0"
"""Of onnxruntime-web."""
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""SHA-512 of its package, in base64, as npm's lock files name it."""
RUNTIME = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Its files that the page loads, of its folder `dist`."""
PAGE = Path(__file__).parent / "web_page"
NPM_SECONDS = 600


def write_web(final: Final, title: str, out: Path, runtime: Path) -> dict[str, Any]:
    """Writes the page's folder, whole or not at all.

    It takes the int8 file where the final has one, else fp32.

    Args:
        final: The final.
        title: Of the page.
        out: The folder; it must not exist.
        runtime: A folder with ONNX Runtime's files.

    Returns:
        `path`, `model` (the file that was taken), and `bytes` of all files.

    Raises:
        UserError: If the folder exists, or a file is missing.
    """
    if out.exists():
        raise UserError(f"{out} exists already; give another --out")
    name = "model-int8.onnx" if (final.folder / "model-int8.onnx").is_file() else "model.onnx"
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        (temporary / "ort").mkdir(parents=True)
        for file in RUNTIME:
            shutil.copyfile(runtime / file, temporary / "ort" / file)
        for path in PAGE.iterdir():
            shutil.copyfile(path, temporary / path.name)
        text = Template((PAGE / "index.html").read_text("utf-8"))
        about = escape(_about(final.metrics, name))
        page = text.substitute(title=escape(title), about=about)
        (temporary / "index.html").write_text(page, "utf-8")
        shutil.copyfile(final.folder / "input.json", temporary / "input.json")
        shutil.copyfile(final.folder / name, temporary / "model.onnx")
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"path": str(out), "model": name, "bytes": size}


def _about(metrics: Mapping[str, Any], name: str) -> str:
    file = metrics
    if name == "model-int8.onnx":
        file = metrics.get("files", {}).get("onnx-int8", {})
    kind = "int8" if name == "model-int8.onnx" else "fp32"
    accuracy = formats.percent(file.get("test_accuracy"))
    return (
        f"{formats.count(metrics['params'])} parameters, {kind}, accuracy {accuracy} on test data."
    )


def find_runtime(path: Path | None, emit: Emit) -> Path:
    """A folder with ONNX Runtime's files for the web: a given one, or the cache, filled by npm.

    Args:
        path: The user's own folder: an unpacked package, or its `dist`.
        emit: Told when it is fetched.

    Raises:
        UserError: If it lacks a file, or npm is not there or cannot fetch the package.
    """
    if path is not None:
        return _checked(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "nasdistill" / f"onnxruntime-web-{VERSION}"
    if all((folder / name).is_file() for name in RUNTIME):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"--format web: npm is not installed, which fetches onnxruntime-web. {_BRING}"
        )
    text = f"fetching onnxruntime-web {VERSION} with npm, once, into {folder}"
    emit(Event("note", text, stage="files"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unpacked = _unpack(_fetch(npm, Path(temporary)), Path(temporary))
        shutil.rmtree(folder, ignore_errors=True)  # of which a file is missing
        unpacked.replace(folder)
    return folder


_BRING = (
    f"Where there is a network, `npm pack onnxruntime-web@{VERSION}` writes its package; unpack it "
    "here and give --onnxruntime-web FOLDER"
)


def _checked(path: Path) -> Path:
    for folder in (path, path / "dist", path / "package" / "dist"):
        if all((folder / name).is_file() for name in RUNTIME):
            return folder
    names = ", ".join(RUNTIME)
    raise UserError(f"--onnxruntime-web {path}: no {names} in it, nor in its `dist`. {_BRING}")


def _fetch(npm: str, folder: Path) -> Path:
    """Has npm fetch the package, from whatever registry it is set up for; checks its hash."""
    command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"--format web: npm took more than {NPM_SECONDS} s. {_BRING}") from None
    packages = list(folder.glob("*.tgz"))
    if done.returncode or not packages:
        lines = [line for line in done.stderr.splitlines() if "npm error" in line.lower()]
        reason = lines[0][:200] if lines else f"it ended with status {done.returncode}"
        raise UserError(f"--format web: npm cannot fetch onnxruntime-web ({reason}). {_BRING}")
    digest = base64.b64encode(hashlib.sha512(packages[0].read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise UserError(
            f"--format web: npm fetched another onnxruntime-web {VERSION} than is known here "
            f"(sha512 {digest[:16]}…, expected {INTEGRITY[:16]}…). {_BRING}"
        )
    return packages[0]


def _unpack(package: Path, folder: Path) -> Path:
    """Takes the files that are needed, and no others, out of a package."""
    target = folder / "files"
    target.mkdir()
    with tarfile.open(package) as archive:
        for name in RUNTIME:
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None  # its hash is known
            (target / name).write_bytes(content.read())
    return target
