"""Files of a study on a server that speaks S3. Skipped where its client or the server is missing.

Both come by: pip install s3fs 'moto[server]'
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_study import RECIPE, prepare

import nasdistill
from nasdistill.api import join
from nasdistill.common.errors import UserError
from nasdistill.common.shared_files import reach
from nasdistill.recipe import load_recipe
from nasdistill.study import Study
from nasdistill.trials.context import open_context
from nasdistill.trials.loop import run_trials
from nasdistill.trials.plugins import load_plugins

pytest.importorskip("s3fs", reason="no client of S3 is installed: pip install s3fs")
server = pytest.importorskip(
    "moto.server", reason="no server that speaks S3 is installed: pip install 'moto[server]'"
)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a folder in an empty bucket; FSSPEC_S3 says where it is, as for MinIO."""
    import fsspec

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    values = {"endpoint_url": f"http://{host}:{port}", "key": "me", "secret": "zz-secret"}
    monkeypatch.setitem(os.environ, "FSSPEC_S3", json.dumps(values))
    monkeypatch.setitem(fsspec.config.conf, "s3", values)  # which reads the variable when imported
    fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)  # the server forgets nothing
    yield "s3://bucket/studies"
    running.stop()


def test_trials_of_one_host_are_finished_by_another(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, storage = tmp_path / "one", tmp_path / "two", f"sqlite:///{tmp_path}/study.db"
    one.mkdir()
    two.mkdir()
    short = RECIPE.replace("trials: 7", "trials: 3").replace("top_k: 2", "top_k: 1")
    prepare(one, f"{short}storage: {storage}\nfiles: {bucket}\nexperience: false\n")
    (two / "blobs.npz").write_bytes((one / "blobs.npz").read_bytes())
    monkeypatch.chdir(one)
    recipe = load_recipe("recipe.yaml", {})
    study = Study.open(recipe, Path("studies"), "")
    context = open_context(study, load_plugins(recipe.import_file), lambda event: None)
    push = study.files.push

    class Died(BaseException):
        pass

    def push_and_die(path: Path, name: str | None = None) -> None:
        push(path, name)
        if path.name == "trunk.pt":
            raise Died

    monkeypatch.setattr(study.files, "push", push_and_die)
    with pytest.raises(Died):
        run_trials(context)
    (trunk,) = one.glob("studies/small/trials/*/trunk.pt")
    monkeypatch.chdir(two)
    (two / "tiny.yaml").write_bytes((one / "tiny.yaml").read_bytes())
    (two / "own.py").write_bytes((one / "own.py").read_bytes())
    there = Study.open(recipe, Path("studies"), "")
    taken = two / trunk.relative_to(one)
    assert there.files.fetch(taken) and torch.load(taken)["step"] == torch.load(trunk)["step"] > 0
    outcome = nasdistill.search(recipe)
    assert outcome.record.state == "complete" and len(outcome.record.finals) == 1
    assert not there.files.names(two / "studies/small/trials")
    monkeypatch.chdir(one)
    assert join("small", storage=storage, files=bucket)
    weights = "studies/small/finals/1/model.safetensors"
    assert (one / weights).read_bytes() == (two / weights).read_bytes()


def test_a_bucket_that_is_not_there_or_not_ones_own_is_one_message(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="^--files s3://nowhere/studies: cannot be used: .*bucket"):
        reach("s3://nowhere/studies")
    import s3fs

    async def denied(*_: object, **__: object) -> None:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "Put")

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", denied)
    with pytest.raises(UserError, match="cannot be used: .*Access Denied"):
        reach(bucket)
