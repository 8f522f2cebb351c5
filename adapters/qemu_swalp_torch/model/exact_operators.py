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

COMPOSED = ("attention", "transformer", "rnn", "activation")
"""Within the names of products that contain elementwise operations, too."""

WEIGHTED_SUMS = frozenset(("_embedding_bag", "_embedding_bag_forward_only"))
"""Products where rows of a table are summed with weights, which are then a floating tensor more."""

MOVING = """
    alias alias_copy as_strided as_strided_copy as_strided_scatter block_diag cat
    channel_shuffle chunk clone constant_pad_nd contiguous copy detach diag_embed diagonal
    diagonal_copy diagonal_scatter embedding expand expand_as expand_copy fill_diagonal flip
    gather im2col index index_copy index_fill index_select lift lift_fresh lift_fresh_copy
    lu_unpack masked_fill masked_scatter masked_select max_unpool2d max_unpool3d moveaxis
    movedim narrow narrow_copy native_channel_shuffle permute permute_copy pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize resize_as roll rot90 scatter
    select select_copy select_scatter set slice slice_copy slice_inverse slice_scatter split
    split_copy split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack t t_copy take
    take_along_dim to to_padded_tensor transpose transpose_copy tril triu unbind unbind_copy
    unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
    unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d view view_as_real
    view_as_real_copy view_copy where _chunk_cat _conj _lazy_clone _local_scalar_dense _neg_view
    _neg_view_copy _pack_padded_sequence _pad_packed_sequence _pin_memory _reshape_alias
    _reshape_copy _to_copy _unsafe_index _unsafe_masked_index _unsafe_view
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
"""

CHOOSING = """
    abs absolute adaptive_max_pool2d adaptive_max_pool3d amax amin aminmax argsort bitwise_and
    ceil clamp clamp_max clamp_min copysign cummax cummin eq floor fmax fmin fmod frac
    fractional_max_pool2d fractional_max_pool3d frexp ge gt hardshrink hardtanh heaviside histc
    isinf isnan kthvalue le logical_and logical_not logical_or logical_xor lt max
    max_pool2d_with_indices max_pool3d_with_indices maximum median min minimum mode nan_to_num
    nanmedian ne neg negative one_hot positive relu relu6 round sgn sign sort
    threshold topk trunc unique_consecutive unique_dim unique_dim_consecutive _aminmax _unique
    _unique2
"""
"""Remainders, fractions and signs among them have no more bits than what they are taken of."""

MAKING = """
    arange bernoulli binomial cauchy empty empty_like empty_permuted empty_strided exponential
    eye fill full full_like geometric linspace log_normal logspace multinomial new_empty
    new_empty_strided new_full new_ones new_zeros normal ones ones_like poisson rand rand_like
    randint randint_like randn randn_like random randperm range scalar_tensor uniform zero zeros
    zeros_like
"""

EXACT = frozenset((MOVING + CHOOSING + MAKING).split())
"""Operators that move, choose or compare numbers, or make them anew, and round nothing. Their names
end with "_" where they write in place.
"""

ADDING = {
    **dict.fromkeys(("index_put", "_index_put_impl"), (3, "accumulate")),
    "put": (3, "accumulate"),
    "bincount": (1, "weights"),
}
"""Exact operators that add where an argument says so: its place and name."""

REDUCING = {"scatter_reduce": (4, "reduce"), "index_reduce": (4, "reduce")}
"""Operators that choose where an argument says so, and compute else: its place and name."""

COMPUTING_OVERLOADS = frozenset(
    """
    reduce value_reduce decimals
    Tensor_Tensor Tensor_float float_Tensor Tensor_Scalar Scalar_Tensor
    """.split()  # noqa: SIM905
)
"""Overloads that compute, of operators that else are exact: of `scatter` and `round`; and of
`normal`, `linspace` and `logspace`, where means, deviations or ends are tensors.
"""


def is_exact(name: str, overload: str, args: Any, options: Any) -> bool:
    """Whether a call of an operator rounds nothing."""
    name = name.removesuffix("_")
    if name in ADDING:
        given = _argument(*ADDING[name], args, options)
        return given is None or given is False
    if name in REDUCING:
        return _argument(*REDUCING[name], args, options) in ("amax", "amin")
    return name in EXACT and overload not in COMPUTING_OVERLOADS


def _argument(place: int, keyword: str, args: Any, options: Any) -> Any:
    return args[place] if len(args) > place else options.get(keyword)
