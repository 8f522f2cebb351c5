"""What the blocks of an array share: scales that are given, computed by a rule, or searched."""

from __future__ import annotations

from ..arrays import Array
from ..formats import Block
from ..formats.scale import GGML, GGML_RULES, SEARCH_RULES
from ..formats.scale_rules import OWN_RULES
from .block_scales import Scales, Shared, extent_of, scales_by_rule
from .context import Context
from .ggml import ggml_scales
from .given_scales import Given, fixed_scales, scales_of_own_rule
from .scale_search import searched_scales


def block_scales(
    ctx: Context, x: Array, format: Block, policy: str, given: Given | None = None
) -> Shared:
    """The scales of the blocks of an array of at least one dimension, under a policy in force."""
    if format.rule in GGML_RULES and format.rule != GGML:
        return ggml_scales(ctx, x, format)
    extent = extent_of(ctx, x, format, policy)
    nan = extent.nan
    if given is not None or format.rule in OWN_RULES:
        if given is not None:
            fixed = fixed_scales(ctx, extent.shape, format, given)
        else:
            fixed = scales_of_own_rule(ctx, x, extent, format)
        nan = fixed.invalid if nan is None else nan | fixed.invalid
        return Shared(Scales(*fixed.scale, nan=nan, zero_point=fixed.zero_point), fixed.scale)
    if format.rule in SEARCH_RULES:
        return searched_scales(ctx, x, format, extent)
    return scales_by_rule(ctx, extent, format)
