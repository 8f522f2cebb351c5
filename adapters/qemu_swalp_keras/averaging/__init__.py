"""Averages of a model's iterates: SWALP and its neighbours."""
