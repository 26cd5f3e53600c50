"""The section of the report on decision boundaries in the plane."""

from pathlib import Path

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.paper_picture import plane_view
from manifold_mixup.lab.report.sections.section import Grid, Methods, Number, Section, embedded


def boundaries(methods: Methods) -> Section | None:
    """Return the decision boundaries, if all runs are trained on the spirals."""
    items = {name: runs[0] for name, runs in methods.items()}
    if any(
        generated.source(item.result.run.data) not in generated.SPIRALS for item in items.values()
    ):
        return None
    views = {
        name: plane_view(item.folder, datasets.load_for(item.result.run, root=Path()), "bottleneck")
        for name, item in items.items()
    }
    rows = [(name, [Number(f"{view.inputs.confident:.1f}")]) for name, view in views.items()]
    return Section(
        "boundaries",
        "Decision boundaries",
        "The first seed of each method. Top: the plane of the inputs. Bottom: the hidden states. "
        "On the line, both classes are equally likely. The dots are the states of evenly spread "
        "inputs.",
        pictures=[
            (
                embedded(plots.plane_picture(views, title="")),
                "Decision boundary of every method in input space and in hidden space.",
            )
        ],
        numbers=[Grid("Confidence above 0.95", ["% of the plane"], rows)],
    )
