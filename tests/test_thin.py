"""Large parameters of the proof lie in little memory, and change no verdict."""

import ctypes

import pytest
import torch
from torch import Tensor, nn

from architectures import mixed_by
from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._proof import prove as prove_module
from manifold_mixup._proof.prove import Bench, prove
from manifold_mixup._proof.redraw import redraw_parameters
from manifold_mixup._proof.thin import drop_gradients, large_parameters, pool_of, thin
from states import normal

WIDTH = 256


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, WIDTH)
        self.branch = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.head(h + self.branch(h))


@pytest.fixture
def benches(monkeypatch):
    """Record, for each attempt, whether parameters were thin and how many bytes are used."""
    seen: list[tuple[bool, int]] = []
    calibrate = Bench.calibrate

    def recorded(bench: Bench) -> None:
        stage: Stage = bench.stage
        pools = map(pool_of, stage.stand_ins.values())
        memory = {
            made.data_ptr(): made.nbytes if pool is None else pool.nbytes
            for made, pool in zip(stage.stand_ins.values(), pools, strict=True)
        }
        seen.append((bench.thin, sum(memory.values())))
        calibrate(bench)

    monkeypatch.setattr(Bench, "calibrate", recorded)
    return seen


def prove_one(model: nn.Module, layer: str, x: Tensor):
    return prove(model, [layer], (x,), {}, mixed_by(find_layers(model, x))).layers[0]


def test_the_proof_takes_a_fraction_of_the_memory_of_the_parameters(benches):
    model = Wide()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    proof = prove_one(model, "stem", normal(6, 8))
    assert proof.verdict == "proven"
    assert proof.error <= 1e-12 < 0.01 < proof.difference
    ((was_thin, memory),) = benches
    assert was_thin
    assert memory < sum(p.nbytes for p in model.parameters()) / 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_fails_only_with_parameters_that_are_not_thin(benches):
    assert prove_one(Wide(), "branch", normal(6, 8)).verdict == "failed"
    assert [was_thin for was_thin, _ in benches] == [True, False]


def test_what_was_proven_stays_proven_if_there_is_no_memory_for_the_rest(monkeypatch):
    made = prove_module.copied

    def only_small(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        if tensor.numel() >= WIDTH * WIDTH:
            raise NotTraceable("out of memory")
        return made(tensor, dtype)

    monkeypatch.setattr(prove_module, "copied", only_small)
    model, x = Wide(), normal(6, 8)
    report = prove(model, ["stem", "branch"], (x,), {}, mixed_by(find_layers(model, x)))
    assert [proof.verdict for proof in report.layers] == ["proven", "skipped"]
    assert "out of memory" in report.layers[1].reason


def views_its_weight(model: Wide) -> None:
    stem = model.forward
    model.forward = lambda x: stem(x) + model.head.weight.view(-1)[0]


def writes_into_its_weight(model: Wide) -> None:
    def clip(module: nn.Module, _: object) -> None:
        with torch.no_grad():
            module.weight.clamp_(-1, 1)

    model.head.register_forward_pre_hook(clip)


def test_code_that_needs_a_contiguous_weight_gets_one(benches):
    model = Wide()
    views_its_weight(model)
    assert prove_one(model, "stem", normal(6, 8)).verdict == "proven"
    assert [was_thin for was_thin, _ in benches] == [True, False]


def test_code_may_write_into_its_weight():
    model = Wide()
    writes_into_its_weight(model)
    assert prove_one(model, "stem", normal(6, 8)).verdict == "proven"
    assert prove_one(model, "branch", normal(6, 8)).verdict == "failed"


def test_code_may_read_a_weight_by_its_address(benches):
    """The memory of all numbers is there."""
    model = Wide()
    plain = model.forward

    def forward(x: Tensor) -> Tensor:
        weight = model.head.weight
        assert len(ctypes.string_at(weight.data_ptr(), weight.nbytes)) == weight.nbytes
        return plain(x)

    run = mixed_by(find_layers(model, normal(6, 8)))
    model.forward = forward
    assert prove(model, ["stem"], (normal(6, 8),), {}, run).layers[0].verdict == "proven"
    assert [was_thin for was_thin, _ in benches] == [True]


class Own(nn.Linear):
    """Code of its own might give the pointer of its weight to a kernel."""


def test_only_large_parameters_of_pytorchs_own_layers_are_thin():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(WIDTH, WIDTH),
            "small": nn.Linear(8, 8),
            "embedding": nn.Embedding(1000, WIDTH),
            "map": nn.Conv2d(64, 64, 3),
            "own": Own(WIDTH, WIDTH),
            "tied": Own(WIDTH, WIDTH),
            "both": nn.Linear(WIDTH, WIDTH),
            "replaced": nn.Linear(WIDTH, WIDTH),
            "recurrent": nn.LSTM(WIDTH, WIDTH),
            "narrow": nn.Linear(1, 40_000),
            "attached": nn.Linear(WIDTH, WIDTH),
        }
    )
    model["both"].weight = model["tied"].weight
    model["replaced"].forward = lambda x: x
    with ManifoldMixup(model, ["attached"], check=False):
        large = large_parameters(model)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in large}
    assert names == {"linear.weight", "embedding.weight", "map.weight", "attached.weight"}


@pytest.mark.parametrize("shape", [(WIDTH, WIDTH), (1000, 64), (64, 64, 3, 3), (64, 32, 3, 5, 5)])
def test_a_thin_parameter_has_few_numbers_at_the_scale_of_all(shape):
    parameter = nn.Parameter(torch.empty(shape))
    (weight,) = thin([parameter], torch.float64).values()
    model = nn.ParameterDict({"weight": weight})
    redraw_parameters(model)
    drawn, pool = model["weight"], pool_of(model["weight"])
    assert drawn.shape == shape
    assert drawn.dtype == torch.float64
    assert len(pool) < parameter.numel() / 4
    assert drawn.untyped_storage().nbytes() >= drawn.nbytes  # in case its address is read
    wanted = (2 / parameter[0].numel()) ** 0.5
    assert float(pool.std()) == pytest.approx(wanted, rel=0.25)
    rows = drawn.flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)
    assert torch.equal(torch.linalg.matrix_rank(rows), torch.tensor(min(rows.shape)))


def test_a_gradient_is_dropped_as_soon_as_it_is_there():
    model = Wide()
    drop_gradients(model)
    model(normal(6, 8)).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_thin_parameters_lie_one_behind_the_other():
    shapes = [(300, 200), (64, 64, 3, 3), (500, 100)]
    given = [nn.Parameter(torch.empty(shape)) for shape in shapes]
    model = nn.ParameterList(thin(given, torch.float32).values())
    redraw_parameters(model)
    pools = [pool_of(parameter) for parameter in model]
    ends = [pool.data_ptr() + pool.nbytes for pool in pools]
    assert ends[:-1] == [pool.data_ptr() for pool in pools[1:]]
    memory = model[0].untyped_storage()
    assert model[2].data_ptr() + model[2].nbytes <= memory.data_ptr() + memory.nbytes()
    assert memory.nbytes() <= sum(pool.nbytes for pool in pools) + max(p.nbytes for p in given)
