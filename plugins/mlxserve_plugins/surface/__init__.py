"""What every API surface needs: tables of fields, bodies read by them, notes of what changed.

A surface has a ``fields.Table`` of what it does with each field, and names it in its body's struct
(``TABLE: ClassVar[Table]``). ``decoding.read`` then returns the struct and ``notes.Notes`` of what
was not taken by its word; ``limits.reply_tokens`` adds what it cuts. A ``notes.Desk``, one for each
surface, refuses unknown fields where the user wants that, and logs and counts the notes.
"""
