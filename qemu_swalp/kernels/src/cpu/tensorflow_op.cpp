// The kernels as an operation of TensorFlow, eager and in graphs, by its C API.
//
// That is a stable ABI of functions on opaque pointers (`tensorflow/c/kernels.h`, `c/ops.h`). They
// are looked up in the library that the process has loaded, so that no header and no library of
// TensorFlow is needed to compile this.
#include <dlfcn.h>

#include <memory>

#include "cpu/stored_call.h"

namespace {

using namespace qemu_swalp;

struct TF_Status;
struct TF_Tensor;
struct TF_Builder;
struct TF_Context;
struct TF_Construction;
struct TF_Shape;
struct TF_ShapeContext;

constexpr int ok = 0, invalid_argument = 3;
/// TensorFlow's numbers of our dtypes, in the order of `Dtype`.
constexpr int dtypes[] = {19, 14, 1, 2};

#define QS_TENSORFLOW(F)                                                                     \
  F(TF_NewStatus, TF_Status*, ())                                                            \
  F(TF_DeleteStatus, void, (TF_Status*))                                                     \
  F(TF_SetStatus, void, (TF_Status*, int, const char*))                                      \
  F(TF_GetCode, int, (const TF_Status*))                                                     \
  F(TF_NewOpDefinitionBuilder, TF_Builder*, (const char*))                                   \
  F(TF_OpDefinitionBuilderAddAttr, void, (TF_Builder*, const char*))                         \
  F(TF_OpDefinitionBuilderAddInput, void, (TF_Builder*, const char*))                        \
  F(TF_OpDefinitionBuilderAddOutput, void, (TF_Builder*, const char*))                       \
  F(TF_OpDefinitionBuilderSetShapeInferenceFunction, void,                                   \
    (TF_Builder*, void (*)(TF_ShapeContext*, TF_Status*)))                                   \
  F(TF_RegisterOpDefinition, void, (TF_Builder*, TF_Status*))                                \
  F(TF_NewShapeHandle, TF_Shape*, ())                                                        \
  F(TF_DeleteShapeHandle, void, (TF_Shape*))                                                 \
  F(TF_ShapeInferenceContextGetInput, void, (TF_ShapeContext*, int, TF_Shape*, TF_Status*))  \
  F(TF_ShapeInferenceContextSetOutput, void, (TF_ShapeContext*, int, TF_Shape*, TF_Status*)) \
  F(TF_NewKernelBuilder, TF_Builder*,                                                        \
    (const char*, const char*, void* (*)(TF_Construction*), void (*)(void*, TF_Context*),    \
     void (*)(void*)))                                                                       \
  F(TF_RegisterKernelBuilder, void, (const char*, TF_Builder*, TF_Status*))                  \
  F(TF_OpKernelConstruction_GetAttrSize, void,                                               \
    (TF_Construction*, const char*, int32_t*, int32_t*, TF_Status*))                         \
  F(TF_OpKernelConstruction_GetAttrString, void,                                             \
    (TF_Construction*, const char*, char*, size_t, TF_Status*))                              \
  F(TF_OpKernelConstruction_Failure, void, (TF_Construction*, TF_Status*))                   \
  F(TF_OpKernelContext_Failure, void, (TF_Context*, TF_Status*))                             \
  F(TF_NumInputs, int, (TF_Context*))                                                        \
  F(TF_GetInput, void, (TF_Context*, int, TF_Tensor**, TF_Status*))                          \
  F(TF_ForwardInputOrAllocateOutput, TF_Tensor*,                                             \
    (TF_Context*, const int*, int, int, const int64_t*, int, int*, TF_Status*))              \
  F(TF_DeleteTensor, void, (TF_Tensor*))                                                     \
  F(TF_TensorType, int, (const TF_Tensor*))                                                  \
  F(TF_NumDims, int, (const TF_Tensor*))                                                     \
  F(TF_Dim, int64_t, (const TF_Tensor*, int))                                                \
  F(TF_TensorData, void*, (const TF_Tensor*))

#define QS_POINTER(name, result, arguments) result(*name) arguments = nullptr;
QS_TENSORFLOW(QS_POINTER)
#undef QS_POINTER

struct Deleter {
  void operator()(TF_Status* status) const { TF_DeleteStatus(status); }
  void operator()(TF_Tensor* tensor) const { TF_DeleteTensor(tensor); }
};
using Status = std::unique_ptr<TF_Status, Deleter>;
using Tensor = std::unique_ptr<TF_Tensor, Deleter>;

bool is_ok(const Status& status) { return TF_GetCode(status.get()) == ok; }

/// The attribute `call` of an operation in a graph, read once.
struct Kernel {
  std::vector<uint64_t> bytes;
  Call call;
};

void* create(TF_Construction* construction) {
  const Status status(TF_NewStatus());
  int32_t list_size = 0, size = 0;
  auto kernel = std::make_unique<Kernel>();
  TF_OpKernelConstruction_GetAttrSize(construction, "call", &list_size, &size, status.get());
  if (is_ok(status)) {
    kernel->bytes.resize(size_t(size + 7) / 8);
    TF_OpKernelConstruction_GetAttrString(construction, "call",
                                          reinterpret_cast<char*>(kernel->bytes.data()),
                                          size_t(size), status.get());
  }
  if (is_ok(status)) {
    if (const char* reason = kernel->call.read(kernel->bytes.data(), size_t(size)))
      TF_SetStatus(status.get(), invalid_argument, reason);
  }
  if (is_ok(status)) return kernel.release();
  TF_OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

/// A tensor, and its shape.
struct Input {
  Tensor tensor;
  std::vector<int64_t> lengths;

  explicit Input(TF_Tensor* from) : tensor(from) {
    for (int i = 0; from && i < TF_NumDims(from); ++i) lengths.push_back(TF_Dim(from, i));
  }
  Operand operand() const {
    return {TF_TensorData(tensor.get()), int64_t(lengths.size()), lengths.data()};
  }
};

Input input(TF_Context* context, int i, const Status& status) {
  TF_Tensor* tensor = nullptr;
  TF_GetInput(context, i, &tensor, status.get());
  return Input(is_ok(status) ? tensor : nullptr);
}

/// Why it cannot be run; null once it has, or where `status` says why.
const char* compute(const Kernel& kernel, TF_Context* context, const Status& status) {
  const int count = TF_NumInputs(context) - 1;
  if (count > most_others) return "a call of qemu_swalp has too many operands";
  Input x = input(context, 0, status);
  if (!is_ok(status)) return nullptr;
  if (TF_TensorType(x.tensor.get()) != dtypes[int(kernel.call.dtype())])
    return "a call of qemu_swalp was made for another dtype";
  std::vector<Input> given;
  Operand others[most_others];
  for (int i = 0; i < count; ++i) {
    given.push_back(input(context, i + 1, status));
    if (!is_ok(status)) return nullptr;
    others[i] = given.back().operand();
  }
  x.tensor.reset();  // a tensor that nobody else reads is overwritten
  const int candidate = 0;
  int forwarded = -1;
  const Tensor y(TF_ForwardInputOrAllocateOutput(context, &candidate, 1, 0, x.lengths.data(),
                                                 int(x.lengths.size()), &forwarded, status.get()));
  if (!is_ok(status)) return nullptr;
  const int64_t rank = int64_t(x.lengths.size());
  const Operand target{TF_TensorData(y.get()), rank, x.lengths.data()};
  if (forwarded == candidate) return kernel.call.run(target, target, others, count, threads());
  const Input source = input(context, 0, status);
  if (!is_ok(status)) return nullptr;
  return kernel.call.run(source.operand(), target, others, count, threads());
}

void compute_or_fail(void* kernel, TF_Context* context) {
  const Status status(TF_NewStatus());
  const char* reason = compute(*static_cast<Kernel*>(kernel), context, status);
  if (reason) TF_SetStatus(status.get(), invalid_argument, reason);
  if (!is_ok(status)) return TF_OpKernelContext_Failure(context, status.get());
  count_call();
}

void infer_shape(TF_ShapeContext* context, TF_Status* status) {
  TF_Shape* shape = TF_NewShapeHandle();
  TF_ShapeInferenceContextGetInput(context, 0, shape, status);
  if (TF_GetCode(status) == ok) TF_ShapeInferenceContextSetOutput(context, 0, shape, status);
  TF_DeleteShapeHandle(shape);
}

}  // namespace

/// Registers the operation with the TensorFlow of a library that `dlopen` has given. Returns why
/// that failed; null if it did not.
QS_EXPORT const char* qs_register_tensorflow(void* library) {
#define QS_FIND(name, result, arguments)                               \
  name = reinterpret_cast<result(*) arguments>(dlsym(library, #name)); \
  if (!name) return "TensorFlow's library lacks " #name;
  QS_TENSORFLOW(QS_FIND)
#undef QS_FIND
  const Status status(TF_NewStatus());
  TF_Builder* op = TF_NewOpDefinitionBuilder("QemuSwalpQuantize");
  TF_OpDefinitionBuilderAddInput(op, "x: T");
  TF_OpDefinitionBuilderAddInput(op, "others: N * uint32");
  TF_OpDefinitionBuilderAddOutput(op, "y: T");
  TF_OpDefinitionBuilderAddAttr(op, "T: {half, bfloat16, float, double}");
  TF_OpDefinitionBuilderAddAttr(op, "N: int >= 0");
  TF_OpDefinitionBuilderAddAttr(op, "call: string");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, infer_shape);
  TF_RegisterOpDefinition(op, status.get());
  if (!is_ok(status)) return "TensorFlow refused the definition of the operation";
  TF_RegisterKernelBuilder(
      "QemuSwalpQuantize",
      TF_NewKernelBuilder("QemuSwalpQuantize", "CPU", create, compute_or_fail, destroy),
      status.get());
  return is_ok(status) ? nullptr : "TensorFlow refused the kernel of the operation";
}
