"""The exceptions of a limiter, beside `ValueError` and `LookupError` for wrong arguments."""


class StoreUnavailableError(Exception):
    """The shared store could not be told: a block, a reset, a charge or a refund has not happened, or may not have."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the limiter's shared store is out of reach; try again")
