#!/usr/bin/env bash
# Transformers 5.24.0: a ModelOutput with a field by keyword only cannot be copied, and its pickle cannot be loaded.
#
# Expected: `copy.copy(output)` gives an equal output, as it does for a ModelOutput whose fields may be passed by place.
# Seen: `ModelOutput.__reduce__` passes the values of all fields by place, also of those with `field(kw_only=True)`, so that
# __init__ raises a TypeError. GLiNER 0.2.29 has such a class, `GLiNERBaseOutput`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile transformers==5.24.0 numpy==2.4.6
env/bin/python - 2>/dev/null <<'PY'
import copy
import pickle
from dataclasses import dataclass, field

from transformers.utils import ModelOutput


@dataclass
class Plain(ModelOutput):
    logits: list | None = None
    spans: list | None = None


@dataclass
class ByKeyword(ModelOutput):
    logits: list | None = None
    spans: list | None = field(default=None, kw_only=True)


plain = Plain(logits=[1], spans=[2])
assert copy.copy(plain) == plain
print("by place: the copy is equal")
output = ByKeyword(logits=[1], spans=[2])
for name, duplicate in (("copy", copy.copy), ("pickle", lambda x: pickle.loads(pickle.dumps(x)))):
    try:
        duplicate(output)
    except TypeError as error:
        print(f"by keyword, {name}: TypeError: {error}")
    else:
        raise AssertionError(f"{name} works now: this has changed")
PY
