"""Checks of the command line before it is parsed: unknown options and missing values."""

from collections.abc import Iterable, Mapping, Sequence

from manifold_mixup.lab.suggest import nearest
from manifold_mixup.lab.terminal.listed import listed
from manifold_mixup.lab.terminal.options import Option

LISTED = {"--data": "data", "--unknown": "data", "--model": "models", "MODEL": "models"}
LISTED |= {"TABLE": "tables", "--recipe": "recipes"}
LISTED |= dict.fromkeys(("--mixing", "--methods", "--ways"), "mixing")
"""The list that the value ``list`` prints, for each option or positional argument."""


def no_command(prog: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown or missing command."""
    known = list(known)
    end = f"Expected one of: {', '.join(known)}. See {prog} --help."
    if not name:
        return f"no command was given. {end}"
    if name.startswith("-"):
        near = nearest(name, ("--help", "--version"))
        return f"{prog} has no option {name} without a command.{near} {end}"
    return f"{prog} has no command {name!r}.{nearest(name, known)} {end}"


def check(prog: str, given: Sequence[str], known: Sequence[Option]) -> None:
    """Raise a `ValueError` if an option is unknown, or its value is missing or no valid choice.

    Args:
        prog: the program and command, for the message.
        given: the arguments after the command.
        known: the options of the command.
    """
    flags = _by_flag(known)
    words = list(given)
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            continue
        name, equals, value = word.partition("=")
        option = flags.get(_spelt(name))
        if option is None:
            near = nearest(_spelt(name), flags)
            raise ValueError(f"{prog} has no option {name}.{near} See {prog} --help.")
        if _takes_one(option):
            if not equals and (not words or words[0].startswith("--")):
                raise ValueError(_no_value(prog, name))
            _check_choice(name, value if equals else words.pop(0), option)


def list_asked_for(given: Sequence[str], known: Sequence[Option]) -> str | None:
    """Return the name of the list that the arguments ask for, as in ``--data list``, or None."""
    place = next((one.value for one in known if not one.flags), "")
    for before, word in zip(["", *given], given, strict=False):
        name = _spelt(before) if before else place
        if (
            word in ("list", "help")
            and name in LISTED
            and (name in _by_flag(known) or name == place)
        ):
            return LISTED[name]
        if word.endswith(("=list", "=help")) and _spelt(word.partition("=")[0]) in LISTED:
            return LISTED[_spelt(word.partition("=")[0])]
    return None


def _by_flag(known: Iterable[Option]) -> Mapping[str, Option]:
    return {flag: option for option in known for flag in option.flags}


def _is_flag(word: str) -> bool:
    """Return whether an argument is an option and not a negative number."""
    return word.startswith("-") and word != "-" and not word[1:2].isdigit() and word[1:2] != "."


def _spelt(name: str) -> str:
    """Return the canonical spelling of an option: ``--save_every`` is ``--save-every``."""
    return name.replace("_", "-")


def _takes_one(option: Option) -> bool:
    return bool(option.value) and not option.value.startswith("[")


def _no_value(prog: str, name: str) -> str:
    reason = f"{name} needs a value. See {prog} --help."
    return f"{reason}\n{listed(LISTED[_spelt(name)])}" if _spelt(name) in LISTED else reason


def _check_choice(name: str, value: str, option: Option) -> None:
    if option.value.startswith("{") and value != "None":
        choices = option.value.strip("{}").split(",")
        if value not in choices:
            known = f"Expected one of: {', '.join(choices)}."
            raise ValueError(f"{name} is {value!r}.{nearest(value, choices)} {known}")
