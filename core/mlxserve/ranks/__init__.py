"""Several processes that run one model: what rank 0 decides, the others follow."""
