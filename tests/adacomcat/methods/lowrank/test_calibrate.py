import pytest
import torch

from adacomcat.methods.lowrank import calibrate
from adacomcat.methods.lowrank.calibrate import Moment, site_metrics
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_images, tiny_vit

IMAGES = tiny_images(48)


def inputs_of(model, images):
    """Module name -> its input, and for attention the probabilities too, as timm computes them."""
    seen = {}

    def keep(name):
        def hook(module, inputs):
            seen[name] = inputs[0].detach().double()

        return hook

    for name, module in model.named_modules():
        if name.endswith(("attn", "fc1", "fc2", "head", "attn_drop")):
            module.register_forward_pre_hook(keep(name))
        if name.endswith("attn"):
            # Only the unfused attention hands its probabilities to a module.
            module.fused_attn = False
    with torch.no_grad():
        model(images)
    return seen


def rows_of(site, seen, heads):
    """What multiplies a site's product from the left, (G, rows, m), and the right, (1, rows, n)."""
    x = seen[site.module]
    if not site.attention:
        return x.reshape(1, -1, x.shape[-1]), None
    if site.kind == "qk":
        flat = x.flatten(0, 1)
        return torch.cat([flat, flat.new_ones(len(flat), 1)], -1)[None], flat[None]
    probabilities = seen[f"{site.module}.attn_drop"]
    mixed = probabilities @ x[:, None]
    return mixed.transpose(0, 1).reshape(heads, -1, x.shape[-1]), None


def second_moment(rows):
    return rows.mT @ rows / rows.shape[1]


def product_of(site, module):
    """(G, m, n) what the module computes with, a dense or a low-rank one."""
    named = {name: p.detach().double() for name, p in module.named_parameters()}
    if not site.attention:
        if "weight" in named:
            return named["weight"].T[None]
        return (named["last.weight"] @ named["first.weight"]).T[None]
    heads = module.num_heads
    values = module.proj.in_features
    q, k, v = named["qkv.weight"].split(
        [(named["qkv.weight"].shape[0] - values) // 2] * 2 + [values]
    )
    if site.kind == "vo":
        v = v.view(heads, -1, v.shape[1])
        o = named["proj.weight"].T.reshape(heads, -1, v.shape[2])
        return v.mT @ o
    q_bias = named["q_bias"] if "q_bias" in named else named["qkv.bias"][: len(q)]
    q = torch.cat([q, q_bias[:, None]], 1).view(heads, -1, q.shape[1] + 1)
    return q.mT @ k.view(heads, -1, k.shape[1])


def moments_of(model, method, kind, images=IMAGES):
    return site_metrics(
        model,
        method.sites,
        method.attentions,
        images.split(16),
        kind=kind,
        biases=True,
        output=model,
        generator=torch.Generator().manual_seed(0),
    )


def test_metrics_are_the_moments_of_what_the_sites_see():
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig())
    metrics = moments_of(model, method, "inputs", IMAGES.double())
    seen = inputs_of(model, IMAGES.double())
    for site in method.sites:
        for factor, rows in zip(metrics[site.name], rows_of(site, seen, 4), strict=True):
            if rows is None:
                assert factor is None
                continue
            expected = second_moment(rows)
            found = (factor @ factor.mT).expand(expected.shape)
            scale = expected.diagonal(dim1=-2, dim2=-1).mean()
            # The ridge is at most this, on the diagonal alone.
            torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1.001e-5)
            off = ~torch.eye(expected.shape[-1], dtype=torch.bool)
            pair = ((each / scale)[..., off] for each in (found, expected))
            torch.testing.assert_close(*pair, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["fc1", "fc2", "head", "qk", "vo"])
def test_calibrated_truncation_errs_less_on_what_the_sites_see(kind):
    """By brute force over the inputs: for qk, over all pairs of a query's and a key's input."""
    errors, tails = {}, {}
    for calibrated in (True, False):
        model, metrics = tiny_vit(), "inputs" if calibrated else "plain"
        method = LowRank(model, LowRankConfig(metrics=metrics, sites=(kind,)))
        seen = inputs_of(tiny_vit(), IMAGES)
        before = {s.name: product_of(s, model.get_submodule(s.module)) for s in method.sites}
        method.calibrate([IMAGES])
        plan = Plan("lowrank", {s.name: s.full // s.groups // 2 * s.groups for s in method.sites})
        method.commit_(plan)
        for site in method.sites:
            error = before[site.name] - product_of(site, model.get_submodule(site.module))
            left, right = rows_of(site, seen, 4)
            lost = left @ error if right is None else left @ error @ right.mT
            errors[site.name, calibrated] = (lost**2).sum(-1).mean(-1) / (
                1 if right is None else right.shape[1]
            )
            tails[site.name] = whitened_tail(before[site.name], left, right, plan, site)
    for name, tail in tails.items():
        # Eckart and Young: no product of this rank errs less than the whitened spectrum's tail.
        torch.testing.assert_close(errors[name, True], tail, rtol=1e-3, atol=0)
        assert (errors[name, True] < errors[name, False]).all()


def test_keys_without_gradients_are_weighted_by_attention():
    """The mean over queries of the covariance of keys under the query's own attention."""
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig())
    metrics = moments_of(model, method, "attention", IMAGES.double())
    seen = inputs_of(model, IMAGES.double())
    for site in (site for site in method.sites if site.kind == "qk"):
        x, attention = seen[site.module], seen[f"{site.module}.attn_drop"]
        means = attention @ x[:, None]
        covariance = torch.einsum("bhij,bjd,bje->hde", attention, x, x)
        covariance -= torch.einsum("bhid,bhie->hde", means, means)
        expected = covariance / attention[:, 0].flatten(0, 1).shape[0]
        found = metrics[site.name][1] @ metrics[site.name][1].mT
        scale = expected.diagonal(dim1=-2, dim2=-1).mean()
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-5)


@torch.enable_grad()
def test_gradients_are_those_of_autograd(monkeypatch):
    """Rows on both sides of a site multiply to the gradient of its weights, as autograd has it."""
    model = tiny_vit().double()
    method = LowRank(model, LowRankConfig())

    def add(self, found):
        self.total = found

    monkeypatch.setattr(Moment, "add", add)
    monkeypatch.setattr(Moment, "factor", lambda self, ridge: self.total)
    images = IMAGES[: calibrate.CHUNK].double()
    found = moments_of(model, method, "gradients", images)
    logits = model(images)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (noise * logits).sum().backward()
    for site in method.sites:
        left, right = found[site.name]
        product = left.mT @ right  # (G, m, n): the gradient of the site's product
        module = model.get_submodule(site.module)
        if not site.attention:
            torch.testing.assert_close(product, module.weight.grad.T)
            continue
        heads, width = module.num_heads, site.inputs
        q, k, v = module.qkv.weight.detach().view(3, heads, -1, width)
        dq, _, dv = module.qkv.weight.grad.view(3, heads, -1, width)
        if site.kind == "qk":
            # d/dWq of x Wq (x Wk)^T is the gradient of the product times Wk.
            torch.testing.assert_close(product[:, :width] @ k.mT, dq.mT)
            bias = module.qkv.bias.grad.view(3, heads, -1)[0]
            torch.testing.assert_close((product[:, width:] @ k.mT)[:, 0], bias)
        else:
            o = module.proj.weight.detach().T.reshape(heads, -1, width)
            torch.testing.assert_close(product @ o.mT, dv.mT)


def test_metrics_of_gradients_keep_the_output():
    """The error of the output at one plan falls from weights to inputs to gradients."""
    others, errors = tiny_images(64, seed=7), {}
    for metrics in ("plain", "inputs", "gradients"):
        model = tiny_vit()
        expected = model(others)
        method = LowRank(model, LowRankConfig(metrics=metrics, keep_dense=("head",)))
        method.calibrate([IMAGES])
        method.commit_(Plan("lowrank", {s.name: s.candidates[1].rank for s in method.sites}))
        errors[metrics] = ((model(others) - expected).norm() / expected.norm()).item()
    assert errors["gradients"] < errors["inputs"] < errors["plain"]


def whitened_tail(product, left, right, plan, site):
    """(G,) the squared singular values of the root-weighted product that a plan cuts off."""
    weighted = root(second_moment(left)) @ product
    if right is not None:
        weighted = weighted @ root(second_moment(right))
    rank = plan.decisions[site.name] // site.groups
    return (torch.linalg.svdvals(weighted)[:, rank:] ** 2).sum(-1)


def root(moment):
    """The symmetric square root: another factor than Cholesky's, with the same spectrum."""
    values, vectors = torch.linalg.eigh(moment)
    return vectors * values.clamp(min=0).sqrt()[..., None, :] @ vectors.mT


def test_only_a_calibrated_method_looks():
    models = [tiny_vit() for _ in range(2)]
    methods = [LowRank(model, LowRankConfig()) for model in models]
    methods[0].calibrate([IMAGES])
    for method in methods:
        method.commit_(Plan("lowrank", {s.name: s.candidates[0].rank for s in method.sites}))
    assert torch.equal(models[0](IMAGES), models[1](IMAGES))


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_few_or_empty_inputs_are_enough(scale):
    """136 tokens for the 128 inputs of fc2, of which most hardly vary; or nothing but zeros."""
    model = tiny_vit()
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight.mul_(0.01 * scale)
            block.mlp.fc1.bias.mul_(scale)
    method = LowRank(model, LowRankConfig(metrics="inputs"))
    method.calibrate([IMAGES[:8]])
    method.commit_(Plan("lowrank", {s.name: s.candidates[-1].rank for s in method.sites}))
    assert model(IMAGES).isfinite().all()


def test_calibration_leaves_the_model_as_it_was():
    model = tiny_vit(attn_drop_rate=0.5).train()
    method = LowRank(model, LowRankConfig(metrics="inputs"))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    method.calibrate([IMAGES])
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
