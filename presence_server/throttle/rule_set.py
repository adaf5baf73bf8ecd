"""The rules that a limiter has by name, and those that a decision is asked under."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from presence_server.throttle.rule import Rule, impossible

COST_MAX: Final = 2**53
"""The store's numbers are exact up to this cost."""
Named: TypeAlias = str | Rule
"""A rule, or the name of one that the limiter has."""


class RuleSet:
    """Rules by name. Raises `ValueError` where two have one name."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        by_name: dict[str, Rule] = {}
        for rule in rules:
            if rule.name in by_name:
                raise ValueError(f"two rules are named {rule.name!r}")
            by_name[rule.name] = rule
        self.by_name: Mapping[str, Rule] = by_name
        self._alone = {name: (rule,) for name, rule in by_name.items() if rule.algorithm != "slots"}

    def find_rule(self, rule: Named) -> Rule:
        """Return one rule. Raises `LookupError` where none has that name."""
        if isinstance(rule, Rule):
            return rule
        try:
            return self.by_name[rule]
        except KeyError:
            known = ", ".join(self.by_name) or "none"
            raise LookupError(f"no rule {rule!r}; there are: {known}") from None

    def resolve(self, rule: Named | Sequence[Named], cost: int) -> Sequence[Rule]:
        """Return the rules that `cost` is counted under.

        Raises as `find_rule`, and `ValueError` where no state of the rules could admit that cost.
        """
        if cost == 1 and type(rule) is str and (alone := self._alone.get(rule)) is not None:
            return alone  # the usual case, which has to be fast
        rules = [self.find_rule(name) for name in ((rule,) if isinstance(rule, str | Rule) else rule)]
        if not rules:
            raise ValueError("a decision needs a rule")
        if type(cost) is not int:
            raise ValueError(f"a cost is a whole number, not {cost!r}")
        places = set()
        for found in rules:
            if found.place in places:
                raise ValueError(f"rule {found.name!r} is given twice; give it once, with a higher cost")
            places.add(found.place)
            if found.algorithm == "slots":
                raise ValueError(f"rule {found.name!r} has slots, which are acquired and released")
            if not 1 <= cost <= found.count:
                raise ValueError(impossible(found, cost))
        return rules


def checked_cost(cost: int) -> int:
    """Return a cost, whatever the rule's limit. Raises `ValueError` where it is no whole number in the bounds."""
    if type(cost) is not int or not 1 <= cost <= COST_MAX:
        raise ValueError(f"a cost is a whole number from 1 to {COST_MAX}, not {cost!r}")
    return cost
