"""Operators of PyTorch by what they compute, as far as a watch of a forward has to know."""

from __future__ import annotations

from typing import Any

FURTHER_PRODUCTS = frozenset(
    """
    mv addmv dot vdot linear matmul conv_tbc _trilinear
    _cdist_forward _euclidean_dist _pdist_forward affine_grid_generator matrix_exp
    linalg_matrix_exp sspaddmm _sparse_mm _sparse_mm_reduce_impl _addmm_activation _grouped_mm
    _scaled_grouped_mm _weight_int8pack_mm _weight_int4pack_mm conv_depthwise3d
    _conv_depthwise2d _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_fused_attention_overrideable _native_multi_head_attention
    _transformer_encoder_layer_fwd mkldnn_rnn_layer mkldnn_linear mkldnn_convolution _cudnn_rnn
    miopen_rnn miopen_convolution sparse_sampled_addmm _sparse_addmm smm hspmm
    _fft_r2c _fft_c2c _fft_c2r
    _linalg_solve_ex linalg_inv_ex _linalg_svd _linalg_eigh linalg_eig linalg_qr linalg_lstsq
    linalg_lu linalg_lu_factor_ex linalg_lu_solve linalg_ldl_factor_ex linalg_ldl_solve
    linalg_solve_triangular linalg_cholesky_ex cholesky cholesky_solve cholesky_inverse
    linalg_householder_product linalg_pinv _linalg_det _linalg_slogdet triangular_solve ormqr geqrf
    """.split()  # noqa: SIM905
)
"""Products beside those whose floating-point operations `torch.utils.flop_counter` knows, and what
is made of many: Fourier transforms, factorizations, solutions of equations.
"""

WEIGHTED_SUMS = frozenset(("_embedding_bag", "_embedding_bag_forward_only"))
"""Products where rows of a table are summed with weights, which are then a floating tensor more."""

EXACT = frozenset(
    """
    histc one_hot as_strided_
    abs alias amax amin arange argsort as_strided as_strided_copy bernoulli bernoulli_
    bitwise_and cat ceil chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clone
    constant_pad_nd contiguous copy copy_ copysign cummax cummin detach diag_embed diagonal
    diagonal_copy embedding empty empty_like empty_permuted empty_strided expand
    expand_as expand_copy eye fill fill_ flip floor fmax fmin frac full full_like gather
    hardtanh hardtanh_ im2col index index_fill index_fill_ index_select isinf
    isnan kthvalue lift lift_fresh lift_fresh_copy linspace masked_fill masked_fill_
    masked_scatter masked_scatter_ masked_select max max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d maximum median min minimum
    moveaxis movedim nan_to_num nan_to_num_ narrow neg neg_ new_empty
    new_empty_strided new_full new_ones new_zeros normal normal_ ones ones_like permute
    pixel_shuffle pixel_unshuffle positive rand rand_like randn randn_like randperm
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 relu_ repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize_ roll rot90 round
    scalar_tensor scatter scatter_ select select_copy select_scatter set_ sgn
    sign slice slice_copy slice_scatter sort split split_copy split_with_sizes
    split_with_sizes_copy squeeze squeeze_ stack t t_ take take_along_dim threshold threshold_
    to topk transpose transpose_ tril tril_ triu triu_ trunc unbind unfold unfold_copy uniform
    uniform_ unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze unsqueeze_
    upsample_nearest1d upsample_nearest2d upsample_nearest3d view view_as_real view_copy where
    zero zero_ zeros zeros_like _conj _local_scalar_dense _reshape_alias _reshape_copy _to_copy
    _unsafe_index _unsafe_view
    """.split()  # noqa: SIM905
)
"""Operators that move, choose or compare numbers, or make them anew, and round nothing."""

ADDING = {
    **dict.fromkeys(("index_put", "index_put_", "_index_put_impl_"), (3, "accumulate")),
    "bincount": (1, "weights"),
}
"""Exact operators that add where an argument says so: its place and name."""

COMPUTING_OVERLOADS = frozenset(("reduce", "value_reduce", "decimals"))
"""Overloads that compute, of `scatter` and `round`, which else are exact."""


def is_exact(name: str, overload: str, args: Any, options: Any) -> bool:
    """Whether a call of an operator rounds nothing."""
    if name in ADDING:
        place, keyword = ADDING[name]
        given = args[place] if len(args) > place else options.get(keyword)
        return given is None or given is False
    return name in EXACT and overload not in COMPUTING_OVERLOADS
