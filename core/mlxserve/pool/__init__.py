"""Keys and values of all sequences: planes per layer, blocks of them, tables that name blocks."""
