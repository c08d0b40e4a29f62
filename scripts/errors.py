"""What a command tells a person when it cannot go on."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command. `make` itself turns any of them into 2 and prints the number."""

    LOCKED = 20
    DATA_QUALITY = 30
    INPUT_REFUSED = 40
    TRANSIENT = 50
    MISMATCH = 60
    BUG = 70
    SERVICE_DOWN = 75


class WarehouseError(Exception):
    """A fault that a person can act on: `what` happened and where, and what to do about it (`hint`).

    Commands print it without a stack trace and end with `code`.
    """

    def __init__(self, what: str, hint: str, code: Exit = Exit.SERVICE_DOWN) -> None:
        super().__init__(f"{what}\n  {hint}")
        self.what, self.hint, self.code = what, hint, code
