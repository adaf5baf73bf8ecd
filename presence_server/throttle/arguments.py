"""Which arguments of a call a key, a cost or a limit is made of: those that its function names."""

import inspect
from collections.abc import Callable
from typing import Any, Final

P: Final = inspect.Parameter
BY_NAME: Final = frozenset({P.POSITIONAL_OR_KEYWORD, P.KEYWORD_ONLY})


def by_name(given: Callable[..., Any], function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Return a function that is called as `function` is, and calls `given` with the arguments that it names.

    One that takes any arguments, or does not say which, gets all. Raises `TypeError` for one that needs an
    argument that `function` does not have; `what` says which it is.
    """
    try:
        wanted = inspect.signature(given).parameters
    except (TypeError, ValueError):  # some that are written in C
        return given
    if any(parameter.kind not in BY_NAME for parameter in wanted.values()):
        return given
    signature = inspect.signature(function)
    has = signature.parameters
    rest = next((name for name, parameter in has.items() if parameter.kind is P.VAR_KEYWORD), None)
    needed = [name for name, parameter in wanted.items() if parameter.default is P.empty]
    if rest is None and (missing := [name for name in needed if name not in has]):
        called = f"{function.__module__}.{function.__qualname__}"
        raise TypeError(
            f"{called} has no argument {missing[0]!r}, which its {what} needs; there are: {', '.join(has)}"
        )

    def named(*args: Any, **kwargs: Any) -> Any:
        if not args and all(name in kwargs for name in wanted):
            return given(**{name: kwargs[name] for name in wanted})
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found = {**bound.arguments, **bound.arguments.get(rest or "", {})}
        return given(**{name: found[name] for name in wanted if name in found})

    return named
