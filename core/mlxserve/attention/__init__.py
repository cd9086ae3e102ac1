"""How a model reads the pool: the seam, the views that its layers see, kernels, the proof."""
