"""The page that classifies pictures in a browser."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import nasdistill
from nasdistill import api
from nasdistill.common.errors import UserError
from nasdistill.common.events import silent
from nasdistill.data.pictures import Preparation
from nasdistill.deployment import web
from nasdistill.models import Classifier, artifact
from nasdistill.models.artifact import ModelSpec
from nasdistill.models.export import export_onnx
from nasdistill.models.families import build
from nasdistill.results import Final
from nasdistill.space import Architecture

CLASSES = ("<b>ankle</b> boot", "bag & more", "coat")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FEED = """
"use strict";
const send = (what) => fetch("/result", { method: "POST", body: JSON.stringify(what) });
const feed = async (name) => {
  const file = new File([await (await fetch(name)).blob()], name, { type: TYPES[name] });
  const data = new DataTransfer();
  data.items.add(file);
  document.getElementById("answers").replaceChildren();
  const state = document.getElementById("state");
  state.textContent = "";
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
  const done = () => state.textContent.startsWith(`${name}: `);
  while (!done()) await new Promise((go) => setTimeout(go, 20));
  const rows = [...document.querySelectorAll("#answers tr")];
  return { state: state.textContent, bad: state.classList.contains("bad"),
    names: rows.map((row) => row.cells[0].textContent),
    logits: rows.map((row) => +row.dataset.logit) };
};
(async () => {
  const results = {};
  for (const name of Object.keys(TYPES)) results[name] = await feed(name);
  await send(results);
})().catch((error) => send({ error: String(error) }));
"""


@pytest.fixture(scope="module")
def runtime() -> Path:
    """ONNX Runtime's files, which npm fetches where it can."""
    given = os.environ.get("ONNXRUNTIME_WEB")
    try:
        return web.find_runtime(Path(given) if given else None, silent)
    except UserError as error:
        pytest.skip(f"onnxruntime-web is not at hand, so no page was opened: {error}")


def final_in(folder: Path, channels: int) -> Final:
    """An untrained final that tells pictures apart."""
    torch.manual_seed(0)
    layers = {"type": "one", "widths": [8]}
    architecture = Architecture("mlp", {"activation": "relu", "dropout": 0.0, "layers": layers})
    preparation = Preparation(channels, (24, 32), (24, 32))
    net = build(architecture, preparation.input, len(CLASSES))
    module = Classifier(net, (0.5,) * channels, (0.25,) * channels).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    export_onnx(module, preparation.input, folder / "made.onnx")
    metrics: dict[str, Any] = {"params": 2307, "test_accuracy": 0.875}
    artifact.write_final(
        folder / "1",
        module=module,
        spec=ModelSpec(architecture, preparation, CLASSES),
        metrics=metrics,
        card="",
        onnx=folder / "made.onnx",
    )
    return Final(1, 0, folder / "1", metrics)


def pictures(folder: Path) -> dict[str, str]:
    """Writes pictures of several kinds; types by name."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    image = Image.fromarray(blocks)
    image.save(folder / "wide.png")
    image.rotate(90, expand=True).save(folder / "tall.png")
    image.resize((40, 30)).save(folder / "small.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    image.resize((40, 30)).save(folder / "turned.jpg", quality=95, exif=turned)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(rng.integers(0, 2, (90, 120), dtype=np.uint8) * 255))
    clear.save(folder / "clear.png")
    image.convert("L").save(folder / "grey.png")
    image.resize((600, 450)).save(folder / "large.jpg", quality=95)
    (folder / "broken.png").write_bytes(b"no picture")
    kinds = {".png": "image/png", ".jpg": "image/jpeg"}
    return {path.name: kinds[path.suffix] for path in folder.iterdir() if path.suffix in kinds}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """Serves a folder; gives its address, and what is posted."""
    posted: list[Any] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", posted
        server.shutdown()


def answers_in_chromium(page: Path, types: dict[str, str], profile: Path) -> dict[str, Any]:
    """What the page says of pictures in its folder that are dropped on it, by their name."""
    assert CHROMIUM is not None
    (page / "feed.js").write_text(f"const TYPES = {json.dumps(types)};{FEED}")
    html = (page / "index.html").read_text()
    feeding = html.replace("</body>", '<script src="feed.js"></script></body>')
    (page / "feeding.html").write_text(feeding)
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    with served(page) as (address, posted):
        browser = subprocess.Popen(
            [
                *(CHROMIUM, *options, f"--user-data-dir={profile}", "--enable-logging=stderr"),
                *("--disable-background-networking", f"{address}/feeding.html"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        waiting = threading.Event()
        for _ in range(1200):
            if posted or browser.poll() is not None:
                break
            waiting.wait(0.05)
        browser.terminate()
        stderr = browser.communicate()[1]
    assert posted, stderr
    refused = [line for line in stderr.splitlines() if "CONSOLE" in line and "Refused" in line]
    assert not refused
    result: dict[str, Any] = posted[0]
    return result


@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_answers_as_classify_does(channels: int, runtime: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page was not opened")
    final, page = final_in(tmp_path, channels), tmp_path / "page"
    made = web.write_web(final, "study <script>", page, runtime)
    assert made["model"] == "model.onnx" and made["bytes"] > 10_000_000
    types = pictures(page)
    answers = answers_in_chromium(page, types, tmp_path / "profile")
    module = nasdistill.load(final.folder)
    broken = answers.pop("broken.png")
    assert broken["bad"] and broken["state"].startswith("broken.png: ") and not broken["names"]
    for name, answer in answers.items():
        expected = nasdistill.classify(final.folder, page / name)
        with Image.open(page / name) as image:
            pixels = artifact.preparation_of(final.folder).pixels(image)
        with torch.inference_mode():
            logits = sorted(module(torch.from_numpy(pixels)[None])[0].tolist(), reverse=True)
        assert not answer["bad"] and expected[0][0] in answer["state"], name
        assert answer["names"] == [each for each, _ in expected], name
        # A JPEG that Pillow decodes at a quarter of its size is reduced by blocks here.
        allowed = 0.5 if name == "large.jpg" else 0.05
        assert answer["logits"] == pytest.approx(logits, abs=allowed), name
    assert set(answers) == set(types) - {"broken.png"}


def test_everything_on_the_page_is_escaped_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime" / "dist"
    runtime.mkdir(parents=True)
    for name in web.RUNTIME:
        (runtime / name).write_text(name)
    final = final_in(tmp_path, 1)
    runtime_files = web.find_runtime(tmp_path / "runtime", silent)
    web.write_web(final, "a <b> & c", tmp_path / "page", runtime_files)
    html = (tmp_path / "page" / "index.html").read_text()
    assert (
        "<h1>a &lt;b&gt; &amp; c</h1>" in html and "2.31k parameters, fp32, accuracy 87.5 %" in html
    )
    assert "http:" not in html and "https:" not in html and "default-src 'none'" in html
    assert (tmp_path / "page/model.onnx").read_bytes() == (final.folder / "model.onnx").read_bytes()
    (final.folder / "model-int8.onnx").write_bytes(b"int8")
    made = web.write_web(final, "int8", tmp_path / "second", runtime_files)
    assert made["model"] == "model-int8.onnx"
    assert (tmp_path / "second" / "model.onnx").read_bytes() == b"int8"
    with pytest.raises(UserError, match="second exists already"):
        web.write_web(final, "again", tmp_path / "second", runtime_files)
    assert not list(tmp_path.glob(".*.tmp"))


def test_what_is_missing_is_said_with_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no ort\.wasm\.min\.js.*npm pack onnxruntime-web@"):
        web.find_runtime(tmp_path, silent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="npm is not installed.*give --onnxruntime-web FOLDER"):
        web.find_runtime(None, silent)
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match=r"npm cannot fetch onnxruntime-web \(npm error network\)"):
        web.find_runtime(None, silent)
    npm.write_text('#!/bin/sh\necho other > "$4/onnxruntime-web.tgz"\n')
    with pytest.raises(UserError, match="another onnxruntime-web"):
        web.find_runtime(None, silent)
    assert not list((tmp_path / "cache" / "nasdistill").iterdir())


@pytest.mark.parametrize(
    ("size", "target"),
    [((100, 80), (28, 28)), ((20, 24), (28, 28)), ((401, 300), (64, 48)), ((40, 60), (30, 40))],
)
def test_pictures_are_resized_as_pillow_does(
    size: tuple[int, int], target: tuple[int, int], tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js on this machine: the page's code was not run")
    pixels = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    expected = ImageOps.fit(Image.fromarray(pixels), target, Image.Resampling.BILINEAR)
    image = {"width": size[0], "height": size[1], "planes": [pixels.ravel().tolist()]}
    code = (web.PAGE / "prepare.js").read_text()
    code += f"const made = fit({json.dumps(image)}, {target[0]}, {target[1]}).planes[0];"
    (tmp_path / "run.js").write_text(code + "console.log(JSON.stringify(Array.from(made)));")
    done = subprocess.run([node, tmp_path / "run.js"], capture_output=True, text=True, check=True)
    made = np.array(json.loads(done.stdout)).reshape(target[::-1])
    apart = np.abs(made - np.asarray(expected).astype(int))
    assert apart.max() <= 2 and (apart > 0).mean() < 0.02


def test_export_knows_the_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed are .*, web"):
        api.export("small/1", format="onnx-int9")
