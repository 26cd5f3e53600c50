#!/usr/bin/env bash
# mlflow-skinny 3.17.2: a run that is tracked in a plain folder, long the default, cannot be started.
#
# Expected: mlflow.set_tracking_uri("file:...") and start_run() work as in MLflow 2, at most with a warning of deprecation.
# Seen: the URI is taken without a word, and start_run() raises MlflowException: the folder is "in maintenance mode", unless
# MLFLOW_ALLOW_FILE_STORE is set. The database that it points to fails as well: the message speaks of the model registry and
# an unsupported URI. What is missing is sqlalchemy and alembic, which mlflow-skinny does not bring and the message does not name.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile mlflow-skinny==3.17.2
env/bin/python -W ignore - <<'PY'
import os

import mlflow
from mlflow.exceptions import MlflowException

mlflow.set_tracking_uri("file:./runs")
print("set_tracking_uri takes a folder")
try:
    mlflow.start_run()
except MlflowException as error:
    print("start_run:", str(error).split(". ")[0])
    assert "maintenance mode" in str(error)
else:
    raise AssertionError("a folder is a place for runs again: this has changed")
mlflow.set_tracking_uri("sqlite:///runs.db")
try:
    mlflow.start_run()
except MlflowException as error:
    print("with a database:", str(error).split(". ")[0].strip())
    assert "unsupported URI" in str(error) and "sqlalchemy" not in str(error)
else:
    raise AssertionError("a database needs nothing more now: this has changed")
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
mlflow.set_tracking_uri("file:./runs")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
print("with MLFLOW_ALLOW_FILE_STORE:", mlflow.get_run(run.info.run_id).data.metrics)
PY
