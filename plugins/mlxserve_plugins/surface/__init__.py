"""What every API surface needs. Public: a surface of your own may import all that is named here.

| Module | What it has |
|---|---|
| ``fields`` | a ``Table`` of what a surface does with each field: honoured, harmless, refused |
| ``decoding`` | ``read``: from a body's bytes to its struct, with errors that name the field |
| ``transport`` | ``JsonBody``, ``EventStream`` (SSE), ``while_connected``: clients may leave |
| ``merging`` | ``merge``: several of the engine's streams as one, with a tick when all are silent |
| ``limits`` | ``reply_tokens``, ``room_after``: how long a reply may get |
| ``checks`` | ``check_model``, ``refusal`` |
| ``notes`` | ``Notes`` of what was not taken by its word; a ``Desk`` files them |
| ``desks`` | ``Desks``: a desk for each table, and the guard that finds out who asks |
| ``errors`` | ``shape_errors``: every error of a surface's paths in its own shape |
| ``chats`` | what templates are told, and where stop strings hold |

``mlxserve_plugins.guarding.guard`` asks who is there before a route answers. The built-in surfaces
``openai``, ``anthropic``, ``responses`` and ``ollama`` are made of these. A change that breaks a
caller is in the changelog, a release before it comes.

A surface has a ``Table``, and names it in its body's struct (``TABLE: ClassVar[Table]``). ``read``
then returns the struct and the ``Notes``; ``reply_tokens`` adds what it cuts. A ``Desk``, one for
each surface, refuses unknown fields where the user wants that, and logs and counts the notes.
"""
