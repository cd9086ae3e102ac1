"""Which layers' code is, statement for statement, one that the kernels know how to run.

mlx-lm's architectures share a few bodies of ``__call__``. A class is known by a fingerprint of its
code, without comments and annotations: whatever is written otherwise, today or in another version,
is left as it is.
"""

import ast
import hashlib
import inspect
import textwrap
from functools import cache
from typing import Any, Final, Literal, TypeAlias

Part: TypeAlias = Literal["attention", "mlp", "block"]

FORMS: Final[dict[str, tuple[Part, tuple[str, ...]]]] = {
    # Llama's attention, and with norms of the heads Qwen 3's, by two sets of names
    "b9b5742d": ("attention", ("n_heads", "n_kv_heads")),
    "057ddcb6": ("attention", ("n_heads", "n_kv_heads", "q_norm", "k_norm")),
    "79dbe8bb": ("attention", ("num_attention_heads", "num_key_value_heads", "q_norm", "k_norm")),
    # down(swiglu(gate(x), up(x)))
    "01ef581b": ("mlp", ()),
    "88cd2b46": ("mlp", ()),
    # x + attention(norm(x)), then h + mlp(norm(h))
    "dc1dd0ec": ("block", ()),
    "b8c69782": ("block", ()),
}
"""By fingerprint: what it is, and under which names the class keeps what differs."""


@cache
def form(kind: Any) -> tuple[Part, tuple[str, ...]] | None:
    """Return what a layer's class is known to do, if it is."""
    return FORMS.get(fingerprint(kind))


def fingerprint(kind: Any) -> str:
    """Return a digest of the class's ``__call__``, without its annotations and layout."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind.__call__)))
    except (OSError, TypeError, SyntaxError):
        return ""
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef):
        return ""
    function.returns = None
    function.decorator_list = []
    for argument in function.args.args:
        argument.annotation = None
    # as text: a dumped tree differs from one Python to the next
    return hashlib.sha1(ast.unparse(function).encode(), usedforsecurity=False).hexdigest()[:8]
