"""Averages of the iterates: the policies that choose which iterates count, and how much."""
