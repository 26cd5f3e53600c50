# ruff: noqa: T201 (a command, which prints its table)
"""The sweep: are the automatically chosen layers of every architecture family proven?

    python tests/support/architectures.py                # all, in half an hour
    python tests/support/architectures.py vit resnet18   # those with these words in their name

It writes docs/architectures.md. For each architecture the layers are chosen automatically at the
size it is made for, on fake tensors. The permutation proof then runs at the smallest size it
accepts, on the chosen layers, and on a sample of all modules to compare the two views.
"""

import functools
import gc
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup import LayerRow, ManifoldMixup, MixPlan, find_layers, mix
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._batch_first import called_batch_first
from manifold_mixup._find import LayerTable, check_layers
from manifold_mixup._layers import is_input, module_name, named_layers
from manifold_mixup._outputs import as_paths
from manifold_mixup._proof.prove import prove
from manifold_mixup._proof.report import LayerProof, Report
from manifold_mixup._tree import map_leaves

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"

# The smallest model of each family; the paper's residual networks in all their depths.
TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3
    maxvit_t mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18
    resnet34 resnet50 resnet101 resnet152 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0
    swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 wide_resnet50_2
""".split()  # noqa: SIM905

TIMM = """
    beit_base_patch16_224 halonet_h1 mobileone_s0 cait_xxs24_224 coat_lite_tiny convit_tiny
    convmixer_768_32 convnext_atto cpubone_nano crossvit_9_240 csatv2 cs3darknet_s cspnext_tiny
    davit_tiny deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla46_c dpn48b
    edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvim_m1
    efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
    focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224
    hieradet_small hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
    inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 mambaout_femto
    maxvit_pico_rw_256 coatnet_pico_rw_224 poolformer_s12 gmlp_ti16_224 mixer_s32_224
    resmlp_12_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mobilevitv2_050
    mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0
    pit_ti_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9
    res2net50_14w_8s resnest14d resnet10t resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
    sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m
    twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224
    vit_relpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224
    ese_vovnet19b_slim_dw legacy_xception xception41 xcit_nano_12_p16_224
""".split()  # noqa: SIM905

# Has no cut point between stem and head, because later blocks read the padding mask.
NONE = {"transformers/bert, padded"}

# Image sizes to try for the proof.
SMALLER = (64, 96, 128, 192)

Batch = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Case:
    """An architecture.

    Attributes:
        name: its library, and its name there.
        build: returns the model and a batch for an image size; None for its own size.
        sizes: smaller image sizes, which it may not accept.
    """

    name: str
    build: Callable[[int | None], tuple[nn.Module, Batch]]
    sizes: tuple[int, ...] = ()


@dataclass
class Result:
    """The result for one architecture."""

    name: str
    layers: tuple[str, ...]
    depths: tuple[float, ...]
    proven: str
    agree: str
    ok: bool
    seconds: float
    note: str = ""


# Small models of kinds that image libraries do not have


class PreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(x).relu()
        shortcut = self.shortcut(out) if self.shortcut else x
        return self.conv2(self.bn2(self.conv1(out)).relu()) + shortcut


class PreActResNet(nn.Module):
    """The paper's network (He et al., 2016b) of any depth."""

    def __init__(self, blocks: tuple[int, int, int, int], width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        for stage, count in enumerate(blocks):
            outputs = width << stage
            inputs = outputs if stage == 0 else outputs // 2
            first = PreActBlock(inputs, outputs, 1 if stage == 0 else 2)
            others = [PreActBlock(outputs, outputs, 1) for _ in range(count - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *others))
        self.linear = nn.Linear(width << 3, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Token ids, an embedding, and separate recurrent layers."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.rnn1, self.rnn2, self.rnn3 = (kind(16, 16, batch_first=True) for _ in range(3))
        self.fc = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for rnn in (self.rnn1, self.rnn2, self.rnn3):
            x, _ = rnn(x)
        return self.fc(x[:, -1])


class UNet(nn.Module):
    """Two levels, with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(nn.Conv2d(c, 16, 3, padding=1) for c in (3, 16, 16)))
        self.down = nn.Conv2d(16, 32, 3, 2, 1)
        self.middle = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.Conv2d(32, 32, 1))
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.out = nn.Conv2d(32, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(torch.cat([x, self.up(self.middle(self.down(x)))], 1))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return BertForSequenceClassification(config)


def token_ids() -> Tensor:
    return torch.randint(1, 30, (4, 7), generator=torch.Generator().manual_seed(0))


def padding() -> Tensor:
    lengths = torch.tensor([7, 5, 3, 6])
    return (torch.arange(7) < lengths[:, None]).long()


# The cases


def cases() -> Iterator[Case]:
    """List all architectures of the sweep."""
    ids: Batch = ((token_ids(),), {})
    masked: Batch = ((), {"input_ids": token_ids(), "attention_mask": padding()})
    yield Case("own/preactresnet18", lambda _: (PreActResNet((2, 2, 2, 2)), _images(32)))
    yield Case("own/preactresnet34", lambda _: (PreActResNet((3, 4, 6, 3)), _images(32)))
    yield Case("own/lstm", lambda _: (Recurrent(nn.LSTM), ids))
    yield Case("own/gru", lambda _: (Recurrent(nn.GRU), ids))
    yield Case("own/unet", lambda _: (UNet(), _images(16)))
    yield Case("transformers/bert", lambda _: (bert(), ids))
    yield Case("transformers/bert, padded", lambda _: (bert(), masked))
    for name in TORCHVISION:
        yield Case(f"torchvision/{name}", functools.partial(_torchvision, name), SMALLER)
    for name in TIMM:
        yield Case(f"timm/{name}", functools.partial(_timm, name), SMALLER)


def _torchvision(name: str, size: int | None) -> tuple[nn.Module, Batch]:
    import torchvision

    options = {"image_size": size} if size and name.startswith("vit") else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    return model, _images(size or (299 if name == "inception_v3" else 224))


def _timm(name: str, size: int | None) -> tuple[nn.Module, Batch]:
    import timm

    native = timm.get_pretrained_cfg(name)
    fixed = size is not None and native is not None and native.fixed_input_size
    model = timm.create_model(name, pretrained=False, **({"img_size": size} if fixed else {}))
    return model, _images(size or model.default_cfg["input_size"][-1])


def _images(size: int) -> Batch:
    return (torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0)),), {}


# The sweep of one architecture


def examine(case: Case, sample: int = 6) -> Result:
    """Choose layers, prove them, and compare structure and proof on ``sample`` modules."""
    start = time.perf_counter()
    torch.manual_seed(0)
    model, (args, kwargs) = case.build(None)
    table = find_layers(model, *args, **kwargs)
    try:
        chosen, note = table.default, ""
    except ValueError as error:
        chosen, note = (), str(error)
    del model
    verdicts, agreed, tried = _prove(case, chosen, sample)
    depths = {row.name: row.depth for row in table}
    hidden = tuple(name for name in chosen if not is_input(name))
    expected = not hidden if case.name in NONE else len(hidden) > 0
    return Result(
        case.name,
        chosen,
        tuple(depths[name] for name in hidden),
        " ".join(sorted(set(verdicts))),
        f"{agreed}/{tried}",
        expected and agreed == tried > 0 and set(verdicts) <= {"proven"},
        time.perf_counter() - start,
        note,
    )


def _prove(case: Case, chosen: tuple[str, ...], sample: int) -> tuple[list[str], int, int]:
    """Prove at the first size with a conclusive result, else return the result at the last size."""
    answer: tuple[list[str], int, int] = ([], 0, 0)
    for size in (*case.sizes, None):
        try:
            model, (args, kwargs) = case.build(size)
            table = find_layers(model, *args, **kwargs)
            check_layers(table, chosen)
        except Exception:
            if size is None:
                raise
            continue  # the size is too small
        names = [name for name in layers_in(table) if name not in chosen]
        names = names[:: max(1, len(names) // sample)][:sample]
        report = prove_by_hand(model, table, [*chosen, *names], args, kwargs)
        verdicts = [proof.verdict for proof in report.layers[: len(chosen)]]
        answer = (
            verdicts,
            len(report.layers) - len(disagreeing(table, report)),
            len(report.layers),
        )
        if set(verdicts) <= {"proven"} and answer[1] == answer[2]:
            break
    return answer


def layers_in(table: LayerTable) -> list[str]:
    """List the rows that are layers: of a module that runs several times, its runs are."""
    return [row.name for row in table if row.cut or row.runs == 1 or row.run is not None]


def disagreeing(table: LayerTable, report: Report) -> list[LayerProof]:
    """Return the layers for which the proof and the structure disagree."""
    cuts = {row.name: row.cut for row in table} | {"input": True}
    wrong = [p for p in report.layers if p.verdict != ("proven" if cuts[p.layer] else "failed")]
    for proof in wrong:
        print(f"    cut point: {cuts[proof.layer]}; but {proof}", file=sys.stderr)
    return wrong


def prove_by_hand(
    model: nn.Module,
    table: LayerTable,
    names: list[str],
    args: Any,
    kwargs: Any,
    outputs: str | None = None,
) -> Report:
    """Prove layers that are mixed by hand; folded states are tried in both orders."""
    graphs = {"lead": table.lead, "graphs": True} if table.graphs else {}

    def proven(table: LayerTable, names: list[str]) -> dict[str, LayerProof]:
        with called_batch_first(model, args, kwargs, table.batch_dim, None) as call:
            given = call.args, call.kwargs, mixed_by(table), None, as_paths(outputs)
            report = prove(model, names, *given, **graphs)
            return {proof.layer: proof for proof in report.layers}

    proofs = proven(table, names)
    folded = {row.name: row.grouped() for row in table if row.folded}
    tried = [name for name in names if name in folded and proofs[name].verdict != "proven"]
    if tried:
        grouped = replace(table, rows=tuple(folded.get(row.name, row) for row in table))
        again = proven(grouped, tried)
        proofs |= {name: proof for name, proof in again.items() if proof.verdict == "proven"}
    return Report(tuple(proofs[name] for name in names))


def mixed_by(table: LayerTable) -> Callable[..., Any]:
    """Return a forward pass that mixes at any layer, even if the library would refuse it.

    What a layer carries is mixed by hand, where the row says that a module receives or returns it,
    and along the dimension that the row names.
    """
    rows, dim = {row.name: row for row in table}, table.batch_dim

    @contextmanager
    def run(model: nn.Module, args: Any, kwargs: Any, plan: MixPlan | None) -> Iterator[Any]:
        if plan is None:
            yield model(*args, **kwargs)
            return
        row = rows.get(plan.layer)
        if row is not None and row.ends:  # positions that only the model's own code knows
            with ManifoldMixup(model, [plan.layer], check=False) as mixup, mixup.using(plan):
                mixup._attachment.record_rows({plan.layer: row})
                mixup._attachment.register_readers()
                output = model(*args, **kwargs)
                mixup.target(None, output)
                yield output
            return
        if row is None or (row.mixed == ("",) and row.plain and row.runs == 1 and not dim):
            # The input or a single tensor, which the library's hooks mix.
            with ManifoldMixup(model, [plan.layer], check=False) as mixup, mixup.using(plan):
                if table.graphs:
                    mixup._attachment.lead, mixup._attachment.graphs = table.lead, True
                output = model(*args, **kwargs)
                mixup.target(None, output)  # the proof goes backward without targets
                yield output
            return
        handles = list(_hooks(row, named_layers(model), plan))
        try:
            yield model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    return run


def _hooks(row: LayerRow, modules: dict[str, nn.Module], plan: MixPlan) -> Iterator[Any]:
    """Mix the output of a layer, and from then on what it carries."""
    over, runs = False, 0

    def mixed(dims: Mapping[str, BatchDim | None], values: Any) -> Any:
        return map_leaves(
            lambda path, x: _mix_along(dims[path], x, plan) if path in dims else x, values
        )

    def layer_hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal over, runs
        runs += 1
        if row.run not in (None, runs - 1):
            return output
        over = True
        return mixed(dict.fromkeys(row.mixed) | dict(row.batch_dims), output)

    def hooks_of(name: str, paths: Mapping[str, BatchDim | None], returned: bool) -> Any:
        if returned:
            return modules[name].register_forward_hook(
                lambda module, inputs, output: mixed(paths, output) if over else None
            )
        return modules[name].register_forward_pre_hook(
            lambda module, args, kwargs: mixed(paths, (args, kwargs)) if over else None,
            with_kwargs=True,
        )

    yield modules[module_name(row.name)].register_forward_hook(layer_hook)
    for name, returned in {(carry.layer, carry.output) for carry in row.carries}:
        carried = (c for c in row.carries if (c.layer, c.output) == (name, returned))
        yield hooks_of(name, {carry.path: carry.batch_dim for carry in carried}, returned)


def _mix_along(at: BatchDim | None, x: Tensor, plan: MixPlan) -> Tensor:
    """Mix the examples of a state along the dimension that holds them, by the plain formula."""
    if at is None:
        return mix(x, plan)
    rows, dim = x, at.dim
    if at.folded:
        groups = x.shape[dim] // plan.batch
        rows = x.unflatten(dim, (groups, plan.batch) if at.grouped else (plan.batch, groups))
        dim += at.grouped
    lam = plan.lam.to(x.dtype)
    return (lam * rows + (1 - lam) * rows.index_select(dim, plan.perm)).reshape(x.shape)


# The command


def main(words: list[str]) -> None:
    """Run the sweep, print the results, and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rows = _known_rows() if words else {}
    bad = []
    for case in cases():
        if words and not any(word in case.name for word in words):
            continue
        try:
            result = examine(case)
        except Exception as error:
            result = Result(case.name, (), (), "", "", ok=False, seconds=0, note=repr(error))
        print("ok  " if result.ok else "FAIL", *_cells(result), sep=" | ", flush=True)
        print(f"{result.seconds:.0f} s {result.note}", file=sys.stderr, flush=True)
        rows[result.name] = f"| {' | '.join(_cells(result))} |"
        bad += [] if result.ok else [result.name]
        gc.collect()
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(_page([rows[case.name] for case in cases() if case.name in rows]))
    if bad:
        sys.exit(f"not as expected: {', '.join(bad)}")


def _known_rows() -> dict[str, str]:
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    return {name: line for name, line in zip(names, lines, strict=True) if line.startswith("| ")}


def _cells(result: Result) -> list[str]:
    layers = ", ".join(f"`{name}`" for name in result.layers) or "none"
    depths = ", ".join(f"{depth:.2f}" for depth in result.depths)
    return [result.name, layers, depths, result.proven, result.agree]


def _page(rows: list[str]) -> str:
    import timm
    import torchvision
    import transformers

    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torchvision, timm, transformers))
    return "\n".join(
        [
            "# Architectures",
            "",
            "`python tests/support/architectures.py` writes this page: which layers",
            "`layers=None, example=x` chooses, and whether the permutation proof confirms them.",
            "",
            f"{len(rows)} architectures, with torch {torch.__version__}, {versions}, Python",
            f"{platform.python_version()}.",
            "",
            "- *layers*: the automatic choice at the size the architecture is made for. In a",
            "  padded BERT batch there is none without `mask=`: the mask is still read after",
            "  every block but the last.",
            "- *depth*: fraction of the forward pass's FLOPs spent when a hidden layer ends.",
            "- *proof*: verdict of the permutation proof on every chosen layer, in float64,",
            "  with redrawn parameters, at the smallest image size the architecture accepts.",
            "- *views agree*: modules on which structure and numbers agree, of those tried",
            "  (evenly sampled).",
            "",
            "| architecture | layers | depth | proof | views agree |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
