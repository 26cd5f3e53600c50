"""Make the results again, by the commands on their page, and say what each file is.

python results/remake.py list                        the parts, with their files
python results/remake.py make PART ... --root DATA   runs commands, and copies what they made
python results/remake.py rehearse --root DATA        runs all commands, tiny, and copies nothing
python results/remake.py check                       compares the files with fingerprints.json
python results/remake.py write                       writes fingerprints.json

The commands stand only in README.md. They resume what was stopped and reuse what is finished, in
the folder given by ``--work``; all of them take days on two cores, and minutes at a tiny size.
``fingerprints.json`` has the SHA-256 of every file, and what made it: the commit, the machine,
PyTorch, and the data. The registered tasks have a page and commands of their own, in candidates/.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FINGERPRINTS = HERE / "fingerprints.json"
KINDS = (".md", ".json", ".png")
LARGE = 1_000_000
"""No file may have more bytes; JSON that has more is written on one line, with shorter curves."""
EVERY = 5
"""Of a curve that is too long, each fifth epoch stays, and the best one."""
# What each command leaves in the working folder, and where it goes; "" for searches, whose
# findings the comparison after them shows.
COMPARED = "compare/results compare/table"
MADE: dict[str, tuple[tuple[str, str], ...]] = {
    "What compare shows": (
        (COMPARED, "compare/spirals"),
        ("mnist-1d/results mnist-1d/table", "compare/mnist-1d"),
        ("mnist-1d/runs/*/evaluation-last-*", "compare/evaluations"),  # of no other comparison
        ("runs/tune-mnist-1d-mlp-runs/trials", "compare/settings"),
        (COMPARED, "compare/mnist-1d-no-batch-norm"),
        (COMPARED, "compare/mnist-1d-sgd"),
        (COMPARED, "compare/mnist-1d-cnn"),
        (COMPARED, "compare/fashion-mnist-mlp"),
        (COMPARED, "compare/fashion-mnist-cnn"),
    ),
    "Scaled, on two CPU cores": (
        ("laptop/table-1a", "laptop/table-1a"),
        ("laptop/knn", "laptop/knn"),
        ("laptop/outliers", "laptop/outliers"),
        ("laptop/table-7", "laptop/table-7"),
        ("adversarial/table-1a", "laptop/adversarial-table-1a"),
        ("adversarial/table-7", "laptop/adversarial-table-7"),
    ),
    "Five seeds": (
        ("five/table-1a", "five/table-1a"),
        ("five/knn", "five/knn"),
        ("five/outliers", "five/outliers"),
        ("five/table-7", "five/table-7"),
        ("five/runs/*/evaluation-last-*", "five/evaluations"),
    ),
    "All images of CIFAR-10, one seed": (
        ("longer/none/result", "longer/none"),
        ("longer/input/result", "longer/input"),
        ("longer/manifold/result", "longer/manifold"),
        ("longer/none/evaluation-last-*", "longer/none-evaluation"),
        ("longer/input/evaluation-last-*", "longer/input-evaluation"),
        ("longer/manifold/evaluation-last-*", "longer/manifold-evaluation"),
    ),
    "CIFAR-100, one seed": (
        ("laptop/table-4", "laptop/table-4"),
        ("laptop/table-1b", "laptop/table-1b"),
    ),
    "S and α on CIFAR-10, one seed": (
        ("laptop/table-5", "laptop/table-5"),
        ("laptop/table-6", "laptop/table-6"),
    ),
    "Ways of mixing, each tuned by the same number of trials": (
        ("", ""),
        (COMPARED, "ways/mnist-1d"),
        ("", ""),
        (COMPARED, "ways/fashion-mnist"),
    ),
    "A long tail": (("", ""), (COMPARED, "ways/long-tail")),
    "Regression": (
        ("", ""),
        (COMPARED, "ways/diabetes"),
        ("", ""),
        (COMPARED, "ways/california"),
    ),
    "Wrong labels": ((COMPARED, "noise/mnist-1d-20"), (COMPARED, "noise/mnist-1d-40")),
    "CIFAR-10 with wrong labels": (("label-noise/label-noise", "laptop/label-noise"),),
    "Few labels": (("", ""), (COMPARED, "ways/few-labels")),
    "A GAN": (("gan", "ways/gan"),),
    "Figures 1 and 2: two spirals": (
        ("figures/figure-1", "figures/figure-1"),
        ("figures/figure-2", "figures/figure-2"),
    ),
    "Spectra and Figure 5: hidden states of MNIST digits": (
        ("laptop/spectra", "laptop/spectra"),
        ("laptop/figure-5", "laptop/figure-5"),
    ),
    "A later layer": (("", ""), ("later/analysis/spectra", "laptop/later-layer")),
    "Figure 6: training loss by mixed layer": (("laptop/figure-6", "laptop/figure-6"),),
    "Table 8: mixing true factors": (("laptop/table-8", "laptop/table-8"),),
}

# What is appended to each command of a rehearsal, by a pattern of its words after the program, of
# which the first that fits counts; of several values of an option, the last counts.
_TUNE = "--seeds 1 --final-seeds 1 --epochs 1 --workers 1"
_REPRODUCE = (
    "--scale smoke --seeds 1 --epochs 1 --width 8 --examples 200 --test 600 --no-compile "
    "--workers 1"
)
TINY = {
    "analyze*": "",
    "compare*tail*": "--seeds 2 --epochs 2 --workers 1",  # of few examples, no tail would be left
    "compare*": "--smoke --workers 1",
    "evaluate*": "--tested 200 --attacked 4 --steps 2 --restarts 1 --queries 3",
    "reproduce?spectra*": _REPRODUCE,  # which needs as many of each class as a layer has units
    "reproduce?figure-5*": _REPRODUCE,  # likewise
    "reproduce*": f"{_REPRODUCE} --tested 20",
    "train*": "--epochs 1 --examples 200 --width 4",
    "tune*grid*": f"{_TUNE} --examples 300",  # whose number of trials is that of the values
    "tune*imbalance*": f"{_TUNE} --trials 1",
    "tune*": f"{_TUNE} --examples 300 --trials 1",
    "examples/gan.py*": "--quick",
}


@dataclass(frozen=True)
class Step:
    """A command of the page.

    Attributes:
        part: the heading it stands under.
        command: the command, without its comment.
        before: the assignments of shell variables before it.
        source: what it leaves in the working folder, without endings; "" for nothing.
        target: where that goes in this folder, without endings.
    """

    part: str
    command: str
    before: tuple[str, ...]
    source: str
    target: str


def steps(page: str) -> Iterator[Step]:
    """Yield the commands of a page in their order.

    Raises:
        ValueError: a heading has other commands than `MADE` says.
    """
    before: list[str] = []
    for part, commands in _by_heading(page):
        made = MADE.get(part, ())
        run = [one for one in commands if not re.match(r"\w+=", one)]
        if len(run) != len(made):
            raise ValueError(f"{part!r} has {len(run)} commands, but {len(made)} are known.")
        files = iter(made)
        for one in commands:
            if re.match(r"\w+=", one):
                before.append(one)
            else:
                yield Step(part, one, tuple(before), *next(files))


def _by_heading(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield headings with their commands, those of one heading together."""
    for text in re.split(r"^#+ ", page, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        commands = [re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in lines]
        if any(commands):
            yield text.partition("\n")[0], [one for one in commands if one]


def make(part: str, page: str, *, root: Path, work: Path) -> list[Path]:
    """Run the commands of a part, and return the files that were copied into this folder.

    Raises:
        subprocess.CalledProcessError: a command failed.
        FileNotFoundError: a command left no file where it was expected.
    """
    made: list[Path] = []
    for step in _run(part, page, root=root, work=work):
        made += _copy(step, work)
    return made


def rehearse(parts: Sequence[str], page: str, *, root: Path, work: Path) -> dict[str, str]:
    """Run the commands of parts at a tiny size, and see that each leaves its files.

    Nothing is copied. A part that fails does not keep the others from being tried.

    Returns:
        Why parts failed, by their names.
    """
    failed = {}
    for part in parts:
        try:
            for step in _run(part, page, root=root, work=work, tiny=True):
                for source in step.source.split():
                    _found(step, source, work)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            failed[part] = str(error)
    return failed


def _run(part: str, page: str, *, root: Path, work: Path, tiny: bool = False) -> Iterator[Step]:
    """Run the commands of a part one after another, and yield each that is done."""
    work.mkdir(parents=True, exist_ok=True)
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    for step in steps(page):
        if step.part != part:
            continue
        if part == "Few labels" and not (work / "digits-val.npz").exists():
            subprocess.run([sys.executable, "-c", code], cwd=work, check=True)
        print(f"$ {step.command}", flush=True)
        script = "\n".join([_functions(root, tiny=tiny), *step.before, step.command])
        done = subprocess.run(["bash", "-euc", script], cwd=work, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, step.command)
        yield step


def _functions(root: Path, *, tiny: bool) -> str:
    """Return the functions of the shell that stand for the programs of the page."""
    cases = [f'{name}) more="{words}";;' for name, words in TINY.items()] if tiny else []
    more = f'more=""; case "$*" in {" ".join([*cases, "*) ;;"])} esac'
    python = f'{more}; "{sys.executable}"'
    return (
        f'manifold-mixup() {{ {python} -m manifold_mixup.lab "$@" --root "{root}" $more; }}\n'
        f'python() {{ {python} "{HERE.parent}/$@" $more; }}'
    )


def _copy(step: Step, work: Path) -> list[Path]:
    """Copy what a command made; return the copies."""
    copies = []
    for source in step.source.split():
        found = _found(step, source, work)
        if len({path.parent for path in found}) > 1:
            copies.append(_together(found, HERE / f"{step.target}.json"))
            continue
        for path in found:
            copies.append(HERE / f"{step.target}{path.suffix}")
            shutil.copyfile(path, copies[-1])
            _shorten(copies[-1])
    return copies


def _found(step: Step, source: str, work: Path) -> list[Path]:
    """Return the files that a command left.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [path for kind in KINDS for path in sorted(work.glob(f"{source}{kind}"))]
    if not found:
        raise FileNotFoundError(f"{step.command} left no {source} in {work}.")
    return found


def _shorten(path: Path) -> None:
    """Write a large JSON file on one line and, if it is still too large, without most epochs."""
    if path.suffix != ".json" or path.stat().st_size <= LARGE:
        return
    content = json.loads(path.read_text())
    text = json.dumps(content, ensure_ascii=False)
    if len(text.encode()) >= LARGE:
        for run in content["runs"]:
            kept = {len(run["curve"]), run["best_epoch"]}
            run["curve"] = [
                one for one in run["curve"] if one["epoch"] % EVERY == 0 or one["epoch"] in kept
            ]
        text = json.dumps(content, ensure_ascii=False)
    path.write_text(f"{text}\n")


def _together(found: Sequence[Path], target: Path) -> Path:
    """Write the evaluations of several runs into one file, with the names of the runs' folders.

    The units are the same for all of them, and stand once at the head of the file.
    """
    runs: list[dict[str, Any]] = []
    units: dict[str, str] = {}
    contents = {path: json.loads(path.read_text()) for path in found}
    newest = max(one["asked"].get("format", 0) for one in contents.values())
    for path, one in contents.items():
        if one["asked"].get("format", 0) != newest:
            continue  # the same evaluation by an earlier version
        units |= one["evaluation"].pop("units", {})
        on = {key: one.pop(key) for key in ("git", "python", "versions", "machine")}
        runs.append({"run": path.parent.name, "data": one["asked"]["data"], "on": on, **one})
    content = {"units": units, "runs": runs}
    target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _shorten(target)
    return target


def fingerprints() -> dict[str, dict[str, Any]]:
    """Return what each file is, by its path in this folder."""
    made = (one for one in HERE.glob("*/*") if one.suffix in KINDS and one.name != "README.md")
    files = sorted(made)
    return {one.relative_to(HERE).as_posix(): _fingerprint(one) for one in files}


def _fingerprint(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if path.suffix != ".json":
        return found
    content = json.loads(path.read_text())
    of_runs = [run["on"] for run in content.get("runs", []) if "on" in run]
    origins = of_runs or ([content] if "git" in content else [])
    if origins:
        found["commits"] = list(dict.fromkeys(one["git"] for one in origins))
        found["cpus"] = list(dict.fromkeys(one["machine"]["cpu"] for one in origins))
        found["torch"] = list(dict.fromkeys(one["versions"]["torch"] for one in origins))
    if data := _data(content):
        found["data"] = data
    return found


def _data(content: dict[str, Any]) -> list[str]:
    """Return the fingerprints of the data in a file, each once."""
    head = content.get("data", {})
    if isinstance(head, str):  # the name of the set, in an analysis
        return []
    if "sha256" in head:  # of a comparison; the others have the SHA-256 of each set by its name
        head = {"": head["sha256"], **head.get("draws", {})}
    of_runs = [run["data"] for run in content.get("runs", []) if isinstance(run.get("data"), str)]
    evaluated = [content["asked"]["data"]] if "asked" in content else []
    return sorted({*head.values(), *of_runs, *evaluated})


def differing() -> list[str]:
    """Return the files that are not what fingerprints.json says, and those it does not know."""
    known, there = json.loads(FINGERPRINTS.read_text()), fingerprints()
    return sorted(one for one in known.keys() | there.keys() if known.get(one) != there.get(one))


def _write(only: Sequence[Path] | None = None) -> None:
    """Write the fingerprints of all files, or only those of some."""
    found = fingerprints()
    if only is not None:
        names = {one.relative_to(HERE).as_posix() for one in only}
        known = json.loads(FINGERPRINTS.read_text())
        found = {**known, **{name: one for name, one in found.items() if name in names}}
    FINGERPRINTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def main(args: Sequence[str] | None = None) -> int:
    """Run an action; return its exit status."""
    parser = argparse.ArgumentParser("remake.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=["list", "make", "rehearse", "check", "write"])
    parser.add_argument("parts", nargs="*", help="headings of README.md, or their beginnings")
    parser.add_argument("--root", type=Path, default=Path("~/.cache/manifold-mixup"))
    parser.add_argument("--work", type=Path, default=Path("results-work"))
    options = parser.parse_args(args)
    if options.action == "check":
        print("\n".join(found := differing()) or "all files are what fingerprints.json says")
        return 1 if found else 0
    if options.action == "write":
        _write()
        return 0
    page = (HERE / "README.md").read_text()
    if options.action == "list":
        for step in steps(page):
            print(f"{step.part}: {step.target or 'a search'}\n    {step.command}")
        return 0
    root = options.root.expanduser().resolve()
    try:
        if options.action == "rehearse":
            return _rehearsed(_parts(options.parts or list(MADE)), page, root, options.work)
        for part in _parts(options.parts or [""]):
            _write(make(part, page, root=root, work=options.work))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _parts(names: Sequence[str]) -> list[str]:
    """Return the headings that names begin.

    Raises:
        ValueError: a name begins none, or several.
    """
    found = []
    for name in names:
        parts = [part for part in MADE if part.startswith(name)]
        if name not in MADE and len(parts) != 1:
            raise ValueError(f"{name!r} names {len(parts)} parts. Name one: {'; '.join(MADE)}")
        found.append(name if name in MADE else parts[0])
    return found


def _rehearsed(parts: Sequence[str], page: str, root: Path, work: Path) -> int:
    """Rehearse parts in a folder of their own, and say what failed; return the exit status."""
    failed = rehearse(parts, page, root=root, work=work.with_name(f"{work.name}-tiny"))
    print("\n".join(f"{part}: {why}" for part, why in failed.items()) or "all parts ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
