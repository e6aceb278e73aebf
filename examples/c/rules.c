#include "rules.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LARGEST 2147483647.0

/* What a key may say: the kind of its value, and the words or the bounds of those kinds that have them. */
typedef struct {
    const char *key;
    enum { WORD, TEXT, NAME, WHOLE, NUMBER, BOOLEAN, TRUTH, MODES, THREE, LIST, OBJECT, OBJECT_OR_NULL, NOTHING } is;
    const char *const *words; /* of WORD */
    double low, high;         /* of WHOLE, NUMBER and THREE */
} Key;

#define WORDS(...) WORD, (const char *const[]){__VA_ARGS__, NULL}, 0, 0
#define SIZE WHOLE, NULL, 1, LARGEST
#define ID WHOLE, NULL, 0, LARGEST
#define EXACTLY(value) NUMBER, NULL, value, value
#define PLAIN(kind) kind, NULL, 0, 0

static const Key DOCUMENT[] = {{"format_version", EXACTLY(1)},
                               {"texts", PLAIN(OBJECT_OR_NULL)},
                               {"images", PLAIN(OBJECT_OR_NULL)},
                               {"embeddings", PLAIN(OBJECT)},
                               {0}};
/* A tokenizer's name comes before these, or what stands in its place. */
#define TEXTS                                                                                                          \
    {"inputs", PLAIN(OBJECT)}, {"vocab_size", SIZE}, {"first_id", ID}, {"last_id", ID}, {"pad_id", ID},                \
        {"max_tokens", PLAIN(OBJECT)}, {"truncation", WORDS("keep the first tokens and the special tokens",           \
                                                            "keep the last tokens and the special tokens")},           \
        {"padding", WORDS("after the text, to the longest of the batch")}, {"prefix", PLAIN(TEXT)}, {                  \
        0                                                                                                              \
    }
static const Key READ[] = {{"tokenizer", WORDS("tokenizer.json")}, TEXTS};
static const Key NOT_READ[] = {{"tokenizer", PLAIN(NOTHING)}, {"missing", PLAIN(NAME)}, TEXTS};
static const Key INPUTS[] = {{"ids", PLAIN(NAME)}, {"mask", PLAIN(NAME)}, {0}};
static const Key IMAGES[] = {{"input", PLAIN(NAME)},
                             {"layout", WORDS("NHWC")},
                             {"dtype", WORDS("float32")},
                             {"colour", WORDS("RGB")},
                             {"size", SIZE},
                             {"exif_orientation", WORDS("ignored")},
                             {"frame", EXACTLY(0)},
                             {"steps", PLAIN(LIST)},
                             {0}};
static const Key EMBEDDINGS[] = {{"output", PLAIN(NAME)},
                                 {"width", SIZE},
                                 {"dtype", WORDS("float32")},
                                 {"pooling", WORDS("cls", "mean")},
                                 {"normalize", PLAIN(BOOLEAN)},
                                 {"similarity", WORDS("dot", "cosine")},
                                 {0}};
#define SHORTER {"do", WORDS("resize")}, {"shorter_side", SIZE}, {"longer_side", WORDS("floor", "round")}
#define EXACT {"do", WORDS("resize")}, {"height", SIZE}, {"width", SIZE}
#define RESAMPLED                                                                                                      \
    {"antialias", PLAIN(TRUTH)}, {"arithmetic", WORDS("uint8")}, {"nearest_in_modes", PLAIN(MODES)},                   \
        {"alpha", WORDS("premultiplied")}, {                                                                           \
        0                                                                                                              \
    }
#define BICUBIC {"filter", WORDS("bicubic")}, {"a", EXACTLY(-0.5)}
#define BILINEAR {"filter", WORDS("bilinear")}
static const Key RESIZES[2][2][10] = {{{SHORTER, BILINEAR, RESAMPLED}, {SHORTER, BICUBIC, RESAMPLED}},
                                      {{EXACT, BILINEAR, RESAMPLED}, {EXACT, BICUBIC, RESAMPLED}}};
static const Key CROP[] = {{"do", WORDS("crop")},
                           {"height", SIZE},
                           {"width", SIZE},
                           {"offset", WORDS("half to even", "floor")},
                           {0}};
static const Key COLOUR[] = {{"do", WORDS("colour")},
                             {"to", WORDS("RGB")},
                             {"alpha", WORDS("dropped", "over white")},
                             {0}};
static const Key NORMALIZE[] = {{"do", WORDS("normalize")},
                                {"divide", EXACTLY(255)},
                                {"mean", THREE, NULL, -LARGEST, LARGEST},
                                {"std", THREE, NULL, 1e-6, LARGEST},
                                {0}};

static bool is_word(const Json *given, const char *word) {
    return given && given->kind == JSON_STRING && !strcmp(given->string, word);
}

static bool within(const Json *given, double low, double high) {
    return given->kind == JSON_NUMBER && low <= given->number && given->number <= high;
}

static bool legal(const Json *given, const Key *key) {
    switch (key->is) {
    case WORD:
        for (const char *const *word = key->words; *word; word++)
            if (is_word(given, *word)) return true;
        return false;
    case TEXT:
        return given->kind == JSON_STRING;
    case NAME:
        return given->kind == JSON_STRING && *given->string;
    case WHOLE:
        return within(given, key->low, key->high) && given->number == floor(given->number);
    case NUMBER:
        return within(given, key->low, key->high);
    case BOOLEAN:
        return given->kind == JSON_BOOL;
    case TRUTH:
        return given->kind == JSON_BOOL && given->number == 1;
    case MODES:
        return given->kind == JSON_ARRAY && given->count == 2 && is_word(&given->items[0], "1") &&
               is_word(&given->items[1], "P");
    case THREE:
        for (size_t i = 0; given->kind == JSON_ARRAY && i < given->count; i++)
            if (!within(&given->items[i], key->low, key->high)) return false;
        return given->kind == JSON_ARRAY && given->count == 3;
    case LIST:
        return given->kind == JSON_ARRAY;
    case OBJECT:
        return given->kind == JSON_OBJECT;
    case OBJECT_OR_NULL:
        return given->kind == JSON_OBJECT || given->kind == JSON_NULL;
    case NOTHING:
        return given->kind == JSON_NULL;
    }
    return false;
}

static const char *shown(const Json *value) {
    if (value->kind == JSON_STRING) return text("\"%.60s\"", value->string);
    if (value->kind == JSON_NUMBER) return text("%.10g", value->number);
    if (value->kind == JSON_BOOL) return value->number ? "true" : "false";
    return value->kind == JSON_NULL ? "null" : value->kind == JSON_ARRAY ? "another list" : "an object";
}

static const char *known(const Key *key) {
    const char *all = "";
    for (const char *const *word = key->words; key->is == WORD && *word; word++)
        all = text("%s%s\"%s\"", all, *all ? " or " : "", *word);
    if (key->is == WORD) return all;
    if (key->is == MODES) return "[\"1\", \"P\"]";
    if (key->is == TRUTH) return "true";
    if (key->is == NUMBER) return text("%.10g", key->low);
    if (key->is == WHOLE) return text("a whole number from %.0f to %.0f", key->low, key->high);
    if (key->is == THREE) return text("a list of three numbers from %.10g to %.0f", key->low, key->high);
    return (const char *[]){[TEXT] = "a text",
                            [NAME] = "a text that is not empty",
                            [BOOLEAN] = "true or false",
                            [LIST] = "a list",
                            [OBJECT] = "an object",
                            [OBJECT_OR_NULL] = "null or an object",
                            [NOTHING] = "null"}[key->is];
}

static void hold(const char *where, const Json *given, const Key *keys) {
    if (given->kind != JSON_OBJECT) fail("%s: it is %s; known: an object", where, shown(given));
    for (size_t i = 0; i < given->count; i++) {
        const Key *key = keys;
        while (key->key && strcmp(key->key, given->keys[i])) key++;
        if (!key->key) fail("%s: the key \"%.60s\" is not known", where, given->keys[i]);
    }
    for (const Key *key = keys; key->key; key++) {
        const Json *value = json_find(given, key->key);
        if (!value) fail("%s: there is no %s; known: %s", where, key->key, known(key));
        if (!legal(value, key)) fail("%s: %s is %s; known: %s", where, key->key, shown(value), known(key));
    }
}

static double number(const Json *object, const char *key) { return json_member(object, key, JSON_NUMBER)->number; }

static void check_texts(const char *where, const Json *rules) {
    const Json *tokenizer = json_find(rules, "tokenizer");
    hold(where, rules, tokenizer && tokenizer->kind == JSON_NULL ? NOT_READ : READ);
    hold(text("%s.inputs", where), json_find(rules, "inputs"), INPUTS);
    const Json *limits = json_find(rules, "max_tokens");
    if (!limits->count) fail("%s: max_tokens is {}; known: an entry point's name and its limit", where);
    for (size_t i = 0; i < limits->count; i++)
        if (limits->items[i].kind != JSON_NULL && !legal(&limits->items[i], &(Key){"", WHOLE, NULL, 2, LARGEST}))
            fail("%s.max_tokens: %s is %s; known: null or a whole number from 2", where, limits->keys[i],
                 shown(&limits->items[i]));
    for (const char *const *key = (const char *[]){"first_id", "last_id", "pad_id", NULL}; *key; key++)
        if (number(rules, *key) >= number(rules, "vocab_size"))
            fail("%s: %s is %.0f; known: below vocab_size, %.0f", where, *key, number(rules, *key),
                 number(rules, "vocab_size"));
}

static const Key *step_keys(const char *where, const Json *step) {
    if (step->kind != JSON_OBJECT) fail("%s: it is %s; known: an object", where, shown(step));
    const Json *named = json_find(step, "do");
    bool exact = !json_find(step, "shorter_side") && (json_find(step, "height") || json_find(step, "width"));
    if (is_word(named, "resize")) return RESIZES[exact][is_word(json_find(step, "filter"), "bicubic")];
    if (is_word(named, "crop")) return CROP;
    if (is_word(named, "colour")) return COLOUR;
    if (is_word(named, "normalize")) return NORMALIZE;
    fail("%s: do is %s; known: resize, crop, colour, normalize", where, named ? shown(named) : "missing");
}

/* Check every step, and that they end with bytes of the size and colour stated. */
static void check_images(const char *where, const Json *rules) {
    hold(where, rules, IMAGES);
    const Json *steps = json_find(rules, "steps"), *last = NULL;
    double least[2] = {LARGEST, LARGEST}; /* what the picture measures at least; unknown before the first step */
    size_t colours = 0, normalizes = 0;
    for (size_t i = 0; i < steps->count; i++) {
        const Json *step = &steps->items[i];
        const char *place = text("%s.steps[%zu]", where, i);
        const Key *keys = step_keys(place, step);
        hold(place, step, keys);
        colours += keys == COLOUR;
        normalizes += keys == NORMALIZE;
        if (keys == COLOUR || keys == NORMALIZE) continue;
        for (int side = 0; side < 2; side++) {
            const char *name = side ? "width" : "height";
            double asked = number(step, json_find(step, name) ? name : "shorter_side");
            if (keys == CROP && asked > least[side])
                fail("%s: %s is %.0f; known: at most %.0f, what the steps before leave", place, name, asked,
                     least[side]);
            least[side] = asked;
        }
        last = step;
    }
    if (colours != 1 || normalizes != 1 || !is_word(json_find(&steps->items[steps->count - 1], "do"), "normalize"))
        fail("%s.steps: %zu times colour, %zu times normalize; known: once each, normalize last", where, colours,
             normalizes);
    double size = number(rules, "size");
    if (!last || !json_find(last, "height") || number(last, "height") != size || number(last, "width") != size)
        fail("%s: size is %.0f; known: height and width of the last step that resizes or crops", where, size);
}

void rules_check(const Json *document) {
    const char *file = "preprocess.json";
    hold(file, document, DOCUMENT);
    const Json *texts = json_find(document, "texts"), *images = json_find(document, "images"),
               *embeddings = json_find(document, "embeddings");
    if (texts->kind == JSON_NULL && images->kind == JSON_NULL)
        fail("%s: texts and images are null; known: one of them at least", file);
    if (texts->kind != JSON_NULL) check_texts("preprocess.json: texts", texts);
    if (images->kind != JSON_NULL) check_images("preprocess.json: images", images);
    hold("preprocess.json: embeddings", embeddings, EMBEDDINGS);
    const char *right = json_find(embeddings, "normalize")->number ? "dot" : "cosine";
    if (strcmp(json_string(embeddings, "similarity"), right))
        fail("%s: embeddings: similarity is %s; known: \"%s\", by normalize", file,
             shown(json_find(embeddings, "similarity")), right);
}

/* Give a tensor's description as a text. */
static const char *described(const Json *spec) {
    const Json *shape = json_member(spec, "shape", JSON_ARRAY);
    const char *all = text("%s %s", json_string(spec, "name"), json_string(spec, "dtype"));
    for (size_t i = 0; i < shape->count; i++)
        all = shape->items[i].kind == JSON_STRING ? text("%s, %s", all, shape->items[i].string)
                                                  : text("%s, %" PRId64, all, json_size(&shape->items[i]));
    return all;
}

void rules_fit(const Json *document, const Json *entry_points) {
    const Json *texts = json_find(document, "texts"), *images = json_find(document, "images"),
               *embeddings = json_find(document, "embeddings");
    const char *makes[3] = {0}, *gives;
    bool taken[3] = {0};
    size_t limits = 0;
    if (texts->kind == JSON_OBJECT) {
        const Json *inputs = json_find(texts, "inputs");
        makes[0] = text("%s int32, batch, tokens", json_string(inputs, "ids"));
        makes[1] = text("%s int32, batch, tokens", json_string(inputs, "mask"));
    }
    if (images->kind == JSON_OBJECT) {
        int64_t size = json_size(json_find(images, "size"));
        makes[2] = text("%s %s, batch, %" PRId64 ", %" PRId64 ", 3", json_string(images, "input"),
                        json_string(images, "dtype"), size, size);
    }
    gives = text("%s %s, batch, %.0f", json_string(embeddings, "output"), json_string(embeddings, "dtype"),
                 number(embeddings, "width"));
    for (size_t i = 0; i < entry_points->count; i++) {
        const Json *entry = &entry_points->items[i], *inputs = json_member(entry, "inputs", JSON_ARRAY),
                   *outputs = json_member(entry, "outputs", JSON_ARRAY),
                   *axis = json_find(json_member(entry, "axes", JSON_OBJECT), "tokens");
        const char *name = entry_points->keys[i];
        for (size_t k = 0; k < inputs->count; k++) {
            const char *takes = described(&inputs->items[k]);
            int found = -1;
            for (int m = 0; m < 3; m++)
                if (makes[m] && !strcmp(makes[m], takes)) taken[found = m] = true;
            if (found < 0) fail("preprocess.json: nothing becomes an input of %s, (%s)", name, takes);
        }
        if (outputs->count != 1 || strcmp(described(&outputs->items[0]), gives))
            fail("preprocess.json: embeddings are (%s); %s gives others", gives, name);
        if (!axis || texts->kind != JSON_OBJECT) continue;
        const Json *stated = json_find(json_find(texts, "max_tokens"), name), *most = json_find(axis, "max");
        bool bounded = most && most->kind == JSON_NUMBER;
        if (!stated || !most || (bounded && (stated->kind != JSON_NUMBER || stated->number > most->number)))
            fail("preprocess.json: max_tokens of %s is %s; known: at most %s, the entry point's", name,
                 stated ? shown(stated) : "missing", most ? shown(most) : "missing");
        limits++;
    }
    for (int m = 0; m < 3; m++)
        if (makes[m] && !taken[m]) fail("preprocess.json: no entry point takes (%s)", makes[m]);
    if (texts->kind == JSON_OBJECT && limits != json_find(texts, "max_tokens")->count)
        fail("preprocess.json: max_tokens names what is no entry point that takes texts");
}
