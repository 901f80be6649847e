"""An import that fails names the extra that installs what it needs."""

import pytest

from skipsr_jax.errors import MissingExtraError, UserError, imports_of_extra, one_line


def test_a_missing_extra_is_a_user_error_and_an_import_error():
    with pytest.raises(MissingExtraError) as raised, imports_of_extra("train"):
        import no_such_module  # noqa: F401
    assert isinstance(raised.value, UserError) and isinstance(raised.value, ImportError)
    assert str(raised.value) == ("no_such_module is not installed: pip install 'skipsr-jax[train]'")
    assert raised.value.name == "no_such_module"


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), imports_of_extra("train"):
        1 / 0  # noqa: B018


def test_whatever_a_file_is_called_its_name_is_one_line():
    assert one_line("a\nb\tc\x1b[1m\udce9.mp4") == "a\\nb\\tc\\x1b[1m\\udce9.mp4"
    assert one_line("Grüße 日本.mp4") == "Grüße 日本.mp4"
