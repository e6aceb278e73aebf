/* The SavedModel in TensorFlow's C API. C knows no signatures; the manifest says which tensors to feed and fetch. */
#include <stdlib.h>
#include <string.h>

#include <tensorflow/c/c_api.h>

#include "runtime.h"

const char *const RUNTIME_FORMAT = "saved_model";

typedef struct {
    TF_Graph *graph;
    TF_Session *session;
    const Json *feeds, *fetches;
} Opened;

const char *runtime_name(void) { return text("TensorFlow %s", TF_Version()); }

static void check(const TF_Status *status, const char *doing) {
    if (TF_GetCode(status) != TF_OK) fail("TensorFlow, %s: %s", doing, first_line(TF_Message(status)));
}

/* All signatures are in one graph: it is verified and loaded once. */
static void load(const Pack *pack, const char *folder, TF_Graph **graph, TF_Session **session) {
    const Json *files = json_member(pack->manifest, "files", JSON_OBJECT);
    char *within = text("%s/", folder);
    for (size_t i = 0; i < files->count; i++)
        if (!strncmp(files->keys[i], within, strlen(within))) pack_check(pack, files->keys[i]);
    if (!pack_has(pack, text("%ssaved_model.pb", within))) fail("manifest.json does not name %ssaved_model.pb", within);
    TF_Status *status = TF_NewStatus();
    TF_SessionOptions *options = TF_NewSessionOptions();
    const char *tags[] = {"serve"};
    *graph = TF_NewGraph();
    *session = TF_LoadSessionFromSavedModel(options, NULL, pack_path(pack, folder), tags, 1, *graph, NULL, status);
    check(status, "opening the SavedModel");
    TF_DeleteSessionOptions(options);
    TF_DeleteStatus(status);
}

void *runtime_open(const Pack *pack, const Json *program) {
    static TF_Graph *graph;
    static TF_Session *session;
    if (!session) load(pack, json_string(program, "path"), &graph, &session);
    Opened *opened = allocate(sizeof *opened);
    *opened = (Opened){graph, session, json_member(program, "feeds", JSON_OBJECT),
                       json_member(program, "fetches", JSON_OBJECT)};
    return opened;
}

/* Find "encode_text_input_ids:0" in the graph. */
static TF_Output output_named(const Opened *opened, const Json *names, const char *name) {
    char *operation = text("%s", json_string(names, name)), *colon = strchr(operation, ':');
    int index = colon ? atoi(colon + 1) : 0;
    if (colon) *colon = '\0';
    TF_Output output = {TF_GraphOperationByName(opened->graph, operation), index};
    if (!output.oper || index < 0 || index >= TF_OperationNumOutputs(output.oper))
        fail("the SavedModel has no tensor %s, which manifest.json names for %s", json_string(names, name), name);
    return output;
}

void runtime_run(void *runtime, const Tensor *inputs, size_t count, Tensor *output) {
    const Opened *opened = runtime;
    static const TF_DataType types[] = {TF_FLOAT, TF_DOUBLE, TF_INT32, TF_INT64, TF_UINT8};
    TF_Output feeds[MAX_INPUTS], fetch = output_named(opened, opened->fetches, output->name);
    TF_Tensor *values[MAX_INPUTS], *result = NULL;
    for (size_t i = 0; i < count; i++) {
        feeds[i] = output_named(opened, opened->feeds, inputs[i].name);
        values[i] = TF_AllocateTensor(types[inputs[i].type], inputs[i].shape, (int)inputs[i].rank, inputs[i].bytes);
        memcpy(TF_TensorData(values[i]), inputs[i].data, inputs[i].bytes);
    }
    TF_Status *status = TF_NewStatus();
    TF_SessionRun(opened->session, NULL, feeds, values, (int)count, &fetch, &result, 1, NULL, 0, NULL, status);
    check(status, "running a signature");
    bool fits = TF_TensorType(result) == types[output->type] && TF_NumDims(result) == (int)output->rank;
    for (size_t i = 0; fits && i < output->rank; i++) fits = TF_Dim(result, (int)i) == output->shape[i];
    if (!fits) fail("%s has another type or shape in TensorFlow than in the goldens", output->name);
    memcpy(output->data, TF_TensorData(result), output->bytes);
    for (size_t i = 0; i < count; i++) TF_DeleteTensor(values[i]);
    TF_DeleteTensor(result);
    TF_DeleteStatus(status);
}
