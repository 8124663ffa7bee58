"""How each command starts and ends.

A command is a module with flags and `main(argv)`; it ends with `cli.run(main)`. Exit status 0 is
success (and --help), 1 a UserError, a config file that cannot be loaded or a full disk, 2 a wrong
flag or config key, 130 an interrupt from the keyboard; each but 0 prints one line on stderr. A
training that was preempted and has saved ends with 75. Every other exception is a fault of ours and
keeps its traceback.
"""

import difflib
import logging
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from owl_jax.errors import Ended, UserError, disk_full

# The config flag belongs to the command that asks for it, and its --help shows it.
flags.disclaim_key_flags()


def define_config_flag() -> flags.FlagHolder[ConfigDict]:
    """Defines the required flag --config=FILE[:ARGUMENT] with --config.KEY=VALUE overrides.

    The file defines get_config(), which returns an ml_collections.ConfigDict and receives the
    argument if there is one. The config is locked: only keys that it has can be overridden.
    """
    flag = config_flags.DEFINE_config_file(
        "config",
        help_string="a Python file with get_config(); --config.KEY=VALUE overrides one of its keys",
    )
    flags.mark_flag_as_required("config")
    return flag


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags of the command line, calls `main` and exits; it never returns.

    Args:
      main: takes [program name]; commands take flags only, anything else is refused. What it
        returns is the exit status, None meaning 0.
    """
    # JAX tells, on machines without one, that it looked for a TPU.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        app.run(main, flags_parser=_parse_flags)
    except flags.Error as error:
        leave(" ".join(str(error).split()) + " (--help lists the flags)", 2)
    except UserError as error:
        leave(str(error), 1)
    except KeyboardInterrupt as interrupt:
        leave(str(interrupt) or "interrupted", 130)
    except Ended as end:
        print(end, flush=True)
        sys.exit(end.status)
    except Exception as error:
        if isinstance(error, OSError) and disk_full(error):
            where = f"{error.filename}: " if error.filename else ""
            leave(f"{where}{error.strerror}; free some space and run the same command again", 1)
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        _leave_the_others(1)


def leave(message: str, status: int) -> NoReturn:
    """Ends the process with one line on stderr."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    if _is_one_of_several():
        _leave_the_others(status)
    sys.exit(status)


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return bool(jax and jax.distributed.is_initialized())


def _leave_the_others(status: int) -> NoReturn:
    # On the usual way out a process would wait for the others, and they for its part of the step.
    # Without it they are told that it is gone, and end, too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parse_flags(argv: list[str]) -> list[str]:
    if "config" in flags.FLAGS:
        _check_config(flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False))
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        # Only --help and its kin exit while flags are parsed; absl gives them status 1.
        sys.exit(0)
    if flags.FLAGS["verbosity"].using_default_value:
        absl_logging.set_verbosity(absl_logging.WARNING)  # libraries of data sets tell what they do
    if len(rest) > 1:
        raise flags.Error(f"unexpected argument {rest[1]!r}; every flag is written --name=value")
    return rest


def _check_config(arguments: list[str]) -> None:
    """Finds what is wrong with --config and its overrides before ml_collections does.

    It would answer a missing file with OSError when the config is first used, and a misspelt key
    with KeyError, AttributeError or ValueError, by its form.
    """
    source = None
    overrides = []
    for i, argument in enumerate(arguments):
        if argument in ("--config", "-config"):
            source = "".join(arguments[i + 1 : i + 2])
        elif match := re.match(r"--?config=(.*)", argument):
            source = match[1]
        elif match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            overrides.append(match[1])
    if source is None:
        if overrides:
            raise flags.Error(
                f"--config.{overrides[0]} overrides nothing; give --config=FILE first"
            )
        return
    path, _, parameter = source.partition(":")
    config = _load_config(path, parameter)
    for key in overrides:
        name, bracket, _ = key.partition("[")
        try:
            config_path.get_type(name, config)
        except (KeyError, AttributeError, IndexError, ValueError, TypeError):
            raise flags.Error(_unknown_key(name, path, config)) from None
        if bracket:
            raise flags.Error(
                f"--config.{key}: an override gives a whole value; write --config.{name}=VALUE"
            )


def _load_config(path: str, parameter: str) -> ConfigDict:
    if not Path(path).is_file():
        raise UserError(f"config file {path!r} does not exist; give --config=FILE")
    try:
        get_config = runpy.run_path(path).get("get_config")
        config = get_config(*([parameter] if parameter else [])) if get_config else None
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except UserError:
        raise
    except Exception as error:
        inside = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        where = f", line {inside[-1]}" if inside else ""
        raise UserError(f"config file {path}{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config file {path} must define get_config() that returns an ml_collections.ConfigDict"
        )
    return config


def _unknown_key(key: str, path: str, config: ConfigDict) -> str:
    keys = list(_dotted_keys(config))
    last = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, keys, 1) or [
        known for known in keys if known.rpartition(".")[2] == last
    ]
    hint = f"did you mean --config.{near[0]}?" if near else f"its keys are {', '.join(keys)}"
    return f"--config.{key}: {path} has no such key; {hint}"


def _dotted_keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _dotted_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
