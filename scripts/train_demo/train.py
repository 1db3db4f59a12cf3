"""Trains the demo checkpoint: `python -m scripts.train_demo.train --data D --out O`."""

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
from transformers import XLMRobertaTokenizer

from scripts.train_demo import data, export, lexicon, losses, model, tokenizer
from scripts.train_demo.calibrate import calibrate
from scripts.train_demo.distil import Distillation
from scripts.train_demo.evaluate import Dev, pad
from scripts.train_demo.synth import Vocabulary
from scripts.train_demo.tasks import SHARES, SHORT, SYMMETRIC, Pieces, Tasks
from scripts.train_demo.teacher import Teacher

VOCABULARY = 15000
CHINESE_WORDS = 1300


def arguments() -> argparse.Namespace:
    """Reads the command line.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with xquad, cmrc2018, ..")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=40, help="training time, without set-up")
    parser.add_argument("--steps", type=int, help="train this many steps instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=5e-4, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in one batch")
    parser.add_argument("--warm", type=float, default=0.3, help="share with distillation only")
    parser.add_argument("--mix", type=float, default=0.35, help="share of distillation after it")
    parser.add_argument("--cache", type=Path, help="folder that keeps the prepared data")
    parser.add_argument("--synthetic", type=int, default=150_000, help="how many made-up texts")
    parser.add_argument("--start", type=Path, help="continue from this checkpoint")
    parser.add_argument("--save-every", type=float, default=8, help="minutes between states")
    return parser.parse_args()


def prepare(root: Path, seed: int, synthetic: int) -> dict[str, Any]:
    """Builds everything that comes before the first step.

    Args:
        root: The data folder.
        seed: The seed.
        synthetic: How many made-up texts.

    Returns:
        The tokenizer, the tasks, the distillation data, the development set and a new student.
    """
    torch.manual_seed(seed)
    train, dev = data.load(root)
    teacher = Teacher()
    parallel = [right for _, right in train.parallel]
    chinese = [text for key, text in train.docs.items() if not key.startswith("en-")]
    tok = tokenizer.build(teacher, [*parallel * 3, *chinese], VOCABULARY, CHINESE_WORDS)
    pieces = Pieces(tok)
    bare = tok.convert_tokens_to_ids("▁")

    def cut(text: str) -> list[int]:
        return [i for i in pieces.text(pieces.words(text))[1:-1] if i != bare]

    pairs = [(cut(left), cut(right)) for left, right in train.parallel]
    to_english, to_chinese = lexicon.translations(pairs, len(tok))
    words = {
        source: tok.convert_ids_to_tokens(max(heads, key=lambda i: heads[i]))
        for source, heads in to_chinese.items()
        if tok.convert_ids_to_tokens(source).startswith("▁") and max(heads.values()) > 0.2
    }
    words = {source: word for source, word in words.items() if tokenizer.HAN.fullmatch(word)}
    print(f"{len(to_english)} Chinese pieces with a translation, {len(words)} English", flush=True)
    vocabulary = Vocabulary(teacher)
    tasks = Tasks(train, pieces, vocabulary, words)
    distillation = Distillation(teacher, vocabulary, tasks, synthetic, seed)
    student = model.Student(len(tok))
    neurons = model.keep_neurons(teacher, distillation.targets.texts[:4000:4])
    model.initialise(student, teacher, tok, neurons, to_english)
    return {
        "tokenizer": tok,
        "tasks": tasks,
        "distillation": distillation,
        "dev": Dev(train, dev, pieces, vocabulary),
        "student": student,
        "idf": idf(tok),
    }


def idf(tok: XLMRobertaTokenizer) -> Tensor:
    """Guesses a sparse weight for each piece from its probability in the tokenizer.

    Args:
        tok: The tokenizer.

    Returns:
        A weight from 0 (frequent or a mere ending) to 0.35 (rare).
    """
    vocab = json.loads(tok.backend_tokenizer.to_str())["model"]["vocab"]
    weights = torch.tensor([min(max((-score - 6.5) / 4.5, 0.0), 1.0) for _, score in vocab])
    for place, (piece, _) in enumerate(vocab):
        if piece[0] != "▁" and piece.isascii():
            weights[place] *= 0.6
    weights[: model.SPECIAL_IDS] = 0
    return weights * 0.35


def distil_step(
    student: model.Student, kit: dict[str, Any], rng: random.Random, size: int
) -> Tensor:
    """One loss of distillation.

    Args:
        student: The student.
        kit: What `prepare` built.
        rng: The source of chance.
        size: Tokens in the batch.

    Returns:
        The loss.
    """
    batch = kit["distillation"].batch(rng, size, bilingual=0.5)
    ids, mask = pad(batch.rows)
    owner, _ = pad([[i + 2 for i in row] for row in batch.owners])
    owner = torch.where(mask > 0, owner - 2, -1)
    out = student(ids, mask)
    loss = losses.sentence_loss(out.dense, batch.vectors)
    if (owner >= 0).any():
        loss = loss + losses.word_loss(out.hidden, owner, batch.states)
    guess = torch.nn.functional.mse_loss(out.sparse[mask > 0], kit["idf"][ids[mask > 0]])
    return loss + 3 * guess


def retrieval_step(
    student: model.Student, kit: dict[str, Any], rng: random.Random, size: int
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
    rows = kit["tasks"].batch(task, rng, size if task in SHORT else 2 * size)
    keys = torch.tensor([row[2][0] for row in rows])
    same = (keys[:, None] == keys[None, :]) & ~torch.eye(len(keys), dtype=torch.bool)
    query = student(*pad([row[0] for row in rows]))
    doc = student(*pad([row[1] for row in rows]))
    loss, each = losses.contrastive_loss(student, query, doc, same, both=task in SYMMETRIC)
    return loss, task, each


def _kit(args: argparse.Namespace) -> dict[str, Any]:
    """Prepares, or takes what an earlier run with this seed prepared."""
    cached = args.cache / f"prepared-{args.seed}.pkl" if args.cache else None
    if cached and cached.exists():
        kit: dict[str, Any] = pickle.loads(cached.read_bytes())
    else:
        kit = prepare(args.data, args.seed, args.synthetic)
        if cached:
            args.cache.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(pickle.dumps(kit))
    if args.start:
        kit["student"].load_state_dict(export.load(args.start, kit["tokenizer"]))
    return kit


def _optimizer(student: model.Student, rate: float) -> torch.optim.AdamW:
    decay = [p for p in student.parameters() if p.ndim > 1]
    plain = [p for p in student.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def fit(args: argparse.Namespace, kit: dict[str, Any]) -> dict[str, float]:
    """Trains the student.

    Args:
        args: The options.
        kit: What `prepare` built.

    Returns:
        How many steps and minutes it took.
    """
    student: model.Student = kit["student"]
    student.train()
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    optimizer = _optimizer(student, args.rate)
    start, step, saved, minutes, done = time.time(), 0, 0, 0.0, 0.0
    running: dict[str, list[float]] = {}
    while done < 1:
        minutes = (time.time() - start) / 60
        done = (step + 1) / args.steps if args.steps else minutes / args.minutes
        rate = args.rate * min(1, (step + 1) / 150) * max(0.02, min(1.0, 1.25 * (1 - done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if done < args.warm or rng.random() < args.mix:
            loss, name = distil_step(student, kit, rng, args.tokens), "distil"
        else:
            loss, name, each = retrieval_step(student, kit, rng, args.tokens)
            running.setdefault("modes", []).append(float(each[3]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        running.setdefault(name, []).append(float(loss.detach()))
        step += 1
        if step % 100 == 0:
            means = {key: round(float(np.mean(value)), 3) for key, value in running.items()}
            print(f"{step} {minutes:.1f} min {done:.3f} {means}", flush=True)
            running = {}
        if args.cache and minutes > (saved + 1) * args.save_every:
            saved += 1
            print(json.dumps(kit["dev"].run(student)), flush=True)
            export.save(student, kit["tokenizer"], args.cache / "early")
    return {"steps": step, "minutes": round(minutes, 1)}


def main() -> None:
    """Prepares, trains, measures and exports."""
    args = arguments()
    torch.set_num_threads(2)
    began = time.time()
    kit = _kit(args)
    print(f"prepared in {time.time() - began:.0f} s", flush=True)
    took: dict[str, Any] = dict(fit(args, kit))
    took["calibration"] = calibrate(kit["student"], kit["dev"])
    took["dev"] = kit["dev"].run(kit["student"])
    print(json.dumps(took), flush=True)
    export.save(kit["student"], kit["tokenizer"], args.out)
    (args.out / "training.json").write_text(json.dumps(took, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
