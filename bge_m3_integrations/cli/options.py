"""Options and messages that commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

PLAIN_WIDTH = 100
DEBUG = "bge_m3_debug"


def remember_debug(ctx: typer.Context, value: bool) -> bool:
    """Keep that --debug was given, anywhere on the line."""
    ctx.meta[DEBUG] = bool(ctx.meta.get(DEBUG)) or value  # meta is shared with the parent
    return value


Debug = Annotated[
    bool, typer.Option("--debug", callback=remember_debug, help="Show errors with traceback.")
]
Model = Annotated[
    str | None,
    typer.Option(help="Hub id such as BAAI/bge-m3, or a folder. Default: the small demo model."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")]


def chosen_model(model: str | None) -> str:
    """The model's name or folder; says on stderr when it is the demo model."""
    if model is not None:
        return model
    from bge_m3_integrations.demo import checkpoint_path

    path = checkpoint_path()
    say("note: this is the small demo model, NOT BAAI/bge-m3; for real use pass --model")
    return str(path)


def console(*, stderr: bool = False) -> Console:
    """The terminal; a pipe gets a fixed width."""
    made = Console(stderr=stderr)
    if made.is_terminal:
        return made
    asked = os.environ.get("COLUMNS", "")
    width = int(asked) if asked.isdecimal() and int(asked) > 0 else PLAIN_WIDTH
    return Console(stderr=stderr, width=width)


def say(message: str, *, style: str = "") -> None:
    """Tell the user something on stderr."""
    console(stderr=True).print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def note(message: str) -> None:
    """Tell the user what may surprise."""
    say(f"note: {message}")
