"""Token Pooling in torchvision's and timm's vision transformers: identity, a run by hand, costs, schedules."""

import pytest
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models import resnet18

from retrieval.errors import UsageError
from retrieval.pooling import TokenPooledViT, reduce_tokens
from retrieval.pooling.reduction import METHODS
from retrieval.pooling.token_counts import SCHEDULES, schedule_from_keep_rate, schedule_linear

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def torchvision_vit() -> nn.Module:
    model = TorchvisionViT(
        image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=96, num_classes=5
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
    return model


MODELS = {
    "torchvision": torchvision_vit,
    "timm": lambda: TimmViT(**SMALL),
    "timm-registers": lambda: TimmViT(**SMALL, reg_tokens=2, qk_norm=True, init_values=0.1),
    "timm-average": lambda: TimmViT(**SMALL, class_token=False, global_pool="avg"),
    "timm-distilled": lambda: VisionTransformerDistilled(**SMALL),
}
every_model = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:  # attention that is not uniform
                parameter.mul_(4)
    return model


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def token_count(model: nn.Module) -> int:
    return 16 + getattr(model, "num_prefix_tokens", 1)


def attention_of(block: nn.Module, x: Tensor) -> Tensor:
    """What each token receives, ``(B, N)``: softmax of the products, one head at a time."""
    if hasattr(block, "self_attention"):
        h, heads = block.ln_1(x), block.self_attention.num_heads
        q, k, _ = (h @ block.self_attention.in_proj_weight.T + block.self_attention.in_proj_bias).chunk(3, -1)
        q_norm = k_norm = nn.Identity()
    else:
        h, heads = block.norm1(x), block.attn.num_heads
        q, k, _ = block.attn.qkv(h).chunk(3, -1)
        q_norm, k_norm = block.attn.q_norm, block.attn.k_norm
    received = 0
    for q_head, k_head in zip(q.chunk(heads, -1), k.chunk(heads, -1), strict=True):
        products = q_norm(q_head) @ k_norm(k_head).transpose(1, 2) / q_head.shape[-1] ** 0.5
        received = received + products.softmax(-1).mean(1) / heads
    return received


def written_out(tokens: Tensor, owners: Tensor) -> Tensor:
    """Each token as often as it is named: ``(B, K, D)`` and ``(B, N)`` -> ``(B, N, D)``."""
    return tokens.gather(1, owners[..., None].expand(-1, -1, tokens.shape[2]))


def by_hand(
    model: nn.Module, x: Tensor, keep: list[int | None], method: str, copies: bool = False
) -> tuple[Tensor, Tensor]:
    """The model block by block with a reduction after each: final tokens and output. With ``copies`` each token is
    written out as often as it counts.
    """
    prefix = getattr(model, "num_prefix_tokens", 1)
    if hasattr(model, "encoder"):
        x = model._process_input(x)
        x = torch.cat([model.class_token.expand(len(x), -1, -1), x], 1) + model.encoder.pos_embedding
        blocks = model.encoder.layers
    else:
        x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        blocks = model.blocks
    for block, k in zip(blocks, keep, strict=True):
        significance = attention_of(block, x)
        torch.testing.assert_close(significance.sum(1), torch.ones(len(x)))
        x = block(x)
        if k is not None:
            reduced = reduce_tokens(x, k, method, significance, prefix=prefix)
            x = written_out(reduced.tokens, reduced.assignment) if copies else reduced.tokens
    if hasattr(model, "encoder"):
        x = model.encoder.ln(x)
        return x, model.heads(x[:, 0])
    x = model.norm(x)
    return x, model.forward_head(x)


@every_model
@torch.no_grad()
def test_keeping_all_tokens_changes_nothing(name):
    model, x = build(name), images()
    expected = model(x)
    n = token_count(model)
    for keep in ([n] * 3, [None] * 3, [None, n, None]):
        torch.testing.assert_close(TokenPooledViT(model, keep)(x), expected, rtol=1e-5, atol=1e-5)


@every_model
@pytest.mark.parametrize("method", ["weighted-kmedoids", "kmeans", "topk"])
@torch.no_grad()
def test_blocks_and_reductions_by_hand(name, method):
    model, x = build(name), images()
    for keep in ([12, 9, 5], [None, 8, None]):
        pooled = TokenPooledViT(model, keep, method, proportional=False)
        tokens, output = by_hand(model, x, keep, method)
        torch.testing.assert_close(pooled(x), output, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pooled.tokens(x), tokens, rtol=1e-4, atol=1e-4)


@every_model
@pytest.mark.parametrize("keep", [[9, None, None], [None, 9, None]])
@torch.no_grad()
def test_a_token_attends_as_the_copies_it_stands_for(name, keep):
    model, x = build(name), images()
    pooled = TokenPooledViT(model, keep, "kmeans")
    copies, output = by_hand(model, x, keep, "kmeans", copies=True)
    assert copies.shape[1] == token_count(model)
    torch.testing.assert_close(written_out(pooled.tokens(x), pooled.clusters(x)), copies, rtol=1e-4, atol=1e-4)
    if name != "timm-average":  # an average over 9 tokens is not that over 16
        torch.testing.assert_close(pooled(x), output, rtol=1e-4, atol=1e-4)
    assert (TokenPooledViT(model, keep, "kmeans", proportional=False)(x) - output).abs().max() > 1e-3


@torch.no_grad()
def test_sizes_add_up_over_reductions():
    """Sixteen equal patches, averaged to four and then to one, give what the model gives without reduction."""
    model = build("timm")
    model.pos_embed[:, 1:] = 0
    x = images(1)[:, :, :8, :8].repeat(1, 1, 4, 4)
    torch.testing.assert_close(TokenPooledViT(model, [5, 2, None], "grid")(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(TokenPooledViT(model, [5, 5, None], "grid")(x), model(x), rtol=1e-4, atol=1e-5)
    assert (TokenPooledViT(model, [5, 2, None], "grid", proportional=False)(x) - model(x)).abs().max() > 1e-3


@every_model
@torch.no_grad()
def test_the_wrapped_model_stays_as_it_is(name):
    model, x = build(name), images()
    before, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    pooled = TokenPooledViT(model, [10, 8, 6])
    assert not torch.allclose(pooled(x), before)
    assert torch.equal(model(x), before)
    with pytest.raises(RuntimeError):
        pooled(x[:, :2])  # a failure leaves no hook behind
    assert torch.equal(model(x), before)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert list(pooled.state_dict()) == [f"vit.{key}" for key in state]


@every_model
@torch.no_grad()
def test_every_method_runs(name):
    model, x = build(name), images()
    prefix = token_count(model) - 16
    for method in METHODS:
        keep = [prefix + 4, None, prefix + 1] if method == "grid" else [12, 9, 5]
        out = TokenPooledViT(model, keep, method, generator=torch.Generator().manual_seed(0))(x)
        assert out.shape == model(x).shape
        assert out.isfinite().all()


@every_model
@torch.no_grad()
def test_clusters_follow_tokens_through_the_model(name):
    model, x = build(name), images(3)
    prefix = token_count(model) - 16
    pooled = TokenPooledViT(model, [12, None, 6])
    clusters = pooled.clusters(x)
    assert clusters.shape == (3, 16 + prefix)
    assert clusters[0, :prefix].tolist() == list(range(prefix))
    assert int(clusters[:, prefix:].min()) == prefix
    assert [len(row.unique()) for row in clusters] == [6] * 3
    assert TokenPooledViT(model, [None] * 3).clusters(x)[0].tolist() == list(range(16 + prefix))


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_it_trains(name):
    model = build(name).train()
    TokenPooledViT(model, [12, 9, 5])(images()).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert any((p.grad != 0).any() for p in model.parameters())


@every_model
def test_cost_by_the_closed_form(name):
    model = build(name)
    prefix, heads = token_count(model) - 16, 2 if name == "timm-distilled" else 1

    def block(n: int) -> int:  # qkv, output, two layers of four times the width: 12 D^2; Q K^T and its product with V
        return 12 * 24 * 24 * n + 2 * n * n * 24

    def medoids(n: int, body: int) -> int:  # all distances, one round of their sums, averages; Q K^T again for timm's
        return body * body * 24 + body * body + body * 24 + (0 if name == "torchvision" else n * n * 24)

    fixed = 16 * 3 * 8 * 8 * 24 + heads * 24 * 5
    pooled = TokenPooledViT(model, [12, 9, None], iterations=1)
    assert pooled.flops_unpooled().total == fixed + 3 * block(16 + prefix)
    assert pooled.flops().network == fixed + block(16 + prefix) + block(12) + block(9)
    assert pooled.flops().clustering == (medoids(16 + prefix, 16), medoids(12, 12 - prefix), 0)


@every_model
def test_cost_is_what_the_layers_do(name):
    """Multiplications of the layers as they run, from the shapes that reach them: no library's counter is asked."""
    model, x = build(name), images(1)
    pooled = TokenPooledViT(model, [12, 9, None], iterations=1)
    done = 0

    def linear(layer: nn.Linear, args: tuple[Tensor], _: Tensor) -> None:
        nonlocal done
        done += layer.weight.numel() * args[0].numel() // args[0].shape[-1]

    def convolution(layer: nn.Conv2d, _: tuple[Tensor], out: Tensor) -> None:
        nonlocal done
        done += layer.weight.numel() * out.shape[-1] * out.shape[-2]

    def attention(layer: nn.Module, args: tuple[Tensor, ...], _: object) -> None:
        nonlocal done
        n = args[0].shape[1]
        done += 2 * n * n * 24
        if isinstance(layer, nn.MultiheadAttention):  # its linear layers are never called as such
            done += (layer.in_proj_weight.numel() + layer.out_proj.weight.numel()) * n

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) or type(module).__name__ == "Attention":
            module.register_forward_hook(attention)
        elif isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    model(x)
    assert done == pooled.flops_unpooled().network
    done = 0
    pooled(x)
    assert done == pooled.flops().network


def full_size(name: str, schedule: list[int | None] | tuple[int | None, ...]) -> TokenPooledViT:
    with torch.device("meta"):
        return TokenPooledViT(timm.create_model(name), schedule)


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [
        ("deit_tiny_patch16_224", 1.26e9, 0.01e9),
        ("deit_small_patch16_224", 4.6e9, 0.01e9),
        ("deit_base_patch16_224", 17.6e9, 0.05e9),
    ],
)
def test_cost_of_deit_is_the_published_one(name, published, tolerance):
    model = full_size(name, [None] * 12)
    flops = model.flops()
    assert flops.total == flops.network == pytest.approx(published, abs=tolerance)
    assert flops == model.flops_unpooled()
    # 12 D^2 N + 2 N^2 D a block.
    d = model.vit.embed_dim
    assert flops.blocks == (12 * d * d * 197 + 2 * 197 * 197 * d,) * 12
    assert flops.patch_embedding == 196 * 768 * d
    assert flops.head == 1000 * d


@pytest.mark.parametrize(
    ("name", "schedule"), [("deit_tiny_patch16_224", "deit-ti-42"), ("deit_small_patch16_224", "deit-s-42")]
)
def test_named_schedules_save_42_percent(name, schedule):
    model = full_size(name, SCHEDULES[schedule])
    reduced, full = model.flops(), model.flops_unpooled()
    assert 0.42 <= 1 - reduced.network / full.network < 0.425
    assert sum(reduced.clustering) < 0.07 * full.network
    assert 0.35 < 1 - reduced.total / full.total < 0.40
    assert list(reduced.blocks) == sorted(reduced.blocks, reverse=True)


def test_attention_is_a_small_part_of_the_cost():
    # The paper's reason for fewer tokens rather than cheaper attention: over 80 % is spent in linear layers.
    model = full_size("deit_small_patch16_224", [None] * 12)
    attention = 12 * 2 * 197 * 197 * 384
    assert attention / model.flops().network < 0.15


def test_cost_at_another_size():
    model = full_size("deit_small_patch16_224", schedule_linear(12, 577, 100))
    flops = model.flops(patches=576)
    assert flops.patch_embedding == 576 * 768 * 384
    assert flops.blocks[0] == 12 * 384**2 * 577 + 2 * 577**2 * 384


def test_linear_schedule():
    assert schedule_linear(5, 197, 37) == [157, 117, 77, 37, None]
    assert schedule_linear(1, 197, 197) == [None]
    assert schedule_linear(3, 50, 50) == [50, 50, None]
    assert SCHEDULES["deit-s-42"][:3] == (182, 167, 153)


def test_keep_rate_schedule():
    assert schedule_from_keep_rate(12, 197, 0.7, after=[3, 6, 9]) == [
        *[None] * 3, 139, *[None] * 2, 98, *[None] * 2, 69, *[None] * 2
    ]  # fmt: skip
    assert schedule_from_keep_rate(3, 17, 0.5) == [9, 5, None]
    assert schedule_from_keep_rate(2, 102, 0.07, prefix=2) == [9, None]
    assert schedule_from_keep_rate(2, 17, 1.0) == [17, None]


def test_repr_names_the_schedule():
    text = repr(TokenPooledViT(build("timm"), [12, None, 5], "kmeans"))
    assert "keep=[12, None, 5], method='kmeans', iterations=5" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenPooledViT(resnet18(), []), "ResNet is not a vision transformer"),
        (lambda: TokenPooledViT(build("timm"), [12, 9]), "2 entries, the model 3 blocks"),
        (lambda: TokenPooledViT(build("timm"), [9, 12, 5]), "must not grow"),
        (lambda: TokenPooledViT(build("timm-registers"), [9, 5, 3]), "leave none beside the 3"),
        (lambda: TokenPooledViT(build("timm"), [9, 5, 0]), "token count"),
        (lambda: TokenPooledViT(build("timm"), [9, 5, 4], "mean"), "method"),
        (lambda: TokenPooledViT(build("timm"), [18, 5, 4])(images()), "cannot reduce 17 tokens to 18"),
        (lambda: schedule_linear(12, 197, 198), "between 1 and the 197"),
        (lambda: schedule_from_keep_rate(12, 197, 0.0), "rate"),
        (lambda: schedule_from_keep_rate(12, 197, 0.5, after=[12]), "blocks from 0 to 11"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(UsageError, match=message):
        call()
