"""Modules, tensors and transforms of other kinds than plain ones: looked at, or refused by name."""

import copy
import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad
from torchvision.models.feature_extraction import create_feature_extractor

from blocks import BATCH, Gate, X, Y, built, step
from manifold_mixup import ManifoldMixup, MixPlan, find_layers


def assert_permutes(model: nn.Module, mixup: ManifoldMixup, layer: str) -> None:
    """Assert that at λ = 0, the output is the partner's."""
    model.eval()
    plan = MixPlan(layer, lam=torch.tensor(0.0), perm=torch.arange(BATCH).roll(-1))
    plain = model(X)
    with mixup.using(plan):
        torch.testing.assert_close(model(X), plain[plan.perm])
    model.train()


def in_torchscript(block: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.jit.script(block)


def traced(block: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(block.eval(), X).train()


def of_fx(block: nn.Module) -> nn.Module:
    return torch.fx.symbolic_trace(block)


@pytest.mark.parametrize("layer", ["0", "1"])
@pytest.mark.parametrize("make", [in_torchscript, of_fx])
def test_a_submodule_of_another_kind_trains_as_the_plain_one(make, layer):
    after = []
    for change in (lambda block: block, make):
        torch.manual_seed(1)
        nn.Linear(8, 8)
        model = built()
        model[1] = change(model[1])
        state = copy.deepcopy(dict(model.state_dict()))
        assert {row.name: row.cut for row in find_layers(model, X)}["1"]
        mixup = ManifoldMixup(model, [layer], seed=0)
        mixup.assert_verified(X)
        for name, value in model.state_dict().items():
            assert value.equal(state[name]), name
        after.append(step(model, mixup))
        assert_permutes(model, mixup, layer)
        mixup.remove()
    for plain, other in zip(*after, strict=True):
        torch.testing.assert_close(other, plain)


def test_a_traced_submodule():
    model = built()
    model[1] = traced(model[1])
    old = {name: value.clone() for name, value in model.state_dict().items()}
    mixup = ManifoldMixup(model, ["0", "1"], seed=0)
    mixup.assert_verified(X)
    assert all(value.equal(old[name]) for name, value in model.state_dict().items())
    step(model, mixup)
    assert_permutes(model, mixup, "1")


class Plain(nn.Linear):
    """A layer whose class, or whose class's forward, is replaced."""

    def forward(self, x):
        return super().forward(x)


class Twice(Plain):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("how", ["its class", "the forward of its class"])
def test_a_layer_whose_code_is_replaced_after_attaching_runs_the_new_code(how, monkeypatch):
    model = nn.Sequential(Plain(4, 4), nn.Linear(4, 2))
    mixup, x, perm = ManifoldMixup(model, ["0"], check=False), torch.randn(4, 4), torch.arange(4)
    if how == "its class":
        model[0].__class__ = Twice
    else:
        monkeypatch.setattr(Plain, "forward", lambda layer, x: 2 * nn.Linear.forward(layer, x))
    h = 2 * nn.functional.linear(x, model[0].weight, model[0].bias)
    with mixup.using(MixPlan("0", torch.tensor(0.25), perm.roll(1))):
        torch.testing.assert_close(model(x), model[1](0.25 * h + 0.75 * h[perm.roll(1)]))
    mixup.remove()
    assert "forward" not in vars(model[0])


def test_layers_inside_of_scripted_modules_are_refused_by_name():
    model = built()
    model[1] = in_torchscript(model[1])
    with pytest.raises(ValueError, match=r"'1\.fc' is inside the scripted module '1'.*Name '1'"):
        ManifoldMixup(model, ["1.fc"])


@pytest.mark.parametrize("make", [in_torchscript, traced])
def test_a_wholly_scripted_model_is_refused_by_name(make):
    model = make(Gate())
    with pytest.raises(
        TypeError, match=r"scripted or traced as a whole.*Attach to the original model"
    ):
        ManifoldMixup(model, ["fc"])
    with pytest.raises(
        RuntimeError, match=r"scripted or traced as a whole.*Attach to the original model"
    ):
        find_layers(model, X)


def test_graph_modules_train():
    model = torch.fx.symbolic_trace(built())
    mixup = ManifoldMixup(model, ["0", "input"], seed=0)
    step(model, mixup)
    assert mixup.plan is not None
    mixup.assert_verified(X)
    model.recompile()  # hooks and markers are not part of its code
    step(model, mixup)


def test_feature_extractors_train():
    resnet = torchvision.models.resnet18(num_classes=3)
    model = create_feature_extractor(resnet, {"fc": "logits"})
    mixup = ManifoldMixup(model, ["layer1.0.conv1", "maxpool"], check=False, seed=0)
    images = torch.randn(4, 3, 32, 32)
    verdicts = {proof.layer: proof.verdict for proof in mixup.verify(images).layers}
    assert verdicts == {"layer1.0.conv1": "failed", "maxpool": "proven"}
    mixup = ManifoldMixup(model, ["maxpool"], seed=0, replace=True)
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(images)["logits"], torch.arange(4) % 3)
    loss.backward()


def test_a_model_that_is_prepared_for_quantization_trains():
    from torch.ao.quantization import QConfigMapping, get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        mapping: QConfigMapping = get_default_qat_qconfig_mapping("x86")
        model = prepare_qat_fx(built(nn.ReLU()).train(), mapping, (X,))
    model(X)  # sets the shapes of observers
    old = {name: value.clone() for name, value in model.state_dict().items()}
    mixup = ManifoldMixup(model, ["0"], seed=0)
    mixup.verify(X)
    assert all(value.equal(old[name]) for name, value in model.state_dict().items())
    step(model, mixup)


def test_an_exported_model_is_mixed_at_its_input():
    model = torch.export.export(built(nn.ReLU()), (X,)).module()
    names = [row.name for row in find_layers(model, X)]
    assert not set(names) & {"0", "1", "2"}
    mixup = ManifoldMixup(model, ["0"], seed=0)
    with pytest.raises(ValueError, match=r"layer '0' did not run"):
        model(X)
    mixup = ManifoldMixup(model, ["input"], seed=0, check=False, replace=True)
    assert mixup.verify(X).ok
    step(model, mixup)


# Other kinds of tensors than parameters and buffers


def old_weight_norm(linear: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return nn.utils.weight_norm(linear)


class Tagged(nn.Parameter):
    """A parameter of a user's class, with an attribute."""

    tag: str


def tagged(linear: nn.Linear) -> nn.Module:
    weight = Tagged(linear.weight.data)
    weight.tag = "low rank"
    linear.weight = weight

    class Reading(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert isinstance(self.weight, Tagged)
            assert self.weight.tag == "low rank"
            return super().forward(x)

    linear.__class__ = Reading
    return linear


class Doubled(Tensor):
    """A tensor that acts like twice its value in a linear layer."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func is nn.functional.linear:
                return func(args[0], 2 * args[1].as_subclass(Tensor), *args[2:])
            return func(*args, **(kwargs or {}))


def doubled(linear: nn.Linear) -> nn.Module:
    del linear.weight
    linear.weight = torch.randn(8, 8).as_subclass(Doubled)
    return linear


class Wrapping(Tensor):
    """A tensor that wraps another, and unwraps it before each operator."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def unwrapped(value):
            return value.inner if isinstance(value, cls) else value

        args = torch.utils._pytree.tree_map(unwrapped, args)
        result = func(*args, **torch.utils._pytree.tree_map(unwrapped, kwargs or {}))
        kept = ("detach", "clone", "_to_copy", "alias", "copy_")
        return cls(result) if func._opname in kept else result


def wrapping(linear: nn.Linear) -> nn.Module:
    linear.weight = nn.Parameter(Wrapping(linear.weight.data), requires_grad=False)
    return linear


def non_leaf(linear: nn.Linear) -> nn.Module:
    linear.extra = {"scaled": [(linear.weight * 2,)], "also": linear.bias * 2}
    return linear


TENSORS = [
    old_weight_norm,
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.orthogonal,
    tagged,
    doubled,
    wrapping,
    non_leaf,
]


@pytest.mark.parametrize("change", TENSORS)
def test_tensors_of_other_kinds(change):
    model = built()
    model[0] = change(model[0])
    old = {name: value.clone() for name, value in model.state_dict().items()}
    assert {row.name: row.cut for row in find_layers(model, X)}["0"]
    mixup = ManifoldMixup(model, ["0", "1.fc"], check=False, seed=0)
    verdicts = {proof.layer: proof.verdict for proof in mixup.verify(X).layers}
    assert verdicts == {"0": "proven", "1.fc": "failed"}
    for name, value in model.state_dict().items():
        assert type(value) is type(old[name])
        assert torch.equal(torch.as_tensor(value) * 1.0, torch.as_tensor(old[name]) * 1.0), name
    mixup = ManifoldMixup(model, ["0"], seed=0, replace=True)
    step(model, mixup)
    assert_permutes(model, mixup, "0")


def lazy() -> nn.Sequential:
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


def test_lazy_modules_are_looked_at_and_stay_lazy():
    model = lazy()
    assert [row.name for row in find_layers(model, X).cuts] == ["0", "1", "2", "3"]
    assert all(nn.parameter.is_lazy(parameter) for parameter in model.parameters())
    assert type(model[1]) is nn.LazyBatchNorm1d
    report = ManifoldMixup(model, ["0"]).verify(X)
    assert report.layers[0].verdict == "skipped"
    assert "'0.weight' of a lazy module" in report.layers[0].reason
    assert "Run the model on one batch first" in report.layers[0].reason
    mixup = ManifoldMixup(model, ["0"], replace=True, seed=0)
    step(model, mixup)
    assert type(model[1]) is nn.BatchNorm1d
    mixup.assert_verified(X)


# torch.func


def gradients(model: nn.Module, mixup: ManifoldMixup) -> dict[str, Tensor]:
    criterion = mixup.wrap(nn.CrossEntropyLoss())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return criterion(functional_call(model, parameters, (X,)), Y)

    return grad(loss)(dict(model.named_parameters()))


@pytest.mark.parametrize("checked", ["first", "example", "never"])
def test_func_grad_on_the_first_batch(checked):
    model, twin = (
        built(nn.Tanh()),
        built(nn.Tanh()),
    )  # torch.func does not allow batch norm statistics
    options = {"example": X} if checked == "example" else {"check": checked != "never"}
    mixup = ManifoldMixup(model, ["0", "1"], seed=0, **options)
    own = ManifoldMixup(twin, ["0", "1"], seed=0, check=False)
    step(twin, own)
    found = gradients(model, mixup)
    assert mixup.plan.layer == own.plan.layer
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_bypass_is_refused_on_the_first_batch_of_func_grad():
    model = built()
    model[1].bn = nn.Identity()
    mixup = ManifoldMixup(model, ["1.fc"], seed=0)
    with pytest.raises(ValueError, match=r"'1\.fc' is bypassed"):
        gradients(model, mixup)


class Each(nn.Module):
    """Runs a layer inside vmap, for single examples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(torch.func.vmap(lambda row: self.a(row).tanh())(x)))


def test_a_layer_inside_vmap_is_refused_by_its_shape():
    rows = {row.name: row for row in find_layers(Each(), X)}
    assert "has shape (4,) for a batch of 6" in rows["a"].reason
    assert rows["b"].cut
    assert find_layers(Each(), X[:4])[0].cut is False  # as many rows as features
    model = Each()
    mixup = ManifoldMixup(model, ["b"], seed=0)
    step(model, mixup)
    mixup.assert_verified(X)


# State from an earlier forward pass


class Stateful(nn.Module):
    def __init__(self, keep) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)
        self.keep, self.kept = keep, {}

    def forward(self, x: Tensor) -> Tensor:
        state = self.kept.get("state")
        h, new = self.rnn(x, None if state is None else tuple(part.detach() for part in state))
        self.kept["state"] = self.keep(new)
        return self.head(h[:, -1])


@pytest.mark.parametrize("rows", [4, 6])
@pytest.mark.parametrize(
    "keep", [tuple, list, lambda state: [part.detach() for part in state]], ids=["t", "l", "d"]
)
def test_states_kept_from_an_earlier_batch(keep, rows):
    model, x = Stateful(keep), torch.randn(rows, 3, 4)
    model(x)
    kept = model.kept["state"]
    values = [part.detach().clone() for part in kept]
    assert [row.name for row in find_layers(model, x)] == ["rnn", "head"]
    mixup = ManifoldMixup(model, ["rnn"], check=False)
    mixup.assert_verified(x)
    assert model.kept["state"] is kept
    assert all(map(torch.equal, kept, values))


# Several results of one operator


class Decomposed(nn.Module):
    def __init__(self, operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, h: Tensor):
        return self.operator(h)


@pytest.mark.parametrize(
    ("operator", "read"),
    [
        (lambda h: torch.linalg.eigh(h @ h.mT), lambda out: out.eigenvalues),
        (lambda h: torch.linalg.qr(h), lambda out: out.R.flatten(1)),
        (lambda h: torch.topk(h.flatten(1), 8), lambda out: out.values),
        (lambda h: h.flatten(1).split(8, 1), lambda out: out[0]),
    ],
    ids=["eigh", "qr", "topk", "split"],
)
def test_results_that_nobody_uses_are_no_obstacle(operator, read):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.parts, self.head = nn.Linear(4, 4), Decomposed(operator), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(read(self.parts(self.a(x))))

    model, x = Net(), torch.randn(5, 4, 4)
    model(x)
    report = ManifoldMixup(model, ["a"]).verify(x)
    assert report.ok, report
