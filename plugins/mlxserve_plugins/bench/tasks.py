"""Work for ``bench speculation``: replies that repeat their prompt, and replies that do not."""

import json
from collections.abc import Callable, Mapping
from typing import Final

NAMES: Final = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Katherine", "Dennis")
TOWNS: Final = ("Lisbon", "Vienna", "Oslo", "Prague", "Dublin", "Athens", "Madrid", "Helsinki")
TOPICS: Final = (
    "a lighthouse", "an old train", "a garden", "a lost letter", "a river", "a clock",
    "a winter market", "a small boat",
)  # fmt: skip

STORY: Final = """{name} arrived in {town} on a cold Monday morning with one suitcase and a map.
The streets near the station were quiet, and the bakery on the corner had just opened its doors.
{name} bought a loaf of bread, asked for the way to the museum, and walked along the river.
The museum in {town} keeps a collection of clocks that were made more than two hundred years ago.
{name} stayed until the evening, wrote a long letter home, and slept in a hotel by the bridge."""

CODE: Final = '''class {name}Account:
    """A bank account."""

    def __init__(self, owner: str, balance: float = 0.0) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: float) -> float:
        """Add an amount to the balance and return it."""
        if amount <= 0:
            raise ValueError("the amount must be positive")
        self.balance += amount
        return self.balance

    def withdraw(self, amount: float) -> float:
        """Take an amount from the balance and return it."""
        if amount <= 0:
            raise ValueError("the amount must be positive")
'''


def rewrite(number: int) -> str:
    """Ask for a text once more with one change."""
    story = STORY.format(name=NAMES[number], town=TOWNS[number])
    other = NAMES[number - 1]
    return (
        f"Repeat the following text word for word, but replace the name {NAMES[number]} with "
        f"{other}.\n\n{story}"
    )


def extract(number: int) -> str:
    """Ask for fields of a JSON document."""
    people = [
        {"id": 100 + at, "name": name, "town": town, "email": f"{name.lower()}@example.org"}
        for at, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True), start=number)
    ]
    return (
        f"Here is a JSON document:\n\n{json.dumps(people, indent=1)}\n\n"
        "Copy the name and the email of every person, as a JSON list of objects."
    )


def continue_code(number: int) -> str:
    """Ask for the rest of a program."""
    return (
        "Continue this Python class with the methods withdraw, transfer and close:\n\n"
        f"{CODE.format(name=NAMES[number])}"
    )


def free_chat(number: int) -> str:
    """Ask for something that is not in the prompt."""
    return f"Write a short story about {TOPICS[number]}."


TASKS: Final[Mapping[str, Callable[[int], str]]] = {
    "rewrite": rewrite,
    "extract": extract,
    "code": continue_code,
    "chat": free_chat,
}
VARIANTS: Final = len(NAMES)
