"""Passwords in URLs, well-formed or not."""

from __future__ import annotations

import shlex

import pytest

from nasdistill.common.errors import UserError
from nasdistill.common.types import without_password
from nasdistill.recipe import load_recipe
from nasdistill.results import open_storage


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:zzqq@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:zz:qq@host/db", "postgresql+psycopg://me:***@host/db"),
        ("postgresql://me:zz@qq@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:zz/qq@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:zz qq@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:zz'o'r\"qq@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:zz?r#qq@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@firm:zzqq@host/db", "postgresql://me@firm:***@host/db"),
        ("redis://:zzqq@host", "redis://:***@host"),
        ("me:zzqq@host/db", "me:***@host/db"),
        ("//me:zzqq@host/db", "//me:***@host/db"),
        ("postgresql:me:zz/qq@host", "postgresql:me:***@host"),
        ("postgresql:/me:zzqq@host", "postgresql:/me:***@host"),
        ("postgresql://host/db?user=me&password=zzqq", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?Passwd=zzqq&x=1", "postgresql://host/db?Passwd=***&x=1"),
        ("host=h user=me password=zzqq", "host=h user=me password=***"),
    ],
)
def test_a_password_is_hidden_alone_and_in_a_command(url: str, masked: str) -> None:
    assert without_password(url) == masked
    assert without_password(masked) == masked, "what is hidden once stays so"
    command = without_password(
        shlex.join(["nasdistill", "search", "--storage", url, "--seed", "3"])
    )
    if "//" in url or "=" in url:
        assert "zz" not in command and "qq" not in command, command
    assert command.startswith("nasdistill search --storage ") and command.endswith(" --seed 3")


@pytest.mark.parametrize(
    "text",
    [
        "journal:logs/a@b:c@d.log",
        "sqlite:////data/at@home/study.db",
        "postgresql://host:5432/db",
        "nasdistill search --teacher timm:hf_hub:org/model@main --storage sqlite:///x.db",
        "timm:resnet50",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert without_password(text) == text


def test_an_at_sign_that_ends_a_password_early_is_refused_and_not_shown() -> None:
    """Its rest would be taken for the host, which drivers name in their errors."""
    with pytest.raises(UserError) as caught:
        load_recipe(None, {"storage": "postgresql://me:zz@qq@host/db"})
    message = str(caught.value)
    assert (
        message.startswith("--storage: found 'postgresql://me:***@host/db'; ") and "%40" in message
    )
    for good in ("postgresql://me:zz%40qq@host/db?options=a@b", "journal:a@b", "sqlite:///a@b@c"):
        assert load_recipe(None, {"storage": good}).storage == good


@pytest.mark.parametrize("url", ["me:zzqq@host/db", "postgresql:/me:zzqq@host", "x+y//me:zzqq@h"])
def test_a_url_that_cannot_be_opened_is_shown_without_it(url: str) -> None:
    with pytest.raises(UserError) as caught:
        open_storage(url)
    assert "zz" not in str(caught.value) and ":***@" in str(caught.value)
