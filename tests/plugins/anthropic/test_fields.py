from pathlib import Path

from mlxserve_plugins.anthropic.bodies import MessagesBody
from mlxserve_plugins.anthropic.fields import MESSAGES
from mlxserve_plugins.surface.fields import as_markdown

DOCUMENT = Path(__file__).parents[3] / "docs" / "fields.md"


def test_the_documentation_has_the_table() -> None:
    assert as_markdown(MESSAGES) in DOCUMENT.read_text("utf-8")


def test_what_is_honoured_is_read() -> None:
    read = {name for name in MESSAGES.named("honoured") if not MESSAGES.fields[name].reads_as}
    assert read == set(MessagesBody.__struct_fields__)
