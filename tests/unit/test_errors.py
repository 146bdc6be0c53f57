"""The tree of errors: one base, each also the builtin kind that a caller expects."""

from __future__ import annotations

import inspect

import pytest

from dallemini import errors
from dallemini.errors import DalleMiniError

BUILTIN_KINDS = {
    errors.ConfigError: ValueError,
    errors.InputError: ValueError,
    errors.InputTypeError: TypeError,
    errors.CheckpointError: ValueError,
    errors.UnsupportedModelError: ValueError,
    errors.MissingFileError: FileNotFoundError,
    errors.HubError: OSError,
    errors.StorageError: OSError,
    errors.MissingDependencyError: ImportError,
    errors.UnsupportedOperationError: RuntimeError,
    errors.GenerationCancelled: RuntimeError,
    errors.SafetyError: ValueError,
}


@pytest.mark.parametrize(("kind", "builtin"), BUILTIN_KINDS.items())
def test_error_is_also_its_builtin_kind(kind: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="what is wrong") as caught:
        raise kind("what is wrong")
    assert isinstance(caught.value, DalleMiniError)
    assert str(caught.value) == "what is wrong"


def test_every_error_of_the_module_is_in_the_tree() -> None:
    found = {
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, Exception) and not issubclass(member, Warning)
    }
    assert found == {DalleMiniError, *BUILTIN_KINDS}


def test_an_unsupported_model_is_a_checkpoint_error() -> None:
    assert issubclass(errors.UnsupportedModelError, errors.CheckpointError)


def test_the_warning_is_a_user_warning() -> None:
    assert issubclass(errors.DalleMiniWarning, UserWarning)
