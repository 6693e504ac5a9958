"""Weights whose publisher gives no hash: what arrives must look like weights, and stays what it was at the first good load."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from narrow import resnet18, use_narrow

from retrieval.describe.model import load_model
from retrieval.errors import DownloadError, ModelError
from retrieval.models import registry
from retrieval.models.backbones import read_published
from retrieval.models.loading import build_network
from retrieval.models.weights import checked_digest, download_weights, weights_file

PORTAL = b"\n<!DOCTYPE html>\n<html><body>Please accept the terms of the airport's network</body></html>" * 8_000


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    torch.manual_seed(0)
    state = resnet18().state_dict()
    files = {}
    for name, modern in (("zip", True), ("flat", False)):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=modern)
        files[name] = buffer.getvalue()
    from safetensors.torch import save

    files["safetensors"] = save(dict(state))
    return files


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: dict[str, bytes]) -> Path:
    """Where ResNet-18's file lies, a narrow one's; its publisher gives no hash."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    use_narrow(monkeypatch, sha256="", megabytes=len(published["zip"]) / 1e6)
    path = weights_file(registry.BACKBONES["resnet18"].weights)
    path.parent.mkdir(parents=True)
    return path


def refusal() -> str:
    with pytest.raises(ModelError) as caught:
        build_network(load_model("resnet18-gem").spec)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (PORTAL, "a web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"", "empty file"),
        (bytes(730_000), "no file of weights"),
        (b"PK\3\4" + bytes(1000), "MB instead of about 1"),
        (b"PK\3\4" + bytes(1_600_000), "MB instead of about 1"),
    ],
)
def test_what_is_no_file_of_weights_is_never_the_model(content: bytes, said: str, here: Path) -> None:
    here.write_bytes(content)
    text = refusal()
    assert said in text
    assert f"Delete {here}" in text
    assert not here.with_name(f"{here.name}.sha256").exists()


@pytest.mark.parametrize("kind", ["zip", "flat", "safetensors"])
def test_the_hash_is_noted_at_the_first_good_load_and_holds_from_then_on(
    kind: str, here: Path, published: dict[str, bytes]
) -> None:
    here.write_bytes(published[kind])
    spec = load_model("resnet18-gem").spec
    note = here.with_name(f"{here.name}.sha256")
    assert not note.exists()  # it was looked at, not loaded
    build_network(spec)
    assert note.read_text().split()[0] == hashlib.sha256(published[kind]).hexdigest() == spec.weights.sha256
    build_network(load_model("resnet18-gem").spec)
    changed = bytearray(published[kind])
    changed[len(changed) // 2] ^= 1
    here.write_bytes(changed)
    text = refusal()
    assert "when it was first loaded" in text
    assert f"Delete {here} and {note.name} beside it" in text
    for damage in (b"", b"nonsense", b"\xff\xfe"):  # a note that says nothing is no note
        note.write_bytes(damage)
        here.write_bytes(published[kind])
        build_network(load_model("resnet18-gem").spec)


def test_tensors_of_another_network_are_refused_and_not_noted(here: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"layer.weight": torch.zeros(185_000)}, buffer)
    here.write_bytes(buffer.getvalue())
    text = refusal()
    assert f"{here}: these weights do not fit resnet18" in text
    assert f"Delete {here}" in text
    assert not here.with_name(f"{here.name}.sha256").exists()


def test_torch_s_advice_to_run_what_is_in_a_file_is_not_passed_on(here: Path, published: dict[str, bytes]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return print, ("ran",)

    buffer = io.BytesIO()
    torch.save({"a": Evil(), "fill": torch.zeros(185_000)}, buffer)
    for content in (
        buffer.getvalue(),
        published["zip"][:-40_000] + bytes(40_000),
        b"\x80\x02\x8a\x0a" + bytes(730_000),
    ):
        here.write_bytes(content)
        text = refusal()
        assert "weights_only" not in text
        assert "trust" not in text
        assert f"Delete {here}" in text
        with pytest.raises(ModelError) as caught:
            read_published(str(here))
        assert "weights_only" not in str(caught.value)


def test_a_portal_s_page_does_not_get_the_file_s_name(
    here: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = registry.BACKBONES["resnet18"].weights
    sent = [PORTAL, published["zip"]]

    def fetch(url: str, path: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        Path(path).write_bytes(sent.pop(0))

    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    with pytest.raises(DownloadError, match="a web page"):
        download_weights(weights)
    assert list(here.parent.iterdir()) == []
    note = here.with_name(f"{here.name}.sha256")
    note.write_text("0" * 64)  # of a file that was deleted, and its note was not
    assert download_weights(weights) == here
    assert not note.exists()
    checked_digest(weights, here)


def test_files_with_a_published_hash_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = registry.BACKBONES["resnet18"].weights
    path = weights_file(weights)
    path.parent.mkdir(parents=True)
    path.write_bytes(PORTAL)
    with pytest.raises(ModelError, match="is not f37072fd") as caught:
        checked_digest(weights, path)
    assert "a web page" in str(caught.value)
    assert f"Delete {path}" in str(caught.value)


def test_a_folder_that_cannot_be_written_to_costs_the_note_alone(
    here: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write_bytes(published["zip"])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("retrieval.models.weights.write_whole", refuse)
    build_network(load_model("resnet18-gem").spec)
