"""Every error and warning that dallemini raises on purpose.

Each error is a `DalleMiniError` and also the builtin kind that a caller would expect, so that both
`except DalleMiniError` and `except ValueError` work. A message says what is wrong, what came, what
was expected, and what to do next.
"""

from __future__ import annotations


class DalleMiniError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(DalleMiniError, ValueError):
    """A configuration asks for something that does not exist or does not fit."""


class InputError(DalleMiniError, ValueError):
    """A caller's value is out of range, empty, or does not fit its neighbours."""


class InputTypeError(DalleMiniError, TypeError):
    """A caller's value has the wrong type."""


class CheckpointError(DalleMiniError, ValueError):
    """A checkpoint is corrupt, unsafe, incomplete, or disagrees with its configuration."""


class UnsupportedModelError(CheckpointError):
    """A checkpoint is readable but belongs to an architecture that this library does not model."""


class MissingFileError(DalleMiniError, FileNotFoundError):
    """A file or folder that was asked for does not exist."""


class HubError(DalleMiniError, OSError):
    """The Hugging Face Hub could not be reached, refused, or lacks what was asked for."""


class StorageError(DalleMiniError, OSError):
    """A file could not be written: read-only folder, full disk."""


class MissingDependencyError(DalleMiniError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class UnsupportedOperationError(DalleMiniError, RuntimeError):
    """This model lacks the part that the operation needs, such as a VQGAN's encoder."""


class GenerationCancelled(DalleMiniError, RuntimeError):  # noqa: N818 - what it is, not a fault
    """For a callback to raise, so that the call it watches ends; nothing else raises it."""


class SafetyError(DalleMiniError, ValueError):
    """A safety checker refused a prompt or a picture; the message says why."""


class DalleMiniWarning(UserWarning):
    """Base of the warnings of this package, so that they can be filtered together."""
