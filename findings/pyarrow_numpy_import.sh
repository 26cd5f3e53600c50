#!/usr/bin/env bash
# pyarrow 26.0.1: pip installs it beside NumPy 1.26.4 and finds no conflict, and then it cannot be imported.
#
# Expected: a package that needs NumPy 2 says so in its requirements, so that pip chooses an older release, or complains.
# Seen: NumPy is no requirement of the wheel at all, `pip check` finds nothing broken, and `import pyarrow` raises ImportError. We
# met it in an environment where another package held NumPy below 2: braindecode 1.8.1 and tsai 1.0.1 could not be imported.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile numpy==1.26.4 pyarrow==26.0.1
env/bin/pip check
env/bin/python - <<'PY'
from importlib.metadata import requires

needed = [line for line in requires("pyarrow") or [] if "extra ==" not in line]
print("pyarrow requires", needed)
try:
    import pyarrow
except ImportError as error:
    print("ImportError:", error)
else:
    raise AssertionError(f"pyarrow {pyarrow.__version__} can be imported now: this has changed")
assert not any("numpy" in line.lower() for line in needed), "NumPy is a requirement now"
PY
