"""What kit knows of ONNX operators by name: which ones multiply, which only move, and which of their inputs are settings.

An operator that no table here names is unknown: its multiply-accumulates are then unknown too, never 0.
"""

from __future__ import annotations

from onnx import NodeProto

STANDARD = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
#: Domains of onnxruntime whose operators are the standard ones in another memory layout.
LAYOUTS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# No tensor is written for these: runtimes pass the same bytes on under another shape, or compute the value ahead.
VIEWS = _words(
    "Reshape Flatten Squeeze Unsqueeze Identity Constant Shape ConstantOfShape DequantizeLinear",
)
QUANTIZERS = _words("QuantizeLinear DequantizeLinear DynamicQuantizeLinear")
#: Products of integers with scales and zero points of their own.
STATIC_INTEGER = _words("QLinearConv QLinearMatMul QLinearConvTranspose QGemm QAttention")
#: Products of integers whose activations were quantized by another operator, or are by these.
INTEGER = _words("ConvInteger MatMulInteger")
DYNAMIC_INTEGER = _words("DynamicQuantizeMatMul DynamicQuantizeLSTM")
INTEGER_PRODUCTS = STATIC_INTEGER | INTEGER | DYNAMIC_INTEGER | {"MatMulIntegerToFloat"}
#: Products of float activations and weights that are stored in few bits: attribute ``bits``, else 4.
FEW_BITS = _words("MatMulNBits MatMulBnb4")
QUANTIZED = INTEGER_PRODUCTS | _words("QuantizeLinear DynamicQuantizeLinear")
CONTROL_FLOW = _words("Loop Scan If SequenceMap")

#: Operators of the standard domain without multiply-accumulates: elementwise, normalizing, reducing, pooling, moving, choosing.
_STANDARD_LIGHT = _words(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil
    Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity IsInf
    IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu
    Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor
    BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization LRN MeanVarianceNormalization
    RMSNormalization SimplifiedLayerNormalization RotaryEmbedding
    ArgMax ArgMin CumProd CumSum NegativeLogLikelihoodLoss ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare SoftmaxCrossEntropyLoss
    AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool MaxUnpool RoiAlign
    CenterCropPad Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather
    GatherElements GatherND GridSample NonMaxSuppression NonZero OneHot Optional OptionalGetElement OptionalHasElement Pad Range
    Reshape Resize ReverseSequence Scatter ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Size Slice SpaceToDepth Split SplitToSequence Squeeze TensorScatter Tile TopK Transpose
    Trilu Unique Unsqueeze Upsample
    DequantizeLinear DynamicQuantizeLinear QuantizeLinear
    Bernoulli BlackmanWindow HammingWindow HannWindow MelWeightMatrix Multinomial RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer
    """
)
_MICROSOFT_LIGHT = _words(
    """
    BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BitmaskBiasDropout BitmaskDropout ComplexMul ComplexMulConj FastGelu
    GatedAdd Gelu IsAllFinite MulInteger QuickGelu ScaledSiLU SwiGLU
    EmbedLayerNormalization GatedRMSNorm GemmaRotaryEmbedding GroupNorm MRotaryEmbedding QEmbedLayerNormalization RMSNormRotary
    RotaryEmbedding SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization SkipSimplifiedLayerNormalization
    MaxpoolWithMask NhwcMaxPool ReduceSumInteger RelativePositionBias
    QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
    QLinearSigmoid QLinearSoftmax QLinearWhere QOrderedGelu QOrderedLayerNormalization
    DequantizeBFP DequantizeLinear DequantizeWithOrder QuantizeBFP QuantizeLinear QuantizeWithOrder
    CropAndResize ExpandDims GatherBlockQuantized GatherND GridSample MurmurHash3 NGramRepeatBlock Pad Range RemovePadding
    RestorePadding SampleOp Tokenizer TorchEmbedding Trilu UnfoldTensor Unique
    """
)
_ML_LIGHT = _words(
    """
    ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder Normalizer
    OneHotEncoder Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
    """
)
_LAYOUT_LIGHT = _words("ReorderInput ReorderOutput QLinearAveragePool") | _STANDARD_LIGHT


def has_no_products(node: NodeProto) -> bool:
    """Whether ``node`` is an operator that kit knows to multiply and accumulate nothing."""
    domain, kind = node.domain, node.op_type
    if domain in STANDARD:
        return kind in _STANDARD_LIGHT
    if domain == MICROSOFT:
        return kind in _MICROSOFT_LIGHT
    if domain == "ai.onnx.ml":
        return kind in _ML_LIGHT
    return domain in LAYOUTS and kind in _LAYOUT_LIGHT


def is_known(node: NodeProto) -> bool:
    """Whether ``node`` is a lighter operator, a loop or a branch."""
    return has_no_products(node) or (node.domain in STANDARD and node.op_type in CONTROL_FLOW)


#: Kinds of the kernels of the lighter operators; every other one is elementwise.
LIGHT_KINDS: dict[str, str] = {
    name: kind
    for kind, names in {
        "pool": """
            MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceSum QLinearAveragePool
            QLinearGlobalAveragePool GlobalLpPool NhwcMaxPool MaxpoolWithMask QLinearReduceMean
        """,
        "add": "Add Sub Sum QLinearAdd BiasAdd GatedAdd",
        "norm": """
            LayerNormalization GroupNormalization InstanceNormalization BatchNormalization RMSNormalization
            SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization EmbedLayerNormalization
            QEmbedLayerNormalization GroupNorm SkipGroupNorm
        """,
        "softmax": "Softmax LogSoftmax BiasSoftmax QLinearSoftmax",
        "move": """
            Transpose Concat Slice Gather Pad Resize Split Expand Tile DepthToSpace SpaceToDepth QLinearConcat Cast ReorderInput
            ReorderOutput Einsum
        """,
    }.items()
    for name in names.split()
}

#: Inputs of an operator that are computed with; all others are scales, zero points, axes and shapes.
_COMPUTED_WITH: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearConvTranspose"), (0, 3, 8)),
    "QGemm": (0, 3, 6),
    "QAttention": (0, 1, 2, 8),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (0, 3)),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), (0, 1)),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "DynamicQuantizeLSTM": (0, 1, 2, 3, 5, 6, 7),
    "MatMulNBits": (0, 1, 5),
    "MatMulBnb4": (0, 1),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "Clip", "Pad", "Resize", "Slice", "Gather"),
        (0,),
    ),
    **dict.fromkeys(
        ("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearAveragePool", "QLinearGlobalAveragePool"),
        (0,),
    ),
    "GatherBlockQuantized": (0,),
    "If": (),
}


def settings_of(node: NodeProto) -> list[str]:
    """Inputs of ``node`` that say how to compute and are not computed with."""
    if node.op_type == "Loop":  # how often, and whether at all
        return list(node.input[:2])
    used = _COMPUTED_WITH.get(node.op_type)
    return [] if used is None else [name for i, name in enumerate(node.input) if i not in used]


def label(node: NodeProto) -> str:
    """The operator and its name (where it has none, that of its first output), as a person would look for it."""
    return f"{node.op_type} '{node.name or next((name for name in node.output if name), '')}'"


def integer(node: NodeProto, name: str, default: int = 0) -> int:
    """The integer attribute ``name`` of ``node``."""
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def integers(node: NodeProto, name: str) -> tuple[int, ...] | None:
    """The attribute ``name`` of ``node`` that lists integers, or None."""
    return next((tuple(a.ints) for a in node.attribute if a.name == name), None)


def text(node: NodeProto, name: str) -> str:
    """The attribute ``name`` of ``node`` that is a text, empty where it has none."""
    return next((a.s.decode(errors="replace") for a in node.attribute if a.name == name), "")
