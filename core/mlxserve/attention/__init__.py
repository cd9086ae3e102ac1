"""Attention over a paged pool: one kernel for rows of all lengths, in two dialects."""
