"""Write the messages of the wire as TypeScript: `python -m presence_server.protocol.typescript`."""

from collections.abc import Iterable
from typing import Final, cast, get_args

import msgspec
from msgspec import inspect

from presence_server.protocol import messages
from presence_server.protocol.codes import ErrorCode

HEAD: Final = (
    "// Made from the server's messages by `python -m presence_server.protocol.typescript`: do not edit.\n"
)
NAMES: Final = {
    "Mode": messages.Mode,
    "Reason": messages.Reason,
    "RemovalReason": messages.RemovalReason,
}
ROSTER: Final = {("Sync", "members"), ("Page", "members")}
"""Documents whose shape is known: rosters, which the server has as JSON text."""


def _literal(values: Iterable[object]) -> str:
    return " | ".join(f'"{value}"' for value in values)


SCALARS: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "string",
    inspect.IntType: "number",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.NoneType: "null",
    inspect.AnyType: "unknown",
}


def _type(kind: inspect.Type) -> str:
    """Return a field's type as TypeScript."""
    match kind:
        case inspect.LiteralType():
            known = (
                name for name, vocabulary in NAMES.items() if set(get_args(vocabulary)) == set(kind.values)
            )
            name = next(known, _literal(kind.values))
        case inspect.DictType():
            name = f"Readonly<Record<{_type(kind.key_type)}, {_type(kind.value_type)}>>"
        case inspect.VarTupleType():
            name = f"readonly {_type(kind.item_type)}[]"
        case inspect.StructType():
            name = kind.cls.__name__
        case inspect.UnionType():
            name = " | ".join(_type(one) for one in kind.types)
        case _:
            name = SCALARS[type(kind)]
    return name


def _comment(cls: type, indent: str = "") -> str:
    lines = (cls.__doc__ or "").strip().splitlines()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} * {line.strip()}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"


def _interface(cls: type[msgspec.Struct]) -> str:
    info = cast("inspect.StructType", inspect.type_info(cls))
    lines = [f'  readonly t: "{info.tag}";'] if info.tag_field else []
    for field in info.fields:
        kind = "readonly Member[]" if (cls.__name__, field.encode_name) in ROSTER else _type(field.type)
        if (cls.__name__, field.encode_name) == ("Error", "code"):
            kind = "ErrorCode"
        lines.append(f"  readonly {field.encode_name}{'' if field.required else '?'}: {kind};")
    return f"{_comment(cls)}export interface {cls.__name__} {{\n" + "\n".join(lines) + "\n}\n"


def typescript() -> str:
    """Return the module."""
    parts = [HEAD]
    parts += [f"export type {name} = {_literal(get_args(vocabulary))};" for name, vocabulary in NAMES.items()]
    parts.append(f"export type ErrorCode = {_literal(code.value for code in ErrorCode)};\n")
    sides = {"ClientMessage": messages.ClientMessage, "ServerMessage": messages.ServerMessage}
    parts += [_interface(cls) for cls in (messages.Member, messages.MemberUpdate, messages.MemberLeave)]
    for side in sides.values():
        parts += [_interface(cls) for cls in get_args(side)]
    for name, side in sides.items():
        parts.append(f"export type {name} = {' | '.join(cls.__name__ for cls in get_args(side))};")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(typescript(), end="")
