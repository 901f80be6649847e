"""Parses command lines: flags, and a config with overrides. Each mistake is one clear line.

``--config=NAME`` names a config that comes with the package, or a Python file with
``get_config()``; ``--config.a.b=value`` overrides one entry. The file holds what differs from the
defaults of the program's settings; the command line takes every key that the settings have.
Invariant: an unknown flag, an unknown key or a value of the wrong type raises UserError before
anything else happens.
"""

import ast
import os
import pathlib
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from skipsr_jax.config import flattened, suggestion, value_text
from skipsr_jax.errors import UserError, message_of, one_line, system_errors
from skipsr_jax.resources import config_names, find_config

_NOT_A_NUMBER = re.compile(
    r"flag (?P<flag>--\S+?)=(?P<value>.*?): "
    r"(?P<reason>invalid literal for int|could not convert string to float|Exceeds the limit).*"
)
"""Messages of absl with Python's words for text that is no number."""


def _split_config(argv: Sequence[str], default: str) -> tuple[str, list[str]]:
    """Returns the value of --config (the last one, else ``default``) and the other arguments."""
    name, rest, position = default, [], 0
    while position < len(argv):
        argument = argv[position]
        if argument in ("--config", "-config"):
            position += 1
            if position == len(argv):
                raise UserError("--config needs a name or a file: --config=tiny")
            name = argv[position]
        elif argument.startswith(("--config=", "-config=")):
            name = argument.split("=", 1)[1]
        else:
            rest.append(argument)
        position += 1
    return name, rest


def read_config(name: str, trains: bool | None = None) -> ConfigDict:
    """Returns what ``get_config()`` of a config returns.

    Args:
      name: of a config that comes with the package, or the path of a Python file.
      trains: whether the message about an unknown name lists the configs of training stages (True)
        or those of models to upscale with (False). None: both.

    Raises:
      UserError: there is no such config, or the file does not define a config.
    """

    def is_listed(other: str) -> bool:
        return trains is None or ("stage" in read_config(other)) == trains

    path = find_config(name, is_listed)
    try:
        namespace = runpy.run_path(path)
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror or error}") from error
    except SyntaxError as error:
        raise UserError(
            f"the config {path} is not Python: line {error.lineno}, {error.msg}"
        ) from error
    get_config = namespace.get("get_config")
    if not callable(get_config):
        raise UserError(f"the config {path} has no get_config() function")
    config = get_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {path} returns {type(config).__name__}, not a ConfigDict")
    return config


def _check_keys(argv: Sequence[str], config: ConfigDict) -> None:
    """Raises UserError for a --config.key that the config does not have, with similar keys."""
    known = list(flattened(config.to_dict()))
    for argument in argv:
        name = argument.split("=", 1)[0].lstrip("-")
        if not argument.startswith("-") or not name.removeprefix("no").startswith("config."):
            continue
        key = name.removeprefix("no").removeprefix("config.")
        if key not in known:
            raise UserError(f"the config has no key {key!r}: {suggestion(key, known)}")


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line wants the list of flags and nothing else."""
    return any(argument in ("--help", "-help", "-h") for argument in argv)


def entry_lines(config: ConfigDict, texts: dict[str, str], within: str = "") -> Iterator[str]:
    """The lines that explain the entries of a config whose dotted names begin with ``within``.

    ``texts``: of each entry.
    """
    for key, value in flattened(config.to_dict()).items():
        if key.startswith(within):
            yield f"  --config.{key}={value!r}"
            if texts.get(key):
                yield textwrap.fill(
                    texts[key], 98, initial_indent=" " * 6, subsequent_indent=" " * 6
                )


def config_lines(is_wanted: Callable[[ConfigDict], bool]) -> Iterator[str]:
    """The names of the configs of the package that a program takes, and what each is for."""
    for name in config_names():
        if is_wanted(read_config(name)):
            about = ast.get_docstring(ast.parse(pathlib.Path(find_config(name)).read_text("utf-8")))
            yield f"  {name:24} {(about or '').splitlines()[0]}"


def end_with_help(about: str, values: flags.FlagValues, more: str = "") -> NoReturn:
    """Prints the description of a program, its flags and ``more``, and exits with status 0."""
    try:
        print(f"{about}\nflags:\n{values.get_help()}{more}", flush=True)
    except BrokenPipeError:  # the reader, such as head, has enough; Python flushes again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _own_words(error: flags.Error) -> UserError:
    """The error for a flag that cannot be parsed, with the kind of value that it takes."""
    message = message_of(error)
    found = _NOT_A_NUMBER.fullmatch(message)
    if not found:
        return UserError(message)
    kinds = {"i": "an integer", "c": "a number", "E": "an integer of 64 bits"}
    kind = kinds[found["reason"][0]]
    return UserError(f"{found['flag']} is {value_text(found['value'])}: it must be {kind}")


def print_result(run: Callable[[Sequence[str]], str], argv: Sequence[str]) -> int:
    """Prints what ``run(argv)`` returns, and returns the exit status of the program.

    It is 0, or 1 after a UserError, or what the system refuses, as one line on stderr that begins
    with the program's name.
    """
    try:
        with system_errors():
            print(run(argv))
    except UserError as error:
        print(f"{pathlib.Path(argv[0]).name}: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


def parse_flags(
    argv: Sequence[str], flag_values: flags.FlagValues, about: str = "", example: str = "out"
) -> flags.FlagValues:
    """Parses ``argv`` into flags. Every argument has to be a flag or the value of one.

    Args:
      argv: as in sys.argv: the program's name comes first.
      flag_values: the flags that the program defines.
      about: the program's description, for --help.
      example: the flag that the message proposes for an argument without a flag.

    Returns:
      ``flag_values``, with the values of ``argv``.

    Raises:
      SystemExit: --help was given; the help has been printed.
      UserError: an unknown flag, a value of the wrong type, or an argument without a flag.
    """
    if asks_for_help(argv):
        end_with_help(about, flag_values)
    try:
        rest = flag_values(list(argv))
    except flags.Error as error:
        raise _own_words(error) from error
    if len(rest) > 1:
        raise UserError(
            f"{rest[1]!r} belongs to no flag: write, for example, --{example}={rest[1]}"
        )
    return flag_values


def parse(
    argv: Sequence[str],
    default_config: str,
    flag_values: flags.FlagValues,
    about: str = "",
    complete: Callable[[ConfigDict], ConfigDict] = lambda config: config,
    explain: Callable[[ConfigDict], dict[str, str]] = lambda config: {},
    trains: bool = False,
) -> tuple[flags.FlagValues, ConfigDict]:
    """Parses ``argv`` into flags and the locked config with its overrides.

    Args:
      argv: as in sys.argv: the program's name comes first.
      default_config: the name or the file of the config when --config is not given.
      flag_values: the flags that the program defines besides --config.
      about: the program's description, for --help.
      complete: adds the keys that the file leaves out, with their defaults: ``complete`` of the
        program's settings.
      explain: the text of each entry for --help: ``explain`` of the program's settings.
      trains: whether the program takes the configs of training stages, or those of models to
        upscale with: the ones that are listed.

    Returns:
      ``flag_values`` with the values of ``argv``, and the config.

    Raises:
      SystemExit: --help was given; the help has been printed.
      UserError: an unknown flag or key, a value of the wrong type, a config that cannot be read.
    """
    name, argv = _split_config(argv, default_config)
    config = complete(read_config(name, trains))
    if asks_for_help(argv):
        lines = [
            "\n\nconfigs:",
            *config_lines(lambda other: ("stage" in other) == trains),
        ]
        lines += [f"\nentries of {name}:", *entry_lines(config, explain(config))]
        end_with_help(about, flag_values, "\n".join(lines))
    _check_keys(argv, config)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, "A config's name or file; --config.a.b=value overrides.",
            flag_values=flag_values, sys_argv=argv, lock_config=True,
        )  # fmt: skip
    except flags.Error as error:
        raise _own_words(error) from error
    return parse_flags(argv, flag_values, example="input"), flag_values.config
