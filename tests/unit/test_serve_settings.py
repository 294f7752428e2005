"""The service's settings: what is allowed, and that everything else is told by name in a line."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.errors import UserError
from rankdistill.export.serve.server import _is_loopback, serve
from rankdistill.export.serve.settings import Settings, Tokens

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def read(tmp_path, text: str, **overrides: object) -> Settings:
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return Settings.read(path, overrides)


def test_defaults_are_safe():
    settings = Settings.read(None, {})
    assert settings == Settings()
    assert _is_loopback(settings.host)
    assert not settings.log.requests
    assert not settings.log.texts


def test_what_is_written_is_what_counts_and_the_command_line_goes_before(tmp_path):
    text = "port: 9000\nthreads: 3\nlimits: {texts: 5, receive_s: 2}\nqueue: {policy: edf}\ntokens: {file: x}\n"
    settings = read(tmp_path, text, port=1, host=None)
    assert (settings.port, settings.threads, settings.host) == (1, 3, "127.0.0.1")
    assert settings.limits == dataclasses.replace(Settings().limits, texts=5, receive_s=2)
    assert settings.queue.policy == "edf"
    assert settings.tokens == Tokens(file="x")


def test_an_empty_file_is_the_defaults(tmp_path):
    assert read(tmp_path, "# nothing\n") == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ports: 1", "ports: no such option; there has host, port"),
        ("limits: {texts: 0}", "limits.texts is 0, not a whole number from 1"),
        ("limits: {textz: 1}", "limits.textz: no such option; limits has body_bytes"),
        ("limits: 3", "limits is 3, not a group of options"),
        ("queue: {policy: lifo}", "queue.policy is 'lifo'"),
        ("queue: {age_s: .nan}", "queue.age_s is nan"),
        ("queue: {deadline_ms: 0}", "(or null)"),
        ("port: 70000", "from 0 to 65535"),
        ("port: true", "port is True"),
        ("port: null", "port is None"),
        ("cache: {redis: 'http://x'}", "cache.redis is 'http://x'"),
        ("cache: {redis: 'redis://x', mb: 0}", "cache.redis needs cache.mb > 0"),
        ("cache: {mb: 0.001}", "cache.mb=0.001: 0 for none, or at least 0.01"),
        ("log: {texts: true}", "log.texts=true needs log.requests=true"),
        ("host: 'a b'", "host is 'a b'"),
        ("reload: {watch: 'http://['}", "reload.watch=http://[: no address: Invalid IPv6 URL"),
        ("reload: {watch: 'http://a:b/c'}", "reload.watch=http://a:b/c: no address: Port could not be cast"),
        ("reload: {watch: 'https:///c'}", "allowed is http(s)://HOST[:PORT]/PATH"),
        ("reload: {watch: 'http://a/b c'}", "allowed is http(s)://HOST[:PORT]/PATH"),
        ("reload: {watch: '/nowhere/else'}", "reload.watch=/nowhere/else: neither a folder"),
        ("[1]", "no settings"),
        ("a: [", "no YAML"),
    ],
)
def test_what_is_not_allowed_is_told_by_name(tmp_path, text, told):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert told in str(error.value)


def test_every_mistake_has_a_line(tmp_path):
    with pytest.raises(UserError) as error:
        read(tmp_path, "port: -1\nworkers: 0\nlimits: {texts: x}\n")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all("serve.yaml: " in line for line in lines)


@given(content=st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Settings)]), VALUES, max_size=4))
def test_any_file_is_settings_or_a_mistake(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "serve.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with contextlib.suppress(UserError):
        settings = Settings.read(path, {})
        assert 0 <= settings.port <= 65_535
        assert settings.workers >= 1


def test_tokens_come_from_the_variable_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKER_TOKENS", "a" * 16 + ", " + "b" * 20)
    (tmp_path / "tokens").write_text("# whose\n" + "c" * 16 + "\n\n", encoding="utf-8")
    assert Tokens(file=str(tmp_path / "tokens")).read() == ("a" * 16, "b" * 20, "c" * 16)
    monkeypatch.delenv("RANKER_TOKENS")
    assert Tokens().read() == ()


@pytest.mark.parametrize("content", ["short", "é" * 20, "", "a b" * 10])
def test_tokens_that_could_be_guessed_or_sent_by_nobody_are_refused_unprinted(tmp_path, monkeypatch, content):
    monkeypatch.delenv("RANKER_TOKENS", raising=False)
    (tmp_path / "tokens").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as error:
        Tokens(file=str(tmp_path / "tokens")).read()
    assert not content or content not in str(error.value)


def test_a_missing_file_of_tokens_is_told():
    with pytest.raises(UserError, match=r"/nowhere: No such file"):
        Tokens(file="/nowhere").read()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_an_open_address_without_tokens_is_refused_before_anything_is_opened(tmp_path, monkeypatch, host):
    monkeypatch.delenv("RANKER_TOKENS", raising=False)
    with pytest.raises(UserError, match=f"host={host} is open to other machines"):
        serve(tmp_path / "no bundle", Settings(host=host), print)


def test_the_settings_that_the_documentation_shows_are_the_defaults_and_all_of_them():
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert shown == dataclasses.asdict(Settings())
