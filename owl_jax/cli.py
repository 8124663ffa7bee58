"""Runs commands: flags, error messages, exit statuses.

A command is a module with flags and `main(argv)`; it ends with `cli.run(main)`. Exit status 0 is
success (and --help); 1 a UserError, a config file that cannot be loaded or a full disk; 2 a wrong
flag or config key; 130 Ctrl-C. Each of these but 0 comes with one line on stderr. 141, without a
message, means that the reader of stdout has gone (streams.py). A training run that was preempted
and has saved ends with 75. Every other exception is a bug in owl_jax and keeps its traceback.
"""

import difflib
import errno
import logging
import operator
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from owl_jax import shipped, streams
from owl_jax.command_names import as_called
from owl_jax.errors import Ended, UserError, capped, disk_full, one_line, printable, shown
from owl_jax.files import as_typed
from owl_jax.former_keys import replacement_of
from owl_jax.python_file import call_in_file
from owl_jax.version import __version__

# Otherwise the config flag would belong to this module, and a command's --help would not show it.
flags.disclaim_key_flags()

# The flags of all commands whose value is a path, to be expanded.
PATHS = frozenset(
    (
        *("adapter", "answers", "api_key_file", "base", "benchmark", "compare", "configs"),
        *("conversation", "data", "demo", "hlo", "image", "input", "json", "judge_key_file"),
        *("judge_replies", "media_root", "merge_adapter", "model", "output", "parts", "ratings"),
        *("source", "systems", "target", "video", "votes_file", "workdir"),
    )
)
# Flags for which an empty value means none.
_MAY_BE_EMPTY = frozenset({"adapter", "hlo", "json", "media_root"})
# Flags of output paths: operating-system errors about them are user errors.
_WRITTEN = ("workdir", "target", "output", "json", "hlo")


def define_config_flag() -> flags.FlagHolder[ConfigDict]:
    """Defines the required flag --config=FILE[:ARGUMENT] with --config.KEY=VALUE overrides.

    The file defines get_config(), which returns an ml_collections.ConfigDict and receives the
    argument if there is one. NAME[:ARGUMENT] is a config that ships with owl_jax (shipped.py),
    unless there is a file of that name. The config is locked: only existing keys can be overridden.
    """
    _with_flag_files(sys.argv[1:])  # reports a bad --flagfile, which the definition reads
    flag = config_flags.DEFINE_config_file(
        "config",
        help_string="a Python file with get_config(), or the name of a config that ships, such as "
        "stage2; --config.KEY=VALUE overrides one of its keys",
    )
    flags.mark_flag_as_required("config")
    return flag


def define_parts_flag() -> flags.FlagHolder[list[str]]:
    """Defines the repeatable flag --parts=FILE (models/own_parts.py)."""
    return flags.DEFINE_multi_string(
        "parts", [], "a Python file with parts of your own that the model has; repeatable"
    )


Groups = Mapping[str, Sequence[flags.FlagHolder[Any]]]


def run(main: Callable[[list[str]], int | None], groups: Groups | None = None) -> None:
    """Parses the command line, calls `main` and exits; never returns.

    Args:
      main: takes [program name], since commands take flags only. Returns the exit status; None
        means 0.
      groups: the flags under the headings that --help shows, for a command with many.
    """
    streams.run(lambda: _call(main, groups))


def _call(main: Callable[[list[str]], int | None], groups: Groups | None) -> None:
    # absl made its handler at import, for the former stderr.
    absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)
    # Without a TPU, JAX logs that it found none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        app.run(main, flags_parser=partial(_parse_flags, groups=groups))
    except flags.Error as error:
        leave(" ".join(str(error).split()) + " (--help lists the flags)", 2)
    except UserError as error:
        leave(str(error), 1)
    except KeyboardInterrupt as interrupt:
        leave(str(interrupt) or "interrupted", 130)
    except Ended as end:
        say(end)
        sys.exit(end.status)
    except Exception as error:
        if isinstance(error, OSError) and disk_full(error):
            where = f"{error.filename}: " if error.filename else ""
            leave(f"{where}{error.strerror}; free some space and run the same command again", 1)
        if isinstance(error, OSError) and (flag := _written_by(error)) is not None:
            what = "" if flag.value == error.filename else f"{error.filename}: "
            leave(
                f"--{flag.name}={flag.value} cannot be used ({what}{error.strerror}); give another "
                "path",
                1,
            )
        if not _is_one_of_several():
            raise
        traceback.print_exc()
        _leave_the_others(1)


def leave(message: str, status: int) -> NoReturn:
    """Ends the process with one line on stderr."""
    print(f"error: {capped(printable(as_called(message)))}", file=sys.stderr, flush=True)
    if _is_one_of_several():
        _leave_the_others(status)
    sys.exit(status)


@contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """Makes Ctrl-C inside the block end the process with status 130 and one line, not an exception.

    For a start that has nothing to save. An ignored SIGINT stays ignored.
    """
    former = signal.getsignal(signal.SIGINT)

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, b"error: interrupted\n")
        os._exit(130)

    if threading.current_thread() is threading.main_thread() and callable(former):
        signal.signal(signal.SIGINT, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)
    else:
        yield


def say(text: object) -> None:
    """Prints text that may contain untrusted parts, such as file names."""
    print(printable(str(text), keep="\n\t"), flush=True)


def command_line() -> str:
    """This process's command, for a shell."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return printable(shlex.join(["python", *program, *sys.argv[1:]]))


def _written_by(error: OSError) -> flags.Flag | None:
    """The output flag whose path `error` is about."""
    if error.filename is None or isinstance(error.filename, int):
        return None
    path = Path(os.path.abspath(os.fsdecode(error.filename)))  # noqa: PTH100 - links stay
    for name in _WRITTEN:
        if name in flags.FLAGS and flags.FLAGS[name].value:
            flag = flags.FLAGS[name]
            top = Path(os.path.abspath(str(flag.value)))  # noqa: PTH100
            # A missing file inside the output is our bug.
            within = top in path.parents and error.errno != errno.ENOENT
            if path == top or path in top.parents or within:
                return flag
    return None


def _is_one_of_several() -> bool:
    jax = sys.modules.get("jax")
    return bool(jax and jax.distributed.is_initialized())


def _leave_the_others(status: int) -> NoReturn:
    # A normal exit would wait for the other processes, which wait for this one to finish its step.
    # After os._exit, JAX tells them that this process has gone, and they end too.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parse_flags(argv: list[str], groups: Groups | None = None) -> list[str]:
    given = _with_flag_files(argv[1:])
    if {"--version", "-version"} & set(given):
        print(f"owl_jax {__version__}")
        sys.exit(0)
    if {"--help", "-help", "--helpshort", "-helpshort"} & set(given):
        print(_help(groups or {"flags": flags.FLAGS.get_key_flags_for_module(argv[0])}))
        sys.exit(0)
    if "config" in flags.FLAGS:
        given = _check_config(given)
    try:
        rest = flags.FLAGS([*argv[:1], *given])
    except SystemExit:
        # Only --help and similar flags exit during parsing; absl gives them status 1.
        sys.exit(0)
    if flags.FLAGS["verbosity"].using_default_value:
        absl_logging.set_verbosity(absl_logging.WARNING)  # data libraries log every step
    if len(rest) > 1:
        raise flags.Error(f"unexpected argument {rest[1]!r}; every flag is written --name=value")
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if name in PATHS:
            flag.value = _each(flag.value, partial(_path, name))
        elif not name.startswith("config"):
            flag.value = _each(flag.value, _text)
    if "workdir" in flags.FLAGS and flags.FLAGS["workdir"].value:
        _check_folder(flags.FLAGS["workdir"].value)
    if "config" in flags.FLAGS:
        _expand_config(flags.FLAGS["config"].value)
    return rest


def _help(groups: Mapping[str, Iterable[flags.FlagHolder[Any] | flags.Flag]]) -> str:
    """The command's docstring, and its flags by group."""
    lines = [as_called(sys.modules["__main__"].__doc__ or "").strip()]
    for heading, members in groups.items():
        lines += ["", f"{heading}:"]
        for member in members:
            flag = flags.FLAGS[member.name]
            default = "" if flag.default in (None, [], False) else f" (default: {flag.default})"
            repeats = ";\n    repeat this option to specify a list of values"
            name = f"[no]{flag.name}" if flag.default is True else flag.name
            text = f"--{name}: {str(flag.help).removesuffix(repeats)}{default}"
            lines.append(flags.text_wrap(text, indent="      ", firstline_indent="  "))
    return "\n".join(lines)


def _with_flag_files(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS.read_flags_from_files(arguments, force_gnu=False)
    except (flags.Error, UnicodeDecodeError) as error:
        leave(
            f"--flagfile: {one_line(error)}; name a text file in UTF-8, with one flag per line", 2
        )


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_each(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _path(flag: str, value: str) -> str:
    if not value and flag not in _MAY_BE_EMPTY:
        raise UserError(f"--{flag}= is empty; give it a value")
    if flag in _WRITTEN and flag != "workdir" and re.match(r"(?!file:)[A-Za-z][\w+.-]*://", value):
        raise UserError(f"--{flag}={value}: a URL; expected a path on this machine")
    path = as_typed(value)
    if flag in _WRITTEN:
        try:
            os.fsencode(path).decode("utf-8")
        except UnicodeError:  # libraries that write arrays and JSON accept nothing else
            raise UserError(f"--{flag}={path}: not UTF-8; give it a UTF-8 name") from None
    return path


def _text(value: str) -> str:
    """Decodes an argument as UTF-8 if the locale could not: it may be text to tokenise."""
    is_decoded = not any("\ud800" <= character <= "\udfff" for character in value)
    return value if is_decoded else os.fsencode(value).decode("utf-8", errors="replace")


def _check_folder(workdir: str) -> None:
    """Raises UserError if the workdir or one of its parents is not a folder."""
    path = Path(workdir)
    for folder in (path, *path.parents):
        try:
            is_folder = folder.is_dir()
            exists = is_folder or folder.exists() or folder.is_symlink()
        except OSError as error:
            raise UserError(f"--workdir={workdir}: {error.strerror}; give a folder") from None
        if exists and not is_folder:
            what = "a file" if folder.exists() else "a broken link"
            subject = "" if folder == path else f"{folder} "
            raise UserError(f"--workdir={workdir}: {subject}is {what}; give a folder")
        if is_folder:
            return


def _expand_config(config: ConfigDict) -> None:
    """Expands the paths in a training config like those of flags."""
    for holder, names in (
        (config.get("init"), None),
        (config, ("tokenizer",)),
        (config.get("data"), ("media_root",)),
        (config.get("model"), ("conversation",)),
    ):
        if isinstance(holder, ConfigDict):
            for name in names or list(holder):
                if isinstance(holder.get(name), str):
                    holder[name] = as_typed(holder[name])
    if isinstance(config.get("parts"), tuple):
        config.parts = tuple(
            as_typed(file) if isinstance(file, str) else file for file in config.parts
        )
    data = config.get("data")
    mixture = data.get("mixture") if isinstance(data, ConfigDict) else None
    if isinstance(mixture, tuple):
        data.mixture = tuple(
            tuple(
                as_typed(item) if isinstance(item, str) and index != 1 else item  # 1: the weight
                for index, item in enumerate(entry)
            )
            if isinstance(entry, tuple | list)
            else entry
            for entry in mixture
        )


def _check_config(arguments: list[str]) -> list[str]:
    """Checks --config and its overrides. Returns the arguments with the config's path expanded.

    ml_collections would raise OSError for a missing file only when the config is first used, and
    KeyError, AttributeError or ValueError for a misspelt key.
    """
    source = None
    overrides = []
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        if argument in ("--config", "-config"):
            source = "".join(arguments[i + 1 : i + 2])
            arguments[i + 1 : i + 2] = [_config_file(source)]
        elif match := re.match(r"--?config=(.*)", argument, re.DOTALL):
            source = match[1]
            arguments[i] = f"--config={_config_file(source)}"
        elif match := re.match(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL):
            following = "".join(arguments[i + 1 : i + 2])
            overrides.append((match[1], following if match[2] is None else match[2]))
    if source is None:
        if overrides:
            raise flags.Error(
                f"--config.{overrides[0][0]} overrides nothing; give --config=FILE first"
            )
        return arguments
    path, _, parameter = _config_file(source).partition(":")
    config = _load_config(path, parameter)
    for key, value in overrides:
        name, bracket, _ = key.partition("[")
        try:
            config_path.get_type(name, config)
        except (KeyError, AttributeError, IndexError, ValueError, TypeError):
            raise flags.Error(_unknown_key(name, path, config)) from None
        if bracket:
            raise flags.Error(
                f"--config.{key}: overrides replace whole values; write --config.{name}=VALUE"
            )
        section = operator.attrgetter(name)(config)
        if isinstance(section, ConfigDict) and not value.lstrip().startswith("{"):
            raise flags.Error(_is_a_section(name, value, list(section)))
    return arguments


def _config_file(source: str) -> str:
    """FILE[:ARGUMENT] with FILE expanded, or with the file of a config that ships for its name."""
    scheme = source[:5] if source[:5].lower() == "file:" else ""
    path, colon, parameter = source[len(scheme) :].partition(":")
    path = as_typed(scheme + path)
    if not Path(path).is_file():
        path = shipped.config_file(path) or path
    return f"{path}{colon}{parameter}"


def _load_config(path: str, parameter: str) -> ConfigDict:
    if not Path(path).is_file():
        local = Path("configs") / path
        near = local if local.is_file() else shipped.nearest_name(path)
        hint = f"did you mean --config={near}? Or give" if near else "give"
        raise UserError(
            f"config file {shown(path, 200)} does not exist; {hint} --config=FILE, or the name of "
            f"a config that ships with owl_jax: {', '.join(shipped.config_names())}"
        )
    config = call_in_file(path, "get_config", parameter, "config file")
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config file {path} must define get_config() that returns an ml_collections.ConfigDict"
        )
    return config


def _is_a_section(name: str, value: str, keys: list[str]) -> str:
    """The message for a value that is given to a section of the config."""
    hint = "override one of them"
    if value and "kind" in keys:
        hint = f"use --config.{name}.kind={value}"
    elif value and "architecture" in keys:  # parts of different architectures have different keys
        hint = "override one of them, or name another part in the config file (configs/modern.py)"
    return f"--config.{name}={value}: a section, with the keys {', '.join(keys)}; {hint}"


def _unknown_key(key: str, path: str, config: ConfigDict) -> str:
    if change := replacement_of(key):
        return f"--config.{key} {change}"
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
