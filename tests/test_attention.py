"""Where a vision transformer looks: softmax(q k^T / sqrt(d)) of the class token, by NumPy and by torch's own attention."""

from __future__ import annotations

import base64
import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from textures import texture, write_textures

from retrieval import Gallery, UsageError, load_model
from retrieval.cli.main import cli
from retrieval.describe.attention import has_attention
from retrieval.describe.explain import Explainer
from retrieval.gallery.explaining import Explaining
from retrieval.models.backbones import fit_to_patches


def picture(number: int = 0, size: tuple[int, int] = (120, 90)) -> np.ndarray:
    return texture(number, size)


def entering(explainer: Explainer, pixels: np.ndarray, block: Any) -> torch.Tensor:
    """What the last block is given."""
    seen = []
    handle = block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        explainer.network.features(explainer.describer.normalised(torch.from_numpy(pixels[None].copy())))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["deit_tiny-cls", "deit_tiny-mean", "dinov2_vits14-cls", "dinov2_vits14_reg4-cls"])
def test_it_is_softmax_of_products_by_numpy(name: str) -> None:
    explainer = Explainer(load_model(f"{name}@random:3", size=112, engine="torch"))
    pixels = picture()
    block = explainer.network.backbone.body.blocks[-1]
    with torch.no_grad():
        x = block.norm1(entering(explainer, pixels, block))[0].double().numpy()
    heads, dim = block.attn.num_heads, x.shape[1]
    d = dim // heads
    weight, bias = (getattr(block.attn.qkv, part).detach().double().numpy() for part in ("weight", "bias"))
    expected = np.zeros((heads, len(x)))
    for head in range(heads):
        rows = slice(head * d, (head + 1) * d)
        query = weight[:dim][rows] @ x[0] + bias[:dim][rows]
        scores = np.array([query @ (weight[dim : 2 * dim][rows] @ token + bias[dim : 2 * dim][rows]) for token in x])
        powers = np.exp(scores / np.sqrt(d) - (scores / np.sqrt(d)).max())
        expected[head] = powers / powers.sum()
    seen = explainer.see(pixels)
    assert seen.attention is not None
    rows, columns = seen.grids[0]
    fitted = fit_to_patches(torch.zeros(1, 3, *pixels.shape[:2]), explainer.network.backbone.info.stride)
    assert (rows, columns) == tuple(side // explainer.network.backbone.info.stride for side in fitted.shape[2:])
    prefix = explainer.network.backbone.info.prefix
    assert len(x) == prefix + rows * columns
    assert np.allclose(seen.attention, expected[:, prefix:].reshape(heads, rows, columns), atol=1e-6)
    assert (seen.attention.sum(axis=(1, 2)) < 1).all()


def test_it_is_what_torchs_own_attention_gives() -> None:
    explainer = Explainer(load_model("vit_b_32-cls@random:2", size=160, engine="torch"))
    pixels = picture(size=(160, 128))
    block = explainer.network.backbone.body.encoder.layers[-1]
    with torch.no_grad():
        x = block.ln_1(entering(explainer, pixels, block))
        own = block.self_attention(x, x, x, need_weights=True, average_attn_weights=False)[1][0, :, 0]
    seen = explainer.see(pixels)
    assert seen.attention is not None
    assert np.allclose(seen.attention.reshape(len(own), -1), own[:, 1:].numpy(), atol=1e-6)


def test_watching_changes_nothing() -> None:
    model = load_model("deit_tiny-cls@random:1", size=96, engine="torch")
    explainer = Explainer(model)
    pixels = picture(size=(96, 96))
    before = model.engine().describe(pixels[None])[0]
    seen = explainer.see(pixels)
    assert np.allclose(seen.descriptor.numpy(), before, atol=1e-5)
    assert not explainer.network.backbone.body.blocks[-1].attn._forward_pre_hooks
    found = explainer.explain(seen, explainer.see(picture(1, (96, 96))))
    assert found.first is None
    assert found.attentions is not None
    both = model.engine().describe(np.stack([pixels, picture(1, (96, 96))]))
    assert found.cosine == pytest.approx(float(both[0] @ both[1]), abs=1e-5)


def test_galleries_described_with_openvino_are_explained_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", functools.partial(timm.create_model, depth=2))  # of twelve blocks
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path / "cache"))
    write_textures(tmp_path / "photos", 3)
    model = load_model("deit_tiny-cls@random:0", size=96, engine="openvino")
    with Gallery.create(tmp_path / ".retrieval", model, local=False) as gallery:
        gallery.index([tmp_path / "photos"])
        match = gallery.query(tmp_path / "photos" / "0001.png", k=3).matches[2]
        explaining = Explaining(gallery)
        why = explaining.explain(tmp_path / "photos" / "0001.png", match.id)
        assert why.cosine == pytest.approx(match.score, abs=2e-3)
        assert why.attention is not None
        assert why.attention.shape[0] == 3
        # The query is looked at once for all its answers.
        seen: list[Any] = []
        explainer = explaining.pairs.prepare()
        see = explainer.see
        explainer.see = lambda picture: (seen.append(picture), see(picture))[1]  # type: ignore[method-assign]
        again = [explaining.explain(tmp_path / "photos" / "0001.png", number) for number in (match.id, 1, 2)]
        assert len(seen) == 3
        assert again[0].cosine == why.cosine
        explaining.explain(tmp_path / "photos" / "0002.png", match.id)
        assert len(seen) == 5


def test_of_several_scales_the_largest_is_told() -> None:
    one = Explainer(load_model("deit_tiny-mean@random:1", size=112, engine="torch"))
    two = Explainer(load_model("deit_tiny-mean@random:1", size=112, scales=(0.5, 1.0), engine="torch"))
    expected, found = one.see(picture()).attention, two.see(picture()).attention
    assert expected is not None
    assert found is not None
    assert np.allclose(found, expected)


def test_who_has_none() -> None:
    assert not has_attention(Explainer(load_model("resnet18-gem@random:0", size=64, engine="torch")).network.backbone)
    merged = Explainer(load_model("deit_tiny-mean@random:0", size=112, tokens="42%", engine="torch"))
    assert merged.see(picture()).attention is None
    with pytest.raises(UsageError, match="merges tokens"):
        Explainer(load_model("deit_tiny-cls@random:0", size=112, tokens="42%", engine="torch"))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention")
    write_textures(folder / "photos", 4)
    model = load_model("deit_tiny-cls@random:0", size=96, engine="torch")
    with Gallery.create(folder / ".retrieval", model, local=False) as gallery:
        gallery.index([folder / "photos"])
    return folder


def test_the_page_of_query_shows_it(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out = str(album / "photos" / "0002.png"), album / "why.html"
    arguments = ["query", photo, "--index", str(album / ".retrieval"), "-k", "2", "--engine", "torch"]
    assert cli.main([*arguments, "--explain", str(out)], standalone_mode=False) in (0, None)
    page = out.read_text()
    assert page.count("<article>") == 2
    assert "the class token's attention in the last block, mean of 3 heads" in page
    assert "is no sum over places" in page
    assert page.count('alt="Attention of the') == 4
    hot, plain = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), float)
        for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)[:2]
    )
    assert np.abs(hot - plain).mean() > 5


def test_the_api_tells_it(album: Path) -> None:
    pytest.importorskip("fastapi", reason="the page needs the extra [web]")
    from web_album import asked

    with Gallery.open(album / ".retrieval", engine="torch") as gallery, asked([gallery]) as client:
        listed = client.get("/api/images").json()["pictures"]
        first, second = listed[0]["id"], listed[1]["id"]
        found = client.get("/api/heatmap", params={"id": second, "query": first, "heads": True}).json()
        explainer = Explainer(gallery.model)
        files = [client.get(f"/api/images/{number}").json()["file"] for number in (first, second)]
        for which, file in zip(("query", "picture"), files, strict=True):
            expected = explainer.see(gallery.model.load(file)).attention
            assert expected is not None
            told = found["attention"][which]
            assert (told["heads"], told["rows"], told["columns"]) == expected.shape
            assert np.allclose(told["of_heads"], expected, atol=1e-6)
            assert np.allclose(told["mean"], expected.mean(axis=0), atol=1e-6)
        assert (found["query"], found["picture"], found["points"]) == (None, None, None)
        sent = client.post("/api/heatmap", params={"id": second}, content=Path(files[0]).read_bytes()).json()
        assert sent["attention"]["query"]["mean"] == found["attention"]["query"]["mean"]
        assert sent["attention"]["query"]["of_heads"] is None
