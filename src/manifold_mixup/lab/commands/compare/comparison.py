"""A comparison, ready for training: its runs and data, and what its files say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.label_noise import in_words
from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.recipes.recipe import Recipe, three_methods, way_settings
from manifold_mixup.lab.report.table import FLATNESS, OFF_DATA
from manifold_mixup.lab.search.tuned import Tuned

DEFAULT = "spirals-100"
SELECTED = (
    "Selected: of eight tasks that were registered beforehand, this is one of the two on which "
    "manifold mixup beats input mixup (results/candidates/README.md)."
)


_TESTED_SPIRALS = 200


@dataclass(frozen=True)
class Comparison:
    """Options that have been checked, ready for training."""

    runs: tuple[Recipe, ...]
    data: Data
    workers: int
    out: Path
    smoke: bool = False
    tuned: Tuned | None = None
    layers: tuple[str, ...] = ()
    spirals: tuple[Recipe, ...] = ()
    draws: Mapping[str, Data] = field(default_factory=dict)
    boundaries: bool = True

    @cached_property
    def sources(self) -> dict[str, Data]:
        """The data of all runs, by the name in their recipes."""
        spirals = {"spirals": _spirals()} if self.spirals else {}
        return {self.runs[0].data: self.data, **self.draws, **spirals}

    @property
    def folder(self) -> Path:
        """The parent of the runs' folders."""
        return self.out / "runs"

    @property
    def methods(self) -> list[str]:
        """The methods, the baseline first."""
        return list(dict.fromkeys(run.method for run in self.runs))

    @property
    def title(self) -> str:
        """One line that names the data set, the model and the epochs."""
        run = self.runs[0]
        smoke = "SMOKE TEST: " if self.smoke else ""
        epochs = f"{run.epochs} epoch{'' if run.epochs == 1 else 's'}"
        anew = ", drawn anew for each seed" if self.draws else ""
        name = self.data.name.rpartition(", draw ")[0] if self.draws else self.data.name
        return (
            f"{smoke}{name} ({len(self.data.x):,} training, "
            f"{len(self.data.x_test):,} test examples{anew}){in_words(run.label_noise)}, "
            f"{_model(run)}, {epochs}"
        )

    @property
    def caption(self) -> str:
        """The definition of the measures, and the settings of each method."""
        return " ".join(self.notes)

    @property
    def notes(self) -> list[str]:
        """The parts of the caption: a paragraph each on a terminal."""
        first = self.runs[0]
        once = [run for run in self.runs if run.seed == first.seed]
        decays = {run.weight_decay for run in once}
        decay = f", weight decay {first.weight_decay:g}" if len(decays) == 1 else ""
        settings = "; ".join(_settings(run, decay=not decay) for run in once)
        chosen = "" if self.tuned is None else f" {self.tuned.about}"
        return [
            *([SELECTED] if _is_selected(self.runs) else []),
            *self._measures(),
            f"Seconds: training time on {_hardware(first.device)}, without evaluation.{chosen} "
            f"Optimizer {first.optimizer}{decay}; {settings}.",
        ]

    def _measures(self) -> list[str]:
        """Return the definitions of the measures."""
        data = self.data
        if data.regression:
            return [
                "RMSE: in the units of the targets. R²: the share of their variance that is "
                "explained."
            ]
        attack = f"white box, ε = {data.eps:.3g} in {data.space}."
        shown = [f"FGSM: x + ε·sign(∂loss/∂x), {attack}", OFF_DATA]
        return [*shown, FLATNESS] if self.layers else shown


def _is_selected(runs: Sequence[Recipe]) -> bool:
    """Return whether the runs are those of the selected task, with its frozen settings."""
    plain = {replace(run, data=DEFAULT, seed=0, device="cpu") for run in runs}
    is_default_data = generated.source(runs[0].data) == DEFAULT
    return is_default_data and plain == {*three_methods(DEFAULT, "spiral-mlp")}


def _spirals() -> Data:
    """Return the spirals, with fewer test points: the picture needs none, and every epoch all."""
    data = datasets.load("spirals", root=Path())
    return datasets.take_tested(data, _TESTED_SPIRALS)


def _model(run: Recipe) -> str:
    name = run.model.upper() if run.model in ("mlp", "cnn") else run.model
    width = "" if run.width is None else f" of width {run.width}"
    norms = {None: "", True: " with batch norm", False: " without batch norm"}
    return f"{name}{width}{norms[run.batch_norm]}"


def _settings(run: Recipe, *, decay: bool) -> str:
    mixing = f", α {run.alpha:g} at {', '.join(run.layers)}" if run.layers else ""
    more = "".join(f", {name} {value}" for name, value in way_settings(run).items())
    average = f", averaged with decay {run.ema:g}" if run.ema else ""
    own = f", weight decay {run.weight_decay:g}" if decay else ""
    return f"{run.method}: learning rate {run.lr:g}{own}{mixing}{more}{average}"


def _hardware(device: str) -> str:
    return "one CPU thread" if device == "cpu" else device
