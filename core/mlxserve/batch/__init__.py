"""The decoding rows and the steps that carry them forward."""
