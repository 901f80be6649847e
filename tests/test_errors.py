"""An import that fails names the extra that installs what it needs."""

import errno
import os

import pytest

from skipsr_jax.errors import (
    MissingExtraError,
    UserError,
    first_line,
    imports_of_extra,
    one_line,
    plural,
    system_errors,
)


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


def test_the_first_line_of_a_message_or_the_name_of_the_error():
    assert first_line(RuntimeError("INTERNAL: no kernel\n=== Source ===")) == "INTERNAL: no kernel"
    assert first_line(RuntimeError()) == "RuntimeError"


def test_what_the_system_refuses_is_a_line_with_the_name_of_the_file(tmp_path):
    long = tmp_path / ("a" * 300)
    with pytest.raises(UserError, match=r"/a{300}: File name too long$"), system_errors():
        long.is_file()
    with pytest.raises(UserError, match="a and b: Input/output error"), system_errors():
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a", None, "b")
    with pytest.raises(UserError, match=r"^Broken pipe$"), system_errors():
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    with pytest.raises(UserError, match=r"memory .* \(9 GiB\)$"), system_errors():
        raise MemoryError("9 GiB")
    with pytest.raises(UserError, match=r"^mine$"), system_errors():
        raise UserError("mine")


def test_one_has_no_plural():
    assert [plural(count, "frame") for count in range(3)] == ["0 frames", "1 frame", "2 frames"]
