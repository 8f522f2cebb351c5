// The kernels as a custom call of XLA, for JAX and for TensorFlow under XLA.
//
// XLA's foreign function interface is a C ABI in which each structure begins with its size. What we
// read of it is declared here, so that no header of XLA is needed; it was checked against versions
// 0.2 and 0.3.
#include <cstddef>

#include "cpu/stored_call.h"

namespace {

using namespace qemu_swalp;

struct Extension {
  size_t struct_size;
  int type;  // 1: metadata are asked for
  Extension* next;
};
struct Version {
  size_t struct_size;
  Extension* extensions;
  int major, minor;
};
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};
struct Error;
struct ErrorArguments {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  int code;
};
struct Text {
  const char* data;
  size_t size;
};
struct Buffer {
  size_t struct_size;
  Extension* extensions;
  int dtype;
  void* data;
  int64_t rank;
  int64_t* lengths;
};
struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int* types;  // 1: a buffer
  Buffer** at;
};
struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int* types;  // 4: a string
  Text** names;
  void** at;
};
struct Frame;
using Handler = Error*(Frame*);
struct Registration {
  size_t struct_size;
  Extension* extensions;
  Text name, platform;
  Handler *instantiate, *prepare, *initialize, *execute;
  uint32_t traits;
};
struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
  void* get_message;
  void* destroy_error;
  Error* (*register_handler)(Registration*);
};
struct Frame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Buffers arguments, results;
  Attributes attributes;
};

constexpr int known_major = 0, least_minor = 1;
constexpr int invalid_argument = 3, unimplemented = 12;
constexpr int metadata_type = 1, execute_stage = 3, string_type = 4;
/// XLA's numbers of our dtypes, in the order of `Dtype`.
constexpr int dtypes[] = {10, 16, 11, 12};

static_assert(sizeof(Buffer) == 48 && sizeof(Buffers) == 40 && sizeof(Attributes) == 48 &&
                  offsetof(Frame, attributes) == 120,
              "structures of XLA's interface");

Error* fail(const Api* api, const char* message, int code = invalid_argument) {
  ErrorArguments arguments{sizeof arguments, nullptr, message, code};
  return api->create_error(&arguments);
}

Operand operand(const Buffer* buffer) { return {buffer->data, buffer->rank, buffer->lengths}; }

/// Whether the structures that we read are those that we know.
bool is_known(const Frame* frame) {
  const Version& version = frame->api->version;
  auto fits = [](const Buffers& buffers) {
    return buffers.struct_size == sizeof(Buffers) &&
           (buffers.size == 0 || buffers.at[0]->struct_size == sizeof(Buffer));
  };
  return version.major == known_major && version.minor >= least_minor &&
         frame->struct_size >= sizeof(Frame) && fits(frame->arguments) && fits(frame->results) &&
         frame->attributes.struct_size == sizeof(Attributes);
}

}  // namespace

/// The handler of the custom call: its attribute `call` is a `StoredCall`, its arguments are an
/// array and what `Call::run` needs beside it, its result is the rounded array.
QS_EXPORT void* qs_xla_quantize(void* call_frame) {
  Frame* frame = static_cast<Frame*>(call_frame);
  const Api* api = frame->api;
  for (Extension* e = frame->extensions; e; e = e->next) {
    if (e->type != metadata_type) continue;
    Version& version = reinterpret_cast<MetadataExtension*>(e)->metadata->version;
    version.major = known_major;
    // A minor version adds at the ends of structures, whose sizes each call checks.
    version.minor = api->version.major == known_major ? api->version.minor : least_minor;
    return nullptr;
  }
  if (!is_known(frame))
    return fail(api, "qemu_swalp does not know this version of XLA's foreign function interface",
                unimplemented);
  if (frame->stage != execute_stage) return nullptr;
  const Text* bytes = nullptr;
  for (int64_t i = 0; i < frame->attributes.size; ++i) {
    const Text* name = frame->attributes.names[i];
    if (name->size == 4 && !std::memcmp(name->data, "call", 4) &&
        frame->attributes.types[i] == string_type)
      bytes = static_cast<const Text*>(frame->attributes.at[i]);
  }
  Call call;
  if (!bytes || frame->arguments.size < 1 || frame->arguments.size > 1 + most_others ||
      frame->results.size != 1)
    return fail(api, "a custom call of qemu_swalp lacks its attribute or operands");
  if (const char* reason = call.read(bytes->data, bytes->size)) return fail(api, reason);
  const Buffer *x = frame->arguments.at[0], *result = frame->results.at[0];
  const int dtype = dtypes[int(call.dtype())];
  if (x->dtype != dtype || result->dtype != dtype)
    return fail(api, "a custom call of qemu_swalp was made for another dtype");
  Operand others[most_others];
  const int count = int(frame->arguments.size) - 1;
  for (int i = 0; i < count; ++i) others[i] = operand(frame->arguments.at[i + 1]);
  if (const char* reason = call.run(operand(x), operand(result), others, count, threads()))
    return fail(api, reason);
  count_call();
  return nullptr;
}

/// Registers the handler with an XLA in the process: `get_api` is its `GetXlaFfiApi`. Returns why
/// that failed; null if it did not.
QS_EXPORT const char* qs_register_xla(const void* (*get_api)(), const char* name) {
  const Api* api = static_cast<const Api*>(get_api());
  if (api->struct_size < sizeof(Api) || api->version.major != known_major ||
      api->version.minor < least_minor)
    return "its XLA has another version of the foreign function interface";
  auto handler = reinterpret_cast<Handler*>(qs_xla_quantize);
  Registration registration{sizeof registration,
                            nullptr,
                            {name, std::strlen(name)},
                            {"Host", 4},
                            nullptr,
                            nullptr,
                            nullptr,
                            handler,
                            0};
  return api->register_handler(&registration) ? "its XLA refused the custom call" : nullptr;
}
