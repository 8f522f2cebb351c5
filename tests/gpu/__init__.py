"""First contact with a GPU: `python -m tests.gpu`."""
