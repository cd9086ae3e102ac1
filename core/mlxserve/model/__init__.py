"""Loading a model and getting it ready to serve."""
