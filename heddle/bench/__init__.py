"""Measuring models and servers: `heddle bench`. The names of figures are those of `vllm bench`."""
