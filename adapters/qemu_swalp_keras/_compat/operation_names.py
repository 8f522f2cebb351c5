"""Operations of TensorFlow, JAX and PyTorch by what they compute."""

from __future__ import annotations

import keras

OURS = "qemu_swalp"
"""Name scope in JAX's programs of what this adapter computes; in TensorFlow's graphs, name of what
it computes by Python.
"""

PRODUCTS = {
    "tensorflow": (
        *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv", "Conv2D"),
        *("Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
        *("XlaDot", "XlaDotV2", "XlaConv", "XlaConvV2", "SparseMatMul", "FusedConv2D"),
        *("FusedPadConv2D", "FusedResizeAndPadConv2D", "TridiagonalMatMul", "NearestNeighbors"),
    ),
    "jax": (
        *("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"),
        *("scaled_dot", "scaled_matmul", "scaled_matmul_wrapper"),
    ),
    "torch": (
        *("mm", "bmm", "mv", "dot", "vdot", "addmm", "addmv", "addbmm", "baddbmm", "addr"),
        *("linear", "convolution", "_convolution", "_trilinear", "_cdist_forward"),
        *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention"),
        *("_thnn_fused_lstm_cell", "lstm", "mkldnn_rnn_layer", "_cudnn_rnn", "_sparse_mm"),
        *("_euclidean_dist", "_pdist_forward", "affine_grid_generator", "_grouped_mm"),
    ),
}
"""Operations by which the backends multiply matrices."""

_FUNCTIONS = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "digamma"),
    *("sqrt", "rsqrt", "square", "pow", "add", "sub", "mul", "div", "cumsum", "cumprod"),
)

ELEMENTWISE = {
    "tensorflow": (
        *(name.capitalize() for name in _FUNCTIONS),
        *("AddV2", "AddN", "RealDiv", "DivNoNan", "MulNoNan", "FloorDiv", "FloorMod"),
        *("SquaredDifference", "Reciprocal", "Inv", "Erfinv", "Ndtri", "Sigmoid", "Softplus"),
        *("Softsign", "Softmax", "LogSoftmax", "Elu", "Selu", "LeakyRelu", "Xlogy", "Xdivy"),
        *("Sum", "Mean", "Prod", "CumulativeLogsumexp", "EuclideanNorm", "L2Loss", "LRN"),
        *("AvgPool", "AvgPool3D", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"),
        *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
        *("SegmentSum", "UnsortedSegmentSum", "SegmentMean", "SegmentSumV2", "SegmentProd"),
        *("SegmentProdV2", "UnsortedSegmentProd", "SparseSegmentSum", "SparseSegmentMean"),
        *("ScatterNd", "ScatterNdAdd", "ScatterNdSub", "ScatterNdNonAliasingAdd", "ScatterAdd"),
        *("ScatterSub", "ScatterMul", "ScatterDiv", "TensorScatterAdd", "TensorScatterSub"),
        *("InplaceAdd", "InplaceSub", "AccumulateNV2", "BiasAdd", "BiasAddV1", "Bincount"),
        *("DenseBincount", "ComplexAbs", "Cross", "Mod", "TruncateDiv", "TruncateMod", "Xlog1py"),
        *("Polygamma", "Zeta", "Betainc", "Igamma", "Igammac", "Dawsn", "Expint", "Spence"),
        *("FresnelCos", "FresnelSin", "BesselI0", "BesselI0e", "BesselI1", "BesselI1e"),
        *("BesselJ0", "BesselJ1", "BesselK0", "BesselK0e", "BesselK1", "BesselK1e", "BesselY0"),
        *("BesselY1", "Dilation2D", "FractionalAvgPool", "IsotonicRegression"),
        *("BatchNormWithGlobalNormalization", "ResizeArea", "ResizeBicubic", "ResizeBilinear"),
        *("ScaleAndTranslate", "CropAndResize", "ImageProjectiveTransformV2", "AdjustContrast"),
        *("ImageProjectiveTransformV3", "AdjustContrastv2", "AdjustHue", "AdjustSaturation"),
        *("RGBToHSV", "HSVToRGB"),
    ),
    "jax": (
        *_FUNCTIONS,
        *("rem", "integer_pow", "cbrt", "exp2", "logistic", "erf_inv", "reduce_sum"),
        *("reduce_prod", "cumlogsumexp", "reduce_window_sum", "scatter-add", "scatter_add"),
        *("scatter-mul", "scatter-sub", "select_and_scatter_add", "select_and_gather_add"),
        *("nextafter", "bessel_i0e", "bessel_i1e", "igamma", "igammac", "igamma_grad_a"),
        *("polygamma", "zeta", "regularized_incomplete_beta"),
    ),
    "torch": (
        *_FUNCTIONS,
        *("rsub", "fmod", "remainder", "floor_divide", "reciprocal", "exp2", "log2", "log10"),
        *("erfinv", "sigmoid", "_softmax", "_log_softmax", "softplus", "elu", "celu", "gelu"),
        *("silu", "mish", "leaky_relu", "hardsigmoid", "hardswish", "log_sigmoid_forward"),
        *("logsumexp", "sum", "mean", "prod", "var", "std", "var_mean", "std_mean", "norm"),
        *("linalg_vector_norm", "native_layer_norm", "native_group_norm", "native_batch_norm"),
        *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "avg_pool2d"),
        *("avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "addcmul", "addcdiv"),
        *("lerp", "hypot", "logaddexp", "logaddexp2", "xlogy", "sinc", "mse_loss"),
        *("smooth_l1_loss", "huber_loss", "nll_loss_forward", "binary_cross_entropy"),
        *("nansum", "logcumsumexp", "cosine_similarity", "_fused_rms_norm", "_prelu_kernel"),
        *("rrelu_with_noise", "softshrink", "glu", "logit", "trace", "renorm", "dist", "col2im"),
        *("index_add", "scatter_add", "scatter_reduce", "index_reduce", "linalg_cross"),
        *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "_ctc_loss"),
        *("upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        *("grid_sampler_2d", "grid_sampler_3d", "soft_margin_loss", "multi_margin_loss"),
        *("multilabel_margin_loss_forward", "nll_loss2d_forward", "_embedding_bag", "ldexp"),
        *("native_dropout", "rad2deg", "deg2rad", "special_entr", "special_i0e", "special_i1"),
        *("special_i1e", "i0", "igamma", "igammac", "mvlgamma", "polygamma", "special_zeta"),
        *("special_ndtri", "special_log_ndtr", "special_erfcx", "special_xlog1py"),
    ),
}
"""Operations by which the backends compute new numbers one by one, or add them up."""

COMPOSED = {
    "tensorflow": (
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCustomCall", "XlaCustomCallV2"),
        *("LSTMBlockCell", "BlockLSTM", "BlockLSTMV2", "GRUBlockCell", "CudnnRNN", "CudnnRNNV2"),
        *("CudnnRNNV3", "CTCLoss", "CTCLossV2", "Cholesky", "Qr", "Svd", "Lu", "Eig"),
        *("SelfAdjointEig", "SelfAdjointEigV2", "MatrixInverse", "MatrixSolve", "MatrixSolveLs"),
        *("MatrixTriangularSolve", "BandedTriangularSolve", "TridiagonalSolve"),
        *("MatrixDeterminant", "LogMatrixDeterminant", "MatrixExponential", "MatrixLogarithm"),
        *("MatrixSquareRoot", "FFTND", "IFFTND", "RFFTND", "IRFFTND"),
        *(f"{kind}FFT{n}" for kind in ("", "I", "R", "IR") for n in ("", "2D", "3D")),
    ),
    "jax": (
        *("pure_callback", "io_callback", "ffi_call", "call_exported", "pallas_call"),
        *("tpu_custom_call", "triton_kernel_call", "cudnn_fusion", "dot_product_attention_fwd"),
        *("dot_product_attention_fwd_wrapper", "dot_product_attention_fp8_fwd"),
        *("dot_product_attention_fp8_fwd_wrapper", "fft", "cholesky", "cholesky_update", "eig"),
        *("eigh", "geqp3", "geqrf", "hessenberg", "householder_product", "lu", "ormqr", "qr"),
        *("schur", "svd", "symmetric_product", "triangular_solve", "tridiagonal"),
        "tridiagonal_solve",
    ),
    "torch": (
        *("_fft_r2c", "_fft_c2c", "_fft_c2r", "_native_multi_head_attention", "matrix_exp"),
        *("_transformer_encoder_layer_fwd", "_linalg_solve_ex", "linalg_inv_ex", "_linalg_svd"),
        *("_linalg_eigh", "linalg_eig", "linalg_qr", "linalg_lstsq", "linalg_lu"),
        *("linalg_lu_factor_ex", "linalg_lu_solve", "linalg_solve_triangular", "_linalg_det"),
        *("linalg_cholesky_ex", "cholesky_solve", "cholesky_inverse", "_linalg_slogdet"),
        *("linalg_matrix_exp", "linalg_pinv", "triangular_solve", "ormqr", "geqrf"),
    ),
}
"""Operations that compute products and elementwise operations, or what nobody sees."""


def sections_of(name: str) -> tuple[str, ...]:
    """Of a recipe, those which round what an operation of the running backend computes."""
    backend = keras.backend.backend()
    if name in COMPOSED[backend]:
        return "products", "elementwise"
    if name in PRODUCTS[backend]:
        return ("products",)
    return ("elementwise",) if name in ELEMENTWISE[backend] else ()
