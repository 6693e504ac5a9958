"""Every registered pooling: what the registry says of it is true, and it trains, saves, compiles and exports."""

import copy
import importlib
import inspect
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import retrieval.pooling
from retrieval.errors import UsageError
from retrieval.pooling import Pooling, PoolingInfo, create_pooling, list_poolings, pooling_info

DIM = 8
INFOS = list_poolings()
every = pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)


def features(info: PoolingInfo, dtype: torch.dtype = torch.float32, batch: int = 2) -> Tensor:
    torch.manual_seed(11)
    shape = (batch, DIM, 5, 6) if info.kind == "map" else (batch, 7, DIM)
    return (torch.rand(shape, dtype=torch.float64) + 0.1).to(dtype)


# Graphs of fewer regions are the same graphs, and are traced in a third of the time.
FEWER = {"rmac": {"levels": 2}, "rgem": {"levels": 2}, "spp": {"levels": (1, 2)}}


def module(info: PoolingInfo, **parameters: object) -> Pooling:
    """The pooling with weights off their starting point."""
    torch.manual_seed(12)
    pool = create_pooling(info.name, dim=DIM, **parameters)
    with torch.no_grad():
        for name, parameter in pool.named_parameters():
            if name.split(".")[-1] == "p":
                parameter.add_(0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return pool.eval()


def test_listing_loads_no_torch():
    code = (
        "import sys, retrieval.pooling as p; p.list_poolings(); p.pooling_info('mac'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_are_unique_and_complete():
    names = [name for info in INFOS for name in (info.name, *info.aliases)]
    assert len(names) == len(set(names))
    assert {
        *("max", "mac", "avg", "spoc", "gap", "gem", "gem-channel", "grid-avg", "grid-max", "spp", "rmac", "rgem"),
        *("cls", "mean", "token-max", "last", "attention", "pma", "gated", "token-gem", "cls-mean"),
    } <= set(names)
    assert pooling_info("spoc") is pooling_info("avg")


@every
def test_parameters_are_those_of_the_signature(info):
    module_name, _, attribute = info.target.partition(":")
    target = getattr(importlib.import_module(f"retrieval.pooling.{module_name}"), attribute)
    parameters = inspect.signature(target).parameters.values()
    signature = {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert ("dim" in signature) == info.needs_dim
    signature.pop("dim", None)
    assert signature == dict(info.parameters)
    assert inspect.getdoc(target)


@every
def test_kind_out_dim_and_repr(info):
    pool = module(info)
    out = pool(features(info))
    assert pool.kind == info.kind
    assert out.shape == (2, pool.out_dim(DIM))
    assert out.dtype == torch.float32
    assert type(pool).__name__ in repr(pool)
    for key in {"p", "prefix", "levels", "size", "window"} & set(info.parameters):
        assert f"{key}=" in repr(pool) or (info.name, key) == ("spp", "p")  # whose default mode has no p


@every
def test_documented(info):
    documentation = inspect.getdoc(type(create_pooling(info.name, dim=DIM)))
    assert documentation is not None
    for word in ("Gradient:", "Use it", "Source:"):
        assert word in documentation


@every
def test_state_dict_round_trip(info, tmp_path):
    pool = module(info)
    torch.save(pool.state_dict(), tmp_path / "pool.pt")
    fresh = create_pooling(info.name, dim=DIM).eval()
    fresh.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert torch.equal(fresh(features(info)), pool(features(info)))


@every
def test_copies_and_pickles(info):
    pool, x = module(info), features(info)
    assert torch.equal(copy.deepcopy(pool)(x), pool(x))
    assert torch.equal(pickle.loads(pickle.dumps(pool))(x), pool(x))


@every
def test_gradients_against_finite_differences(info):
    pool = module(info).double()
    names, values = zip(*pool.named_parameters(), strict=True) if list(pool.parameters()) else ((), ())
    x = features(info, torch.float64).requires_grad_()

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(pool, dict(zip(names, parameters, strict=True)), (x,))

    # A few random directions instead of every entry.
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 6e4])
def test_half_precision(info, dtype, scale):
    pool = module(info)
    x = (features(info) * scale).clamp(max=6e4).to(dtype)
    expected = pool(x.float())
    assert expected.isfinite().all()
    got = pool(x.requires_grad_())
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    got.sum().backward()
    assert x.grad is not None
    with torch.autocast("cpu", dtype=dtype):
        torch.testing.assert_close(pool(x), expected)
    if scale == 1.0:
        assert x.grad.isfinite().all()
        half = pool.to(dtype)(x)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=0.05, atol=0.05)


@every
@pytest.mark.parametrize("change", [(0,), (-1,), (1,)])
def test_empty_features(info, change):
    x = features(info)
    with pytest.raises(UsageError, match="empty"):
        create_pooling(info.name, dim=DIM)(x.narrow(change[0], 0, 0))


@every
def test_wrong_rank_and_type(info):
    pool = create_pooling(info.name, dim=DIM)
    with pytest.raises(UsageError, match=r"takes a (feature map|token sequence)"):
        pool(features(info)[0])
    with pytest.raises(UsageError, match="floating-point"):
        pool(features(info).int())


def test_unknown_names_and_parameters():
    with pytest.raises(UsageError, match=r"Did you mean gem.*There are: gem, gem-channel"):
        create_pooling("gemm")
    with pytest.raises(UsageError, match=r"gem has no parameter 'q'. Its parameters: p=3.0, learn_p=True"):
        create_pooling("gem", q=3)
    with pytest.raises(UsageError, match="Its parameters: none"):
        create_pooling("max", p=3)
    with pytest.raises(UsageError, match="Pass dim="):
        create_pooling("pma")


def test_lazy_names():
    for name in retrieval.pooling.__all__:
        assert getattr(retrieval.pooling, name) is not None
    with pytest.raises(AttributeError):
        _ = retrieval.pooling.nothing


class Together(nn.Module):
    """All poolings of a kind on the same features: traced at once, which takes a fraction of the time of each alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.infos = [info for info in INFOS if info.kind == kind]
        self.pools = nn.ModuleList(module(info, **FEWER.get(info.name, {})) for info in self.infos)

    def forward(self, x: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        return tuple(pool(x, *mask) for pool in self.pools)

    def assert_given(
        self, outputs: Sequence[Tensor], x: Tensor, *mask: Tensor, rtol: float = 1.3e-6, atol: float = 1e-5
    ) -> None:
        """Each output is what its pooling gives by itself."""
        for info, pool, out in zip(self.infos, self.pools, outputs, strict=True):
            torch.testing.assert_close(
                torch.as_tensor(out), pool(x, *mask), rtol=rtol, atol=atol, msg=lambda m, n=info.name: f"{n}: {m}"
            )


@pytest.fixture(scope="module", params=["map", "tokens"])
def together(request):
    pools = Together(request.param).eval()
    return pools, features(pools.infos[0])


@pytest.fixture(scope="module")
def exported(together):
    pools, x = together
    return torch.export.export(pools, (x,))


def test_export(together, exported):
    pools, x = together
    pools.assert_given(exported.module()(x), x)
    if pools.infos[0].kind == "tokens":
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        mask[0, 4:] = False
        pools.assert_given(torch.export.export(pools, (x, mask)).module()(x, mask), x, mask)


@pytest.mark.parametrize("name", ["gem", "gem-channel", "avg", "max"])
def test_export_with_any_size(name):
    pool = create_pooling(name, dim=DIM)
    batch, height, width = (torch.export.Dim(axis, min=2, max=64) for axis in ("batch", "height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    exported = torch.export.export(pool, (torch.rand(2, DIM, 5, 6),), dynamic_shapes=shapes).module()
    x = torch.rand(3, DIM, 9, 4)
    torch.testing.assert_close(exported(x), pool(x))


@pytest.mark.slow
def test_graph_is_whole_under_compile(together):
    """One graph without a break; the backend runs it as it is, so no compiler is needed.
    Slow: the first imports the compiler."""
    pools, x = together
    compiled = torch.compile(pools, backend="aot_eager", fullgraph=True)
    pools.assert_given(compiled(x), x)
    torch.compiler.reset()


@pytest.mark.slow
def test_compile():
    """Slow: a C++ compiler runs."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile for the CPU needs a C++ compiler")
    infos = [pooling_info(name) for name in ("gem", "token-gem")]
    pools = [module(info) for info in infos]
    inputs = [features(info).requires_grad_() for info in infos]

    def both(x: Tensor, tokens: Tensor) -> list[Tensor]:
        return [pool(given) for pool, given in zip(pools, (x, tokens), strict=True)]

    compiled, expected = torch.compile(both, fullgraph=True)(*inputs), both(*inputs)
    gradients = [torch.autograd.grad(sum(out.sum() for out in outs), inputs) for outs in (compiled, expected)]
    for got, wanted in zip(compiled, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.slow
def test_onnx(together, exported):
    """Slow: the first imports onnx and its functions."""
    pytest.importorskip("onnx", reason="the onnx package is not installed")
    pytest.importorskip("onnxscript", reason="the onnxscript package is not installed")
    from onnx.reference import ReferenceEvaluator

    pools, x = together
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(exported, (x,), dynamo=True, verbose=False)
    assert program is not None
    evaluator = ReferenceEvaluator(program.model_proto)
    pools.assert_given(evaluator.run(None, {evaluator.input_names[0]: x.numpy()}), x, rtol=1e-4, atol=1e-5)
