/* What replay.c wants of a runtime; tensorflow.c and onnxruntime.c each have one. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "pack.h"

/* A step of a decoder takes the caches of every layer. */
#define MAX_INPUTS 256

/* The manifest's name of the format, "onnx". */
extern const char *const RUNTIME_FORMAT;

/* Give the runtime's name and version. */
const char *runtime_name(void);
/* Verify and open the program of an entry point. `program` is what the manifest says of it. */
void *runtime_open(const Pack *pack, const Json *program);
/* Compute one output, whose type and shape are set and whose data is to be filled. */
void runtime_run(void *opened, const Tensor *inputs, size_t count, Tensor *output);

#endif
