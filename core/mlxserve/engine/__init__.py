"""The iteration loop: what is admitted, prefilled, decoded and told, one step after the other."""
