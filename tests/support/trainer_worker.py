"""One of two processes that train by the Trainer, for tests/integrations/test_transformers.py."""

from pathlib import Path

import torch

import two_ranks
from trainer_training import drawn, trained

SETTINGS = {"save_strategy": "steps", "save_steps": 4, "epochs": 2}


def main(folder: Path) -> None:
    trainer, watch = trained("classes", folder / "run", **SETTINGS)
    at_four = str(folder / "run" / "checkpoint-4")
    resumed, after = trained("classes", folder / "run", resume=at_four, **SETTINGS)
    result = {
        "plans": drawn(watch),
        "batches": [dict(batch) for batch in watch.batches],
        "weights": trainer.model.state_dict(),
        "resumed": {"plans": drawn(after), "weights": resumed.model.state_dict()},
    }
    torch.save(result, folder / f"rank.{trainer.args.process_index}")


if __name__ == "__main__":
    two_ranks.run(main)
