"""The reference implementation: one rounding algorithm in integer arithmetic, the same for every
array library.
"""
