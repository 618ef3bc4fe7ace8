"""Run later or by hand: the worker, imports, training, the command line."""
