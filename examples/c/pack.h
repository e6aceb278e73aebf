/* The contract pack for programs in C: verified files, strict JSON, safetensors. See docs/pack.md.
 *
 * Everything that is wrong ends the program with one message and exit code 1. Memory is kept until then. */
#ifndef PACK_H
#define PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_RANK 8

_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The first line of a runtime's message, which goes on for pages. */
char *first_line(const char *message);
void *allocate(size_t size);
/* printf into new memory. */
char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json {
    JsonKind kind;
    double number;      /* also of true and false: 1 and 0 */
    const char *string; /* UTF-8 */
    size_t count;       /* of items */
    const char **keys;  /* of an object's items */
    struct Json *items;
    const char *file; /* for messages */
} Json;

/* Parse a whole text. Refuses what RFC 8259 does not have, double keys, and numbers that are not finite. */
Json *json_parse(const char *file, const char *data, size_t size);
/* The member of an object, or NULL. */
const Json *json_find(const Json *object, const char *key);
/* The member of an object, which must be of this kind. */
const Json *json_member(const Json *object, const char *key, JsonKind kind);
const char *json_string(const Json *object, const char *key);
/* A whole number of zero or more. */
int64_t json_size(const Json *value);

typedef enum { F32, F64, I32, I64, U8, OTHER } Type;

typedef struct {
    const char *name;
    Type type;
    size_t rank;
    int64_t shape[MAX_RANK];
    size_t count, bytes;
    void *data; /* C order */
} Tensor;

typedef struct {
    const char *file;
    size_t count;
    Tensor *items;
} Tensors;

/* A tensor of zeros. */
Tensor tensor_new(const char *name, Type type, size_t rank, const int64_t *shape);
Type type_named(const char *name); /* "float32" or "F32" */
size_t type_bytes(Type type);

typedef struct {
    const char *directory;
    const Json *manifest;
} Pack;

/* Read the manifest, which must be the one that the provenance states. */
Pack pack_open(const char *directory);
/* What the manifest says of an entry point's program in a format. */
const Json *pack_program(const Pack *pack, const char *entry_point, const char *format);
/* Whether the manifest names a file. */
bool pack_has(const Pack *pack, const char *name);
/* Compare a file's size and sha256 with the manifest, for files that a runtime reads by itself. */
void pack_check(const Pack *pack, const char *name);
/* Give the path of a file. */
char *pack_path(const Pack *pack, const char *name);
/* Read a whole file; give its size. */
size_t pack_bytes(const Pack *pack, const char *name, char **data);
Json *pack_json(const Pack *pack, const char *name);
Tensors pack_tensors(const Pack *pack, const char *name);
const Tensor *tensor_named(const Tensors *tensors, const char *name);

#endif
