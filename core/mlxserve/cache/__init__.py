"""Blocks by what they hold: chained hashes, look-ups over memory and tiers, checkpoints."""
