"""Options from a TOML file: `--config FILE`, for every command.

Keys are a command's options without the dashes in front ("time-budget", or "time_budget"), and its
arguments by their names ("data"); what stands on the command line wins. The tables [model] and
[train] hold settings, as in the config.toml that a training run leaves: with that file, and the
same data (and anomaly source and foregrounds, which it does not name), a run can be repeated bit
for bit.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from diffusionad.config import TABLES, of_today, preset, read_toml, without_size
from diffusionad.errors import InputError
from diffusionad.synthesis import without_kind

NOT_IN_FILES = {"help", "config"}
SETTINGS = (  # that are options, too
    "preset", "image_size", "batch_size", "memory_budget", "seed", "kind",
)  # fmt: skip


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """What parser.parse_args gives, where a file is named with its values as defaults.

    The parser is changed by that. Whatever is wrong with the file ends as bad usage does.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    file, others = _file_named(given)
    command = commands_of(parser).get(given[0] if given else "")
    if file is None or command is None:
        return parser.parse_args(given)
    try:
        values = read_toml(file)
        # A model is an argument, too: only a table of that name holds settings.
        tables = {name: v for name, v in values.items() if name in TABLES and isinstance(v, dict)}
        settings = _settings(file, command, tables)
        options = _options(file, command, {k: v for k, v in values.items() if k not in tables})
    except InputError as error:
        command.error(str(error))
    for action, value in options.items():
        _make_default(action, value)
    _leave_to_those_that_take_many(command, options)
    # Whatever options stand between them: what may be left out is otherwise taken for left out.
    # It takes names behind "--" that begin with "-" for options.
    behind = others[others.index("--") :] if "--" in others else ()
    dashed = any(name.startswith("-") for name in behind[1:])
    take = command.parse_args if dashed else command.parse_intermixed_args
    args = take(others[1:], argparse.Namespace(command=given[0]))
    args.config = file
    _let_command_line_win(args, command, options)
    if settings:
        args.settings = settings
        if args.preset not in (None, settings.get("preset", args.preset)):
            command.error(
                f"{file}: its settings are of preset {settings['preset']}, "
                f"--preset says {args.preset}; leave one of them out"
            )
        _check_settings(file, command, args)
    return args


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of the file of --config; what options say goes before them."""
    options = {name: getattr(args, name, None) for name in SETTINGS}
    options = {name: value for name, value in options.items() if value is not None}
    settings = args.settings
    if "image_size" in options:
        preset = settings.get("preset", options.get("preset", "compact"))
        settings = without_size(preset, settings)
    if "kind" in options and options["kind"] != settings.get("kind"):
        settings = without_kind(settings)
    return {**settings, **options}


def _file_named(arguments: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The FILE of --config, and all else; what is not well-formed is the real parser's to say."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    try:
        found, others = finder.parse_known_args(arguments)
    except argparse.ArgumentError:
        return None, arguments
    return found.config or None, others


# ---- options ----------------------------------------------------------------------------------


def _options(
    file: str, command: argparse.ArgumentParser, values: Mapping[str, Any]
) -> dict[argparse.Action, Any]:
    """Values of the file by the options that they are of."""
    names = {_name(action): action for action in command._actions}
    names = {name: action for name, action in names.items() if name not in NOT_IN_FILES}
    options: dict[argparse.Action, Any] = {}
    for key, value in values.items():
        action = names.get(key.replace("_", "-"))
        if action is None:
            what = f"no such option of {command.prog}"
            raise InputError(f"{file}: {key}: {what}{_nearest(key, names)}")
        options[action] = _converted(action, value, f"{file}: {key}")
    for group in command._mutually_exclusive_groups:
        both = [_name(action) for action in group._group_actions if action in options]
        if len(both) > 1:
            raise InputError(f"{file}: {', '.join(both)}: expected one of them, got both")
    return options


def _name(action: argparse.Action) -> str:
    """An option without dashes in front, or an argument's name."""
    return max([action.dest.replace("_", "-")] if not action.option_strings else
               [option.lstrip("-") for option in action.option_strings], key=len)  # fmt: skip


def _nearest(key: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "-"), list(names), n=1, cutoff=0.0)
    return f"; the nearest is {close[0]}" if close else ""


def _converted(action: argparse.Action, value: Any, where: str) -> Any:
    """A value of the file as the command line would give it. Raises InputError."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{where}: expected true or false, got {value!r}")
        return value
    if _takes_many(action):
        items = value if isinstance(value, list) else [value]
        if not items:
            raise InputError(f"{where}: expected at least one, got none")
        return [_one(action, item, where) for item in items]
    if isinstance(value, list):  # what the command line has between commas
        return _one(action, ",".join(str(item) for item in value), where)
    return _one(action, value, where)


def _one(action: argparse.Action, value: Any, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where}: expected a text or a number, got {value!r}")
    try:
        made = action.type(str(value)) if callable(action.type) else str(value)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
    if action.choices is not None and made not in action.choices:
        raise InputError(f"{where}: expected {' or '.join(action.choices)}, got {value!r}")
    return made


def _takes_many(action: argparse.Action) -> bool:
    return action.nargs == "+" or _appends(action)


def _appends(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def _make_default(action: argparse.Action, value: Any) -> None:
    action.required = False
    if not action.option_strings:
        action.nargs = "*" if action.nargs == "+" else "?"
    if not _appends(action):  # it would put the command line's behind the file's
        action.default = value


def _leave_to_those_that_take_many(
    command: argparse.ArgumentParser, options: Iterable[argparse.Action]
) -> None:
    """Take arguments of the file off the command line where one that it has not takes many.

    With a model in the file, `a.png b.png` are two images.
    """
    arguments = [action for action in command._actions if not action.option_strings]
    if any(_takes_many(action) and action not in options for action in arguments):
        for action in set(arguments) & set(options):
            command._actions.remove(action)
            command.set_defaults(**{action.dest: action.default})


def _let_command_line_win(
    args: argparse.Namespace,
    command: argparse.ArgumentParser,
    options: Mapping[argparse.Action, Any],
) -> None:
    """Over what defaults alone do not settle: lists, and options that exclude each other."""
    for action, value in options.items():
        if _appends(action) and not getattr(args, action.dest):
            setattr(args, action.dest, value)
    for group in command._mutually_exclusive_groups:
        there = [a for a in group._group_actions if getattr(args, a.dest) is not None]
        for action in there:
            if len(there) > 1 and action in options:
                setattr(args, action.dest, None)


# ---- settings ---------------------------------------------------------------------------------


def _settings(
    file: str, command: argparse.ArgumentParser, tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The settings of both tables."""
    settings: dict[str, Any] = {}
    for table, values in tables.items():
        if command.get_default("settings") is None:
            raise InputError(f"{file}: [{table}]: {command.prog} takes options, no settings")
        names = [setting.name for setting in fields(TABLES[table])]
        values = of_today(values)
        for key in values:
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
                text = f"no such setting; the nearest is {close}"
                raise InputError(f"{file}: [{table}] {key}: {text}")
        settings |= values
    return settings


def _check_settings(file: str, command: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End as bad usage does where the model that is asked for cannot have these settings."""
    try:
        preset(str(args.settings.get("preset", "compact")))  # there is one of that name
        wanted = settings_of(args)
        preset(wanted.pop("preset", "compact"), **wanted)
    except InputError as error:
        name = str(error).partition(":")[0]
        by_option = name in SETTINGS and getattr(args, name, None) is not None
        command.error(str(error) if by_option else f"{file}: {error}")
