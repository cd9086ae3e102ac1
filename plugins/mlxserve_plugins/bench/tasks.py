"""Work for ``bench speculation``: replies that repeat their prompt, and replies that do not.

Asked for in words that even a very small model follows: what counts is that the reply copies.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

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
    """Ask for a JSON document with some of its fields."""
    people = [
        {"id": 100 + at, "name": name, "town": town, "email": f"{name.lower()}@example.org"}
        for at, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True), start=number)
    ]
    lines = "\n".join(json.dumps(person) for person in people)
    return f"Repeat these JSON lines without the field id:\n\n{lines}"


def continue_code(number: int) -> str:
    """Ask for a program whose last method is to be completed."""
    return (
        f"Here is a Python class:\n\n{CODE.format(name=NAMES[number])}\n"
        "Write this class again and complete the method withdraw."
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

TOOL_NAMES: Final = ("read_file", "write_file", "list_files", "search", "run_tests", "shell")
TOOLS: Final[Sequence[Mapping[str, Any]]] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ').capitalize()} in the project that is open. "
            "Give a path below its root; what is found comes back as text, at most 200 lines.",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "a path below the root"},
                    "argument": {"type": "string", "description": "what to write, find or run"},
                },
                "required": ["path"],
            },
        },
    }
    for name in TOOL_NAMES
)
"""What an agent's client sends with each turn."""
