/* The ONNX programs in onnxruntime's C API. */
#include <string.h>

#include "ort.h"
#include "runtime.h"

const char *const RUNTIME_FORMAT = "onnx";

static const OrtApi *ort;
static OrtEnv *environment;
static OrtMemoryInfo *memory;

const char *runtime_name(void) { return text("onnxruntime %s", OrtGetApiBase()->GetVersionString()); }

static void check(const OrtStatus *status, const char *doing) {
    if (status) fail("onnxruntime, %s: %s", doing, first_line(ort->GetErrorMessage(status)));
}

static void start(void) {
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!ort) fail("onnxruntime %s is too old", OrtGetApiBase()->GetVersionString());
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "replay", &environment), "starting");
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), "starting");
}

/* The program is some kilobytes; onnxruntime finds the weights beside it, in the file that is verified here. */
void *runtime_open(const Pack *pack, const Json *program) {
    if (!ort) start();
    static const char *verified = ""; /* the weights file, which all programs share */
    const char *path = json_string(program, "path"), *weights = json_string(program, "weights");
    pack_check(pack, path);
    if (strcmp(verified, weights)) pack_check(pack, verified = weights);
    OrtSessionOptions *options;
    OrtSession *session;
    check(ort->CreateSessionOptions(&options), "making options");
    check(ort->CreateSession(environment, pack_path(pack, path), options, &session), "opening a program");
    return session;
}

static OrtValue *value_of(const Tensor *tensor) {
    static const int types[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
                                ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
                                ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8};
    OrtValue *value;
    check(ort->CreateTensorWithDataAsOrtValue(memory, tensor->data, tensor->bytes, tensor->shape, tensor->rank,
                                              types[tensor->type], &value),
          "making a tensor");
    return value;
}

/* Ids are int64 in ONNX and int32 in the goldens. */
static Tensor widened(const Tensor *tensor) {
    if (tensor->type != I32) return *tensor;
    Tensor wide = tensor_new(tensor->name, I64, tensor->rank, tensor->shape);
    for (size_t i = 0; i < wide.count; i++) ((int64_t *)wide.data)[i] = ((int32_t *)tensor->data)[i];
    return wide;
}

/* The result is written where `output` has its memory; onnxruntime refuses it when type or shape are others. */
void runtime_run(void *opened, const Tensor *inputs, size_t count, Tensor *output) {
    const char *names[MAX_INPUTS];
    OrtValue *values[MAX_INPUTS], *result = value_of(output);
    for (size_t i = 0; i < count; i++) {
        Tensor wide = widened(&inputs[i]);
        names[i] = inputs[i].name;
        values[i] = value_of(&wide);
    }
    check(ort->Run(opened, NULL, names, (const OrtValue *const *)values, count, &output->name, 1, &result),
          "running a program");
    for (size_t i = 0; i < count; i++) ort->ReleaseValue(values[i]);
    ort->ReleaseValue(result);
}
