"""Scales the sparse head after training, so that the fixed weights 0.4/0.2/0.4 fit its scores.

This multiplies all sparse scores by one constant and so changes no ranking of the sparse mode. The
constant is chosen on the development set.
"""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.train_demo import export
from scripts.train_demo.average import mean
from scripts.train_demo.evaluate import Dev, encode
from scripts.train_demo.losses import MIX
from scripts.train_demo.model import Student
from scripts.train_demo.prepare import Kit

FACTORS = (0.7, 1.0, 1.2, 1.4, 1.7, 2.0)
LARGEST_MATCH = 0.6


@torch.no_grad()
def calibrate(student: Student, dev: Dev) -> dict[str, Any]:
    """Chooses the constant and applies it to the student.

    Args:
        student: A trained student; its sparse head changes.
        dev: The development set.

    Returns:
        The constant and the mean hybrid nDCG@10 for each one that was tried.
    """
    student.eval()
    results = dev.scores(student, encode(student, list(dev.rows().values())))
    match = max(dev.match(name, scores) for name, scores in results.items())
    table = {}
    for factor in FACTORS:
        values = []
        for name, scores in results.items():
            sparse = MIX[1] * factor * scores["sparse"]
            mixed = MIX[0] * scores["dense"] + sparse + MIX[2] * scores["colbert"]
            values.append(dev.ndcg(name, mixed))
        table[factor] = round(float(np.mean(values)), 4)
    allowed = [factor for factor in FACTORS if match * factor <= LARGEST_MATCH] or [FACTORS[0]]
    best = max(allowed, key=lambda factor: table[factor])
    student.sparse_linear.weight.mul_(best**0.5)
    student.sparse_linear.bias.mul_(best**0.5)
    return {"sparse factor": best, "dev hybrid by factor": table}


def main() -> None:
    """Calibrates a saved checkpoint, or the mean of several that began as one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, help="what train's --cache wrote")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    kit: Kit = pickle.loads(args.prepared.read_bytes())
    student = kit.student
    student.load_state_dict(mean([export.load(one, kit.tokenizer) for one in args.checkpoint]))
    result = calibrate(student, kit.dev)
    result["dev"] = kit.dev.run(student)
    print(json.dumps(result, indent=1))
    export.save(student, kit.tokenizer, args.out)
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
