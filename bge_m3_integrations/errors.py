"""The package's errors: each message names what was given, what was expected, and the fix."""

from __future__ import annotations


class BGEM3Error(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(BGEM3Error, ValueError):
    """A caller's argument cannot be used: wrong type, shape, range or content."""


class KeywordError(InputError, TypeError):
    """A call has a keyword that the signature lacks; the message says which one was meant."""


class CheckpointError(BGEM3Error, OSError):
    """A checkpoint is missing, incomplete, misshapen or unreachable."""


class MissingHeadError(CheckpointError, InputError):
    """A mode was asked for whose head is not among the checkpoint's files."""


class EncodingError(BGEM3Error, RuntimeError):
    """The model could not turn a text into finite numbers of a length above zero.

    Args:
        reason: What is wrong with the text's numbers.
        position: The text's place in the caller's list.
        name: What the caller knows the text by; None is "text" and its position.
    """

    def __init__(self, reason: str, position: int = 0, name: str | None = None) -> None:
        super().__init__(reason, position, name)
        self.reason = reason
        self.position = position
        self.name = name

    def __str__(self) -> str:
        return f"{self.name or f'text {self.position}'} {self.reason}"


class FilterError(InputError):
    """A metadata filter has an unknown operator or a malformed value."""


class StoreError(BGEM3Error, RuntimeError):
    """A store refuses an operation: foreign data, missing mode, closed handle."""


class WorkerError(BGEM3Error, RuntimeError):
    """A worker process ended before it answered; the message says how."""


class MissingExtraError(BGEM3Error, ImportError):
    """An optional package is not installed; the message holds the pip line."""


class TruncationWarning(UserWarning):
    """Texts were longer than the length limit; the message counts texts and tokens dropped."""


class FilterWarning(UserWarning):
    """A filter matches nothing and asks about a metadata key that no record has."""


class MissingHeadWarning(UserWarning):
    """A checkpoint lacks a head, and a default was narrowed to the modes that it has."""


class PoolingWarning(UserWarning):
    """An explicit pooling contradicts the checkpoint's own configuration."""


class CalibrationWarning(UserWarning):
    """A calibration rests on little, or the one beside an index is of no use."""
