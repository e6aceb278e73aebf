#include "pack.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian, and so must be the machine"
#endif

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void *allocate(size_t size) {
    void *memory = calloc(size ? size : 1, 1);
    if (!memory) fail("no memory for %zu bytes", size);
    return memory;
}

char *text(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *made = allocate((size_t)length + 1);
    vsnprintf(made, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    return made;
}

char *first_line(const char *message) { return text("%.*s", (int)strcspn(message, "\r\n"), message); }

/* ---- SHA-256, FIPS 180-4 ---- */

typedef struct {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
} Sha256;

static const uint32_t ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void sha256_block(Sha256 *sha) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        const uint8_t *b = sha->block + 4 * i;
        w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, sha->state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t e = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25);
        uint32_t one = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + ROUNDS[i] + w[i];
        uint32_t a = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22);
        uint32_t two = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) sha->state[i] += s[i];
}

static Sha256 sha256_begin(void) {
    return (Sha256){
        .state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

static void sha256_add(Sha256 *sha, const uint8_t *data, size_t size) {
    while (size) {
        size_t used = sha->length % 64, take = size < 64 - used ? size : 64 - used;
        memcpy(sha->block + used, data, take);
        sha->length += take;
        data += take;
        size -= take;
        if (sha->length % 64 == 0) sha256_block(sha);
    }
}

static void sha256_end(Sha256 *sha, char hex[65]) {
    uint64_t bits = sha->length * 8;
    sha256_add(sha, (const uint8_t[]){0x80}, 1);
    while (sha->length % 64 != 56) sha256_add(sha, (const uint8_t[]){0}, 1);
    for (int i = 7; i >= 0; i--) sha256_add(sha, (const uint8_t[]){(uint8_t)(bits >> 8 * i)}, 1);
    for (int i = 0; i < 8; i++) snprintf(hex + 8 * i, 9, "%08x", sha->state[i]);
}

/* ---- JSON, RFC 8259 ---- */

#define MAX_DEPTH 64

typedef struct {
    const char *file, *start, *at, *end;
    int depth;
} Parser;

_Noreturn static void json_wrong(const Parser *p, const char *what) {
    fail("%s is not valid JSON: %s at byte %td", p->file, what, p->at - p->start);
}

static char peek(const Parser *p) { return p->at < p->end ? *p->at : '\0'; }

static void skip_space(Parser *p) {
    while (p->at < p->end && strchr(" \t\r\n", *p->at) && *p->at) p->at++;
}

static void expect(Parser *p, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(p->end - p->at) < length || memcmp(p->at, word, length)) json_wrong(p, text("no %s", word));
    p->at += length;
}

static unsigned hex4(Parser *p) {
    unsigned value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        const char *digits = "0123456789abcdef", c = peek(p) >= 'A' && peek(p) <= 'F' ? peek(p) + 32 : peek(p);
        const char *found = c ? strchr(digits, c) : NULL;
        if (!found) json_wrong(p, "no hexadecimal digit");
        value = value * 16 + (unsigned)(found - digits);
    }
    return value;
}

static char *put_utf8(char *out, unsigned code) {
    if (code < 0x80) return *out++ = (char)code, out;
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    *out++ = (char)((0xff00 >> (more + 1) & 0xff) | code >> 6 * more);
    while (more--) *out++ = (char)(0x80 | (code >> 6 * more & 0x3f));
    return out;
}

static const char *parse_string(Parser *p) {
    expect(p, "\"");
    const char *close = p->at;
    while (close < p->end && *close != '"') close += *close == '\\' ? 2 : 1;
    if (close >= p->end) json_wrong(p, "a string without end");
    char *made = allocate((size_t)(close - p->at) + 1), *out = made; /* an escape is longer than what it means */
    while (peek(p) != '"') {
        if ((unsigned char)peek(p) < 0x20) json_wrong(p, "a control character");
        if (peek(p) != '\\') {
            *out++ = *p->at++;
            continue;
        }
        p->at++;
        char escape = *p->at++;
        const char *known = "\"\\/bfnrt", *found = strchr(known, escape);
        if (escape && found) {
            *out++ = "\"\\/\b\f\n\r\t"[found - known];
            continue;
        }
        if (escape != 'u') json_wrong(p, "an unknown escape");
        unsigned code = hex4(p);
        if (code >= 0xd800 && code < 0xdc00) {
            expect(p, "\\u");
            unsigned low = hex4(p);
            if (low < 0xdc00 || low > 0xdfff) json_wrong(p, "half a surrogate pair");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        } else if (code >= 0xdc00 && code < 0xe000) {
            json_wrong(p, "half a surrogate pair");
        }
        out = put_utf8(out, code);
    }
    p->at++;
    return made;
}

static size_t digits(Parser *p) {
    const char *from = p->at;
    while (peek(p) >= '0' && peek(p) <= '9') p->at++;
    if (p->at == from) json_wrong(p, "no digit");
    return (size_t)(p->at - from);
}

static double parse_number(Parser *p) {
    const char *from = p->at;
    if (peek(p) == '-') p->at++;
    bool zero = peek(p) == '0';
    if (digits(p) > 1 && zero) json_wrong(p, "a leading zero");
    if (peek(p) == '.') p->at++, digits(p);
    if (peek(p) == 'e' || peek(p) == 'E') {
        p->at++;
        if (peek(p) == '+' || peek(p) == '-') p->at++;
        digits(p);
    }
    double value = strtod(text("%.*s", (int)(p->at - from), from), NULL);
    if (!isfinite(value)) json_wrong(p, "a number that is too large");
    return value;
}

static Json parse_value(Parser *p);

static void parse_items(Parser *p, Json *into, char close) {
    size_t room = 0;
    for (p->at++, skip_space(p); peek(p) != close; into->count++) {
        if (into->count) expect(p, ","), skip_space(p);
        if (into->count == room) {
            room = room ? 2 * room : 4;
            into->items = realloc(into->items, room * sizeof *into->items);
            into->keys = realloc(into->keys, room * sizeof *into->keys);
            if (!into->items || !into->keys) fail("no memory for %s", p->file);
        }
        if (into->kind == JSON_OBJECT) {
            const char *key = parse_string(p);
            if (json_find(into, key)) json_wrong(p, text("\"%s\" a second time", key));
            into->keys[into->count] = key;
            skip_space(p), expect(p, ":"), skip_space(p);
        }
        into->items[into->count] = parse_value(p);
        skip_space(p);
    }
    p->at++;
}

static Json parse_value(Parser *p) {
    Json value = {.file = p->file};
    if (++p->depth > MAX_DEPTH) json_wrong(p, "too many levels");
    char first = peek(p);
    if (first == '{' || first == '[') {
        value.kind = first == '{' ? JSON_OBJECT : JSON_ARRAY;
        parse_items(p, &value, first == '{' ? '}' : ']');
    } else if (first == '"') {
        value.kind = JSON_STRING;
        value.string = parse_string(p);
    } else if (first == 't' || first == 'f') {
        value.kind = JSON_BOOL;
        value.number = first == 't';
        expect(p, first == 't' ? "true" : "false");
    } else if (first == 'n') {
        expect(p, "null");
    } else {
        value.kind = JSON_NUMBER;
        value.number = parse_number(p);
    }
    p->depth--;
    return value;
}

Json *json_parse(const char *file, const char *data, size_t size) {
    Parser parser = {.file = file, .start = data, .at = data, .end = data + size};
    Json *root = allocate(sizeof *root);
    skip_space(&parser);
    *root = parse_value(&parser);
    skip_space(&parser);
    if (parser.at != parser.end) json_wrong(&parser, "something after the end");
    return root;
}

const Json *json_find(const Json *object, const char *key) {
    for (size_t i = 0; object->kind == JSON_OBJECT && i < object->count; i++)
        if (!strcmp(object->keys[i], key)) return &object->items[i];
    return NULL;
}

const Json *json_member(const Json *object, const char *key, JsonKind kind) {
    static const char *kinds[] = {"null", "true or false", "a number", "a text", "a list", "an object"};
    const Json *found = json_find(object, key);
    if (!found) fail("%s: \"%s\" is missing", object->file, key);
    if (found->kind != kind) fail("%s: \"%s\" is %s, not %s", object->file, key, kinds[found->kind], kinds[kind]);
    return found;
}

const char *json_string(const Json *object, const char *key) { return json_member(object, key, JSON_STRING)->string; }

int64_t json_size(const Json *value) {
    if (value->kind != JSON_NUMBER || value->number < 0 || value->number > 0x1p53 ||
        value->number != floor(value->number))
        fail("%s: a size is not a whole number", value->file);
    return (int64_t)value->number;
}

/* ---- Files ---- */

char *pack_path(const Pack *pack, const char *name) { return text("%s/%s", pack->directory, name); }

/* Read a file piece by piece, give its size and sha256; with `data`, keep it in memory too. */
static size_t read_file(const char *path, char hex[65], char **data) {
    FILE *file = fopen(path, "rb");
    if (!file) fail("%s cannot be read: %s", path, strerror(errno));
    size_t room = 1 << 16, size = 0, got;
    char *buffer = allocate(room);
    Sha256 sha = sha256_begin();
    while ((got = fread(buffer + (data ? size : 0), 1, data ? room - size : room, file)) > 0) {
        sha256_add(&sha, (const uint8_t *)buffer + (data ? size : 0), got);
        size += got;
        if (data && size == room && !(buffer = realloc(buffer, room *= 2))) fail("no memory for %s", path);
    }
    if (ferror(file)) fail("%s cannot be read: %s", path, strerror(errno));
    fclose(file);
    sha256_end(&sha, hex);
    if (data)
        *data = buffer;
    else
        free(buffer);
    return size;
}

size_t pack_bytes(const Pack *pack, const char *name, char **data) {
    const Json *entry = json_find(json_member(pack->manifest, "files", JSON_OBJECT), name);
    if (!entry) fail("manifest.json does not name %s", name);
    char hex[65];
    size_t size = read_file(pack_path(pack, name), hex, data);
    if ((int64_t)size != json_size(json_member(entry, "bytes", JSON_NUMBER)))
        fail("%s has %zu bytes, manifest.json says %.0f", name, size, json_find(entry, "bytes")->number);
    if (strcmp(hex, json_string(entry, "sha256")))
        fail("%s was altered: its sha256 is not that of manifest.json", name);
    return size;
}

bool pack_has(const Pack *pack, const char *name) {
    return json_find(json_member(pack->manifest, "files", JSON_OBJECT), name) != NULL;
}

void pack_check(const Pack *pack, const char *name) { pack_bytes(pack, name, NULL); }

Json *pack_json(const Pack *pack, const char *name) {
    char *data;
    size_t size = pack_bytes(pack, name, &data);
    return json_parse(text("%s", name), data, size);
}

Pack pack_open(const char *directory) {
    Pack pack = {.directory = directory};
    char digest[65], unused[65], *manifest, *statement;
    size_t size = read_file(pack_path(&pack, "manifest.json"), digest, &manifest);
    size_t length = read_file(pack_path(&pack, "provenance.json"), unused, &statement);
    const Json *subjects = json_member(json_parse("provenance.json", statement, length), "subject", JSON_ARRAY);
    bool stated = false;
    for (size_t i = 0; i < subjects->count; i++) {
        const Json *subject = &subjects->items[i];
        if (strcmp(json_string(subject, "name"), "manifest.json")) continue;
        stated = !strcmp(json_string(json_member(subject, "digest", JSON_OBJECT), "sha256"), digest);
    }
    if (!stated) fail("provenance.json does not state manifest.json as it is: one of them was altered");
    pack.manifest = json_parse("manifest.json", manifest, size);
    if (json_member(pack.manifest, "format_version", JSON_NUMBER)->number != 1)
        fail("manifest.json is not of format 1, which this program reads");
    return pack;
}

const Json *pack_program(const Pack *pack, const char *entry_point, const char *format) {
    const Json *entries = json_member(pack->manifest, "entry_points", JSON_OBJECT);
    const Json *entry = json_member(entries, entry_point, JSON_OBJECT);
    return json_member(json_member(entry, "programs", JSON_OBJECT), format, JSON_OBJECT);
}

/* ---- safetensors ---- */

Type type_named(const char *name) {
    static const struct {
        const char *name;
        Type type;
    } known[] = {{"F32", F32}, {"F64", F64},     {"I32", I32},   {"I64", I64},
                 {"U8", U8},   {"float32", F32}, {"int32", I32}, {"int64", I64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) return known[i].type;
    return OTHER;
}

size_t type_bytes(Type type) { return (const size_t[]){4, 8, 4, 8, 1, 0}[type]; }

Tensor tensor_new(const char *name, Type type, size_t rank, const int64_t *shape) {
    Tensor tensor = {.name = name, .type = type, .rank = rank, .count = 1};
    for (size_t i = 0; i < rank; i++) tensor.count *= (size_t)(tensor.shape[i] = shape[i]);
    tensor.bytes = tensor.count * type_bytes(type);
    tensor.data = allocate(tensor.bytes);
    return tensor;
}

static Tensor read_tensor(const char *name, const Json *entry, const char *data, size_t size) {
    Tensor tensor = {.name = name, .type = type_named(json_string(entry, "dtype")), .count = 1};
    if (tensor.type == OTHER) fail("%s: %s is of the type %s", entry->file, name, json_string(entry, "dtype"));
    const Json *shape = json_member(entry, "shape", JSON_ARRAY), *span = json_member(entry, "data_offsets", JSON_ARRAY);
    if (shape->count > MAX_RANK || span->count != 2)
        fail("%s: %s has more than %d axes, or no beginning and end", entry->file, name, MAX_RANK);
    tensor.rank = shape->count;
    for (size_t i = 0; i < shape->count; i++) {
        tensor.shape[i] = json_size(&shape->items[i]);
        if (__builtin_mul_overflow(tensor.count, (size_t)tensor.shape[i], &tensor.count))
            fail("%s: %s is too large", entry->file, name);
    }
    if (__builtin_mul_overflow(tensor.count, type_bytes(tensor.type), &tensor.bytes))
        fail("%s: %s is too large", entry->file, name);
    size_t from = (size_t)json_size(&span->items[0]), to = (size_t)json_size(&span->items[1]);
    if (from > to || to > size || to - from != tensor.bytes)
        fail("%s: %s lies at bytes %zu to %zu of %zu and needs %zu", entry->file, name, from, to, size, tensor.bytes);
    tensor.data = allocate(tensor.bytes); /* a copy, since the place in the file may be unaligned */
    memcpy(tensor.data, data + from, tensor.bytes);
    return tensor;
}

Tensors pack_tensors(const Pack *pack, const char *name) {
    char *data;
    size_t size = pack_bytes(pack, name, &data);
    uint64_t header = 0;
    if (size >= 8) memcpy(&header, data, 8);
    if (size < 8 || header > size - 8) fail("%s is no safetensors file: its header is longer than the file", name);
    const Json *entries = json_parse(text("%s", name), data + 8, (size_t)header);
    if (entries->kind != JSON_OBJECT) fail("%s is no safetensors file: its header is no object", name);
    Tensors tensors = {.file = entries->file, .items = allocate(entries->count * sizeof(Tensor))};
    for (size_t i = 0; i < entries->count; i++)
        if (strcmp(entries->keys[i], "__metadata__"))
            tensors.items[tensors.count++] =
                read_tensor(entries->keys[i], &entries->items[i], data + 8 + header, size - 8 - (size_t)header);
    free(data);
    return tensors;
}

const Tensor *tensor_named(const Tensors *tensors, const char *name) {
    for (size_t i = 0; i < tensors->count; i++)
        if (!strcmp(tensors->items[i].name, name)) return &tensors->items[i];
    fail("%s: there is no %s", tensors->file, name);
}
