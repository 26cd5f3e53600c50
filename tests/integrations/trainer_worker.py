"""One of two processes that train by the Trainer; ``test_two_processes`` starts them."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_transformers import drawn, trained

FOLDER = Path(sys.argv[1])
SETTINGS = {"save_strategy": "steps", "save_steps": 4, "epochs": 2}


def main():
    trainer, watch = trained("classes", FOLDER / "run", **SETTINGS)
    at_four = str(FOLDER / "run" / "checkpoint-4")
    resumed, after = trained("classes", FOLDER / "run", resume=at_four, **SETTINGS)
    result = {
        "plans": drawn(watch),
        "batches": [dict(batch) for batch in watch.batches],
        "weights": trainer.model.state_dict(),
        "resumed": {"plans": drawn(after), "weights": resumed.model.state_dict()},
    }
    torch.save(result, FOLDER / f"rank.{trainer.args.process_index}")


main()
