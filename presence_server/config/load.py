"""Read the settings in layers: flags over environment variables over the TOML file over defaults."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from presence_server.config.check import violations
from presence_server.config.collected import Collected, Layer, Origin
from presence_server.config.file import read_file
from presence_server.config.setting_keys import FLAGS, KEYS, VARIABLES, SettingKey, from_text, nearest
from presence_server.config.settings import SECTIONS, Settings
from presence_server.errors import ConfigError

SECRETS: Final = ("auth.secret", "auth.secrets", "auth.resume_secret", "api.key")
"""The keys that have a twin `…_file`."""


def load(
    path: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Settings:
    """Read and check the settings.

    `flags` maps each flag as it is typed (`--port`, `--server.port`) to its text. A secret whose
    `…_file` is set is read from there and stands in its own field afterwards.

    Raises `ConfigError` with every problem of every layer: its place, its key and what is wrong.
    """
    collected = Collected()
    parsed = path is None or read_file(Path(path), collected)
    _read_environment(environ or {}, collected)
    _read_flags(flags or {}, collected)
    if not parsed:
        raise ConfigError(collected.problems)
    _read_secret_files(collected)
    settings = _build(collected.values)
    for keys, text in violations(settings):
        if not collected.failed.intersection(keys):
            # Name the key that was set; the other may be at its default.
            key = next((key for key in keys if collected.origin(key).layer > Layer.DEFAULT), keys[0])
            collected.problems.append(f"{collected.origin(key).place}: {key}: {text}")
    if collected.problems:
        raise ConfigError(collected.problems)
    return settings


def _read_environment(environ: Mapping[str, str], collected: Collected) -> None:
    """Take every variable that begins with PRESENCE_ and has two underscores further on.

    One underscore is not enough: Kubernetes itself sets PRESENCE_SERVER_PORT for a Service of that name.
    """
    for variable, text in environ.items():
        if not variable.startswith("PRESENCE_") or "__" not in variable.removeprefix("PRESENCE_"):
            continue
        key = VARIABLES.get(variable)
        place = f"variable {variable}"
        if key is None:
            collected.problems.append(
                f"{place}: unknown variable; the nearest valid name is {nearest(variable, VARIABLES)}"
            )
        elif key.file_only:
            collected.note_problem(place, key.path, "a list of tables can be set in the file only")
        else:
            _take_text(key, text, Origin(Layer.ENVIRONMENT, place), collected)


def _read_flags(flags: Mapping[str, str], collected: Collected) -> None:
    for flag, text in flags.items():
        key = FLAGS.get(flag)
        place = f"flag {flag}"
        if key is None:
            collected.problems.append(
                f"{place}: unknown flag; the nearest valid name is {nearest(flag, FLAGS)}"
            )
        elif key.file_only:
            collected.note_problem(place, key.path, "a list of tables can be set in the file only")
        elif collected.origin(key.path).layer is Layer.FLAG:
            collected.note_problem(place, key.path, f"given by {collected.origin(key.path).place} already")
        else:
            _take_text(key, text, Origin(Layer.FLAG, place), collected)


def _take_text(key: SettingKey, text: str, origin: Origin, collected: Collected) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps bytes of the system that are no UTF-8 as lone surrogates
        collected.note_problem(origin.place, key.path, "is not UTF-8")
    else:
        collected.take_value(key, from_text(key, text), origin)


def _read_secret_files(collected: Collected) -> None:
    """Put the contents of each `…_file` into its secret, unless a higher layer set the secret itself."""
    for path in SECRETS:
        name = collected.values.get(f"{path}_file", "")
        file, direct = collected.origin(f"{path}_file"), collected.origin(path)
        if not isinstance(name, str) or not name:
            continue
        if collected.values.get(path) and direct.layer == file.layer:
            collected.note_problem(
                file.place, f"{path}_file", f"{path} is set too ({direct.place}); set one of them"
            )
        elif not collected.values.get(path) or direct.layer < file.layer:
            try:
                lines = re.split("\r\n|\r|\n", Path(name).read_bytes().decode())
            except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or a NUL in the name
                reason = exc.strerror if isinstance(exc, OSError) else str(exc)
                collected.note_problem(file.place, f"{path}_file", f"cannot read {name}: {reason}")
                continue
            secrets = [line for line in lines if line.strip(" \t")]
            if path.endswith("secrets"):  # none: the last step of a rotation
                collected.put_value(path, secrets, file)
            elif not secrets:
                collected.note_problem(file.place, f"{path}_file", f"{name} is empty")
            elif path == "api.key":
                collected.put_value(path, "\n".join(secrets), file)
            elif len(secrets) > 1:
                collected.note_problem(file.place, f"{path}_file", f"{name} has more than one line")
            else:
                collected.put_value(path, secrets[0], file)


def _build(values: Mapping[str, object]) -> Settings:
    sections: dict[str, Any] = {section: {} for section in SECTIONS}
    for key in KEYS.values():
        if key.path in values:
            sections[key.section][key.name] = values[key.path]
    rooms: Any = values.get("rooms", [])
    built: dict[str, Any] = {name: SECTIONS[name](**given) for name, given in sections.items()}
    return Settings(rooms=rooms, **built)
