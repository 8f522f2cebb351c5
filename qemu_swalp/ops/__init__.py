"""What a user calls on arrays: rounding, codes, arithmetic, analysis."""
