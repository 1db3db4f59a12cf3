"""Trains the demo checkpoint: `python -m scripts.train_demo.train --help` names what it reads."""

from __future__ import annotations

import argparse
import json
import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.train_demo import export, losses, model
from scripts.train_demo.average import Average
from scripts.train_demo.calibrate import calibrate
from scripts.train_demo.evaluate import pad
from scripts.train_demo.prepare import Kit, prepare
from scripts.train_demo.tasks import SHARES, SHORT, SYMMETRIC

FALL = 0.6


def arguments() -> argparse.Namespace:
    """Reads the command line.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with xquad, cmrc2018, ..")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet's database files")
    parser.add_argument("--messages", type=Path, required=True, help="packages with translations")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in one batch")
    parser.add_argument("--late", type=float, default=0.7, help="from here on twice the tokens")
    parser.add_argument("--warm", type=int, default=700, help="steps with distillation only")
    parser.add_argument("--mix", type=float, default=0.35, help="share of distillation after it")
    parser.add_argument("--cache", type=Path, help="folder that keeps the prepared data")
    parser.add_argument("--synthetic", type=int, default=50_000, help="how many made-up texts")
    parser.add_argument("--start", type=Path, help="continue from this checkpoint")
    parser.add_argument("--save-every", type=int, default=1000, help="steps between states")
    return parser.parse_args()


def distil_step(student: model.Student, kit: Kit, rng: random.Random, size: int) -> Tensor:
    """One loss of distillation.

    Args:
        student: The student.
        kit: What `prepare` built.
        rng: The source of chance.
        size: Tokens in the batch.

    Returns:
        The loss.
    """
    batch = kit.distillation.batch(rng, size, bilingual=0.5)
    ids, mask = pad(batch.rows)
    owner, _ = pad([[i + 2 for i in row] for row in batch.owners])
    owner = torch.where(mask > 0, owner - 2, -1)
    out = student(ids, mask)
    loss = losses.sentence_loss(out.dense, batch.vectors)
    if (owner >= 0).any():
        loss = loss + losses.word_loss(out.hidden, owner, batch.states)
    guess = torch.nn.functional.mse_loss(out.sparse[mask > 0], kit.idf[ids[mask > 0]])
    return loss + 3 * guess


def retrieval_step(
    student: model.Student, kit: Kit, rng: random.Random, size: int
) -> tuple[Tensor, str, Tensor]:
    """One contrastive loss.

    Args:
        student: The student.
        kit: What `prepare` built.
        rng: The source of chance.
        size: Document tokens in the batch.

    Returns:
        The loss, the task and the loss of each mode.
    """
    task = rng.choices(list(SHARES), list(SHARES.values()))[0]
    rows = kit.tasks.batch(task, rng, size if task in SHORT else 2 * size)
    keys = torch.tensor([row[2][0] for row in rows])
    same = (keys[:, None] == keys[None, :]) & ~torch.eye(len(keys), dtype=torch.bool)
    query = student(*pad([row[0] for row in rows]))
    doc = student(*pad([row[1] for row in rows]))
    loss, each = losses.contrastive_loss(student, query, doc, same, both=task in SYMMETRIC)
    return loss, task, each


def _kit(args: argparse.Namespace) -> Kit:
    """Prepares, or takes what an earlier run with this seed prepared."""
    cached = args.cache / f"prepared-{args.seed}.pkl" if args.cache else None
    if cached and cached.exists():
        kit: Kit = pickle.loads(cached.read_bytes())
    else:
        kit = prepare(args.data, args.wordnet, args.messages, args.seed, args.synthetic)
        if cached:
            args.cache.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(pickle.dumps(kit))
    if args.start:
        known = export.adopt(kit.student, kit.tokenizer, args.start)
        print(f"{known} of {len(kit.tokenizer)} pieces from {args.start}", flush=True)
    return kit


def _optimizer(student: model.Student, rate: float) -> torch.optim.AdamW:
    decay = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def pace(step: int, done: float) -> float:
    """Says which part of the highest learning rate is right.

    Args:
        step: The number of the step.
        done: Which part of the training is done.

    Returns:
        A rise, a plateau, and from `FALL` on a fall.
    """
    return min(1.0, (step + 1) / 150) * max(0.02, min(1.0, (1 - done) / (1 - FALL)))


def _planned(args: argparse.Namespace, done: float) -> int:
    """Reads the number of steps again: until the rate falls it may still change.

    The result is the same as if the run had been started with the new number.
    """
    plan = args.cache / "steps" if args.cache else None
    if plan is None or not plan.exists():
        return int(args.steps)
    steps = int(plan.read_text("utf-8"))
    now = done * args.steps
    return steps if max(done, now / steps) < FALL else int(args.steps)


def fit(args: argparse.Namespace, kit: Kit) -> dict[str, float]:
    """Trains the student.

    Args:
        args: The options.
        kit: What `prepare` built.

    Returns:
        How many steps and minutes it took.
    """
    student: model.Student = kit.student
    student.train()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    optimizer = _optimizer(student, args.rate)
    average = Average(student)
    start = time.time()
    running: dict[str, list[float]] = {}
    step = 0
    while step < args.steps:
        done = step / args.steps
        for group in optimizer.param_groups:
            group["lr"] = args.rate * pace(step, done)
        if step < args.warm or rng.random() < args.mix:
            loss, name = distil_step(student, kit, rng, args.tokens), "distil"
        else:
            size = args.tokens * (2 if done >= args.late else 1)
            loss, name, each = retrieval_step(student, kit, rng, size)
            running.setdefault("modes", []).append(float(each[3]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step >= args.warm:
            average.update(student)
        running.setdefault(name, []).append(float(loss.detach()))
        step += 1
        if step % 100 == 0:
            means = {key: round(float(np.mean(value)), 3) for key, value in running.items()}
            print(f"{step} {(time.time() - start) / 60:.1f} min {means}", flush=True)
            running = {}
            args.steps = _planned(args, done)
        if args.cache and step % args.save_every == 0:
            with average.applied(student):
                print(json.dumps(kit.dev.run(student)), flush=True)
                export.save(student, kit.tokenizer, args.cache / "early")
    average.apply(student)
    return {"steps": args.steps, "minutes": round((time.time() - start) / 60, 1)}


def main() -> None:
    """Prepares, trains, measures and exports."""
    args = arguments()
    torch.set_num_threads(2)
    began = time.time()
    kit = _kit(args)
    print(f"prepared in {time.time() - began:.0f} s", flush=True)
    took: dict[str, Any] = dict(fit(args, kit))
    took["calibration"] = calibrate(kit.student, kit.dev)
    took["dev"] = kit.dev.run(kit.student)
    print(json.dumps(took), flush=True)
    export.save(kit.student, kit.tokenizer, args.out)
    (args.out / "training.json").write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
