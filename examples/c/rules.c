#include "rules.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LARGEST 2147483647.0

/* What a key may say: the kind of its value, and the words or the bounds of those kinds that have them. */
typedef struct {
    const char *key;
    enum {
        WORD,
        SOME,
        TEXT,
        TEXT_OR_NULL,
        NAME,
        WHOLE,
        WHOLE_OR_NULL,
        NUMBER,
        BOOLEAN,
        TRUTH,
        MODES,
        THREE,
        LIST,
        TEXTS_LISTED,
        IDS_LISTED,
        OBJECT,
        OBJECT_OR_NULL,
        NOTHING
    } is;
    const char *const *words; /* of WORD and SOME */
    double low, high;         /* of WHOLE, WHOLE_OR_NULL, NUMBER and THREE */
} Key;

#define WORDS(...) WORD, (const char *const[]){__VA_ARGS__, NULL}, 0, 0
#define SIZE WHOLE, NULL, 1, LARGEST
#define ID WHOLE, NULL, 0, LARGEST
#define ID_OR_NULL WHOLE_OR_NULL, NULL, 0, LARGEST
#define LIMIT WHOLE_OR_NULL, NULL, 2, LARGEST
#define EXACTLY(value) NUMBER, NULL, value, value
#define PLAIN(kind) kind, NULL, 0, 0

#define FORMAT 3
#define PARTS                                                                                                          \
    {"format_version", EXACTLY(FORMAT)}, {"texts", PLAIN(OBJECT_OR_NULL)}, {"images", PLAIN(OBJECT_OR_NULL)},          \
        {"embeddings", PLAIN(OBJECT_OR_NULL)}
static const Key DOCUMENT[] = {PARTS, {0}};
/* There only for networks that hear, that write what they hear, or that classify. */
static const Key OPTIONAL[] = {{"sounds", PLAIN(OBJECT)}, {"transcripts", PLAIN(OBJECT)}, {"scores", PLAIN(OBJECT)}};
/* A tokenizer's name comes before these, or what stands in its place; the rule of pairs where two texts are read. */
#define TEXTS                                                                                                          \
    {"inputs", PLAIN(OBJECT)}, {"vocab_size", SIZE}, {"first_id", ID_OR_NULL}, {"last_id", ID_OR_NULL},                \
        {"pad_id", ID},                                                                                                \
        {"max_tokens", PLAIN(OBJECT)}, {"truncation", WORDS("keep the first tokens and the special tokens",           \
                                                            "keep the last tokens and the special tokens",            \
                                                            "none: a longer text is refused")},                       \
        {"padding", WORDS("after the text, to the longest of the batch",                                               \
                          "before the text, to the longest of the batch", "after the text, to max_tokens")},           \
        {"prompts", PLAIN(OBJECT)}, {"default_prompt", PLAIN(TEXT_OR_NULL)}, {                                         \
        0                                                                                                              \
    }
#define PAIRS                                                                                                          \
    {"pairs", WORDS("token by token from the longer one", "the first to three quarters of max_tokens, then the second")}
#define TOKENIZER {"tokenizer", WORDS("tokenizer.json")}
#define NO_TOKENIZER {"tokenizer", PLAIN(NOTHING)}, {"missing", PLAIN(NAME)}
static const Key READ[2][14] = {{TOKENIZER, TEXTS}, {TOKENIZER, PAIRS, TEXTS}};
static const Key NOT_READ[2][15] = {{NO_TOKENIZER, TEXTS}, {NO_TOKENIZER, PAIRS, TEXTS}};
static const Key IMAGES[] = {{"input", PLAIN(NAME)},
                             {"layout", WORDS("NHWC")},
                             {"dtype", WORDS("float32")},
                             {"colour", WORDS("RGB")},
                             {"size", SIZE},
                             {"exif_orientation", WORDS("ignored")},
                             {"frame", EXACTLY(0)},
                             {"steps", PLAIN(LIST)},
                             {0}};
static const Key SOUNDS[] = {{"input", PLAIN(NAME)},
                             {"dtype", WORDS("float32")},
                             {"rate", SIZE},
                             {"channels", WORDS("mean")},
                             {"resample", PLAIN(OBJECT)},
                             {"samples", SIZE},
                             {"shorter", WORDS("silence after the sound")},
                             {"longer", WORDS("windows, one after the other")},
                             {"least", SIZE},
                             {"spectrogram", PLAIN(OBJECT)},
                             {0}};
static const Key RESAMPLE[] = {{"filter", WORDS("windowed sinc")}, {"window", WORDS("hann")},
                               {"zero_crossings", EXACTLY(6)},     {"rolloff", EXACTLY(0.99)},
                               {"arithmetic", WORDS("float64")},   {0}};
static const Key SPECTROGRAM[] = {{"entry_point", PLAIN(NAME)},
                                  {"output", PLAIN(NAME)},
                                  {"window", WORDS("hann")},
                                  {"n_fft", WHOLE, NULL, 2, LARGEST},
                                  {"hop", SIZE},
                                  {"edges", WORDS("reflected")},
                                  {"bands", SIZE},
                                  {"scale", WORDS("slaney")},
                                  {"highest", EXACTLY(8000)},
                                  {"least_power", EXACTLY(1e-10)},
                                  {"decades", EXACTLY(8)},
                                  {"last_frame", WORDS("left out")},
                                  {0}};
#define TRANSCRIPTS                                                                                                    \
    {"entry_points", PLAIN(OBJECT)}, {"caches", PLAIN(OBJECT)}, {"start", ID}, {"languages", PLAIN(OBJECT)},           \
        {"tasks", PLAIN(OBJECT)}, {"language", PLAIN(TEXT_OR_NULL)}, {"no_timestamps", ID_OR_NULL},                    \
        {"suppress", PLAIN(IDS_LISTED)}, {"suppress_first", PLAIN(IDS_LISTED)}, {"end", ID}, {"pad", ID},              \
        {"max_tokens", WHOLE, NULL, 2, LARGEST}, {                                                                     \
        0                                                                                                              \
    }
static const Key WRITTEN[] = {TOKENIZER, TRANSCRIPTS};
static const Key NOT_WRITTEN[] = {NO_TOKENIZER, TRANSCRIPTS};
static const Key STAGES[] = {{"hear", PLAIN(NAME)},
                             {"keep", PLAIN(NAME)},
                             {"begin", PLAIN(NAME)},
                             {"next", PLAIN(NAME)},
                             {0}};
/* All that is said of pictures or sounds where nobody says how they are prepared. */
static const Key UNSTATED[] = {{"input", PLAIN(NAME)}, {"missing", PLAIN(NAME)}, {0}};
static const Key EMBEDDINGS[] = {{"outputs", PLAIN(OBJECT)},
                                 {"width", SIZE},
                                 {"dtype", WORDS("float32")},
                                 {"pooling", SOME, (const char *const[]){"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "first end of text", "last token", NULL}, 0, 0},
                                 {"normalize", PLAIN(BOOLEAN)},
                                 {"similarity", WORDS("dot", "cosine", "euclidean", "manhattan")},
                                 {0}};
static const Key SCORES[] = {{"outputs", PLAIN(OBJECT)},
                             {"labels", PLAIN(TEXTS_LISTED)},
                             {"dtype", WORDS("float32")},
                             {"activation", WORDS("identity", "sigmoid", "tanh", "softmax")},
                             {0}};
#define SHORTER {"do", WORDS("resize")}, {"shorter_side", SIZE}, {"longer_side", WORDS("floor", "round")}
#define EXACT {"do", WORDS("resize")}, {"height", SIZE}, {"width", SIZE}
#define RESAMPLED                                                                                                      \
    {"antialias", PLAIN(TRUTH)}, {"arithmetic", WORDS("uint8", "float32")}, {"nearest_in_modes", PLAIN(MODES)},                   \
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
    case SOME:
        for (size_t i = 0; given->kind == JSON_ARRAY && i < given->count; i++)
            if (!legal(&given->items[i], &(Key){"", WORD, key->words, 0, 0})) return false;
        return given->kind == JSON_ARRAY && given->count;
    case TEXT_OR_NULL:
        if (given->kind == JSON_NULL) return true; /* fallthrough */
    case TEXT:
        return given->kind == JSON_STRING;
    case NAME:
        return given->kind == JSON_STRING && *given->string;
    case WHOLE_OR_NULL:
        if (given->kind == JSON_NULL) return true; /* fallthrough */
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
    case TEXTS_LISTED:
        for (size_t i = 0; given->kind == JSON_ARRAY && i < given->count; i++)
            if (given->items[i].kind != JSON_STRING) return false;
        return given->kind == JSON_ARRAY && given->count;
    case IDS_LISTED:
        for (size_t i = 0; given->kind == JSON_ARRAY && i < given->count; i++)
            if (!legal(&given->items[i], &(Key){"", ID})) return false;
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
    for (const char *const *word = key->words; (key->is == WORD || key->is == SOME) && *word; word++)
        all = text("%s%s\"%s\"", all, *all ? " or " : "", *word);
    if (key->is == WORD) return all;
    if (key->is == SOME) return text("a list of one or more: %s", all);
    if (key->is == MODES) return "[\"1\", \"P\"]";
    if (key->is == TRUTH) return "true";
    if (key->is == NUMBER) return text("%.10g", key->low);
    if (key->is == WHOLE || key->is == WHOLE_OR_NULL)
        return text("%sa whole number from %.0f to %.0f", key->is == WHOLE ? "" : "null or ", key->low, key->high);
    if (key->is == THREE) return text("a list of three numbers from %.10g to %.0f", key->low, key->high);
    return (const char *[]){[TEXT] = "a text",
                            [TEXT_OR_NULL] = "null or a text",
                            [NAME] = "a text that is not empty",
                            [BOOLEAN] = "true or false",
                            [LIST] = "a list",
                            [TEXTS_LISTED] = "a list of one text or more",
                            [IDS_LISTED] = "a list of whole numbers from 0 to 2147483647",
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

/* Hold what is said by name. */
static void hold_each(const char *where, const char *name, const Json *rules, Key key) {
    const Json *said = json_find(rules, name);
    for (size_t i = 0; i < said->count; i++)
        if (!legal(&said->items[i], &key))
            fail("%s.%s: %s is %s; known: %s", where, name, said->keys[i], shown(&said->items[i]), known(&key));
}

/* Hold what is said of each entry point, or of each cache, of one at least. */
static void hold_by_name(const char *where, const char *name, const Json *rules, Key key) {
    if (!json_find(rules, name)->count)
        fail("%s: %s is {}; known: %s name and %s, at least once", where, name,
             strcmp(name, "caches") ? "an entry point's" : "a cache's", known(&key));
    hold_each(where, name, rules, key);
}

static double number(const Json *object, const char *key) { return json_member(object, key, JSON_NUMBER)->number; }

static void check_texts(const char *where, const Json *rules) {
    const Json *tokenizer = json_find(rules, "tokenizer");
    bool pairs = json_find(rules, "pairs");
    hold(where, rules, tokenizer && tokenizer->kind == JSON_NULL ? NOT_READ[pairs] : READ[pairs]);
    const Json *inputs = json_find(rules, "inputs");
    Key made[6] = {{"ids", PLAIN(NAME)}};
    size_t count = 1;
    for (const char *const *key = (const char *[]){"mask", "prompt", "types", "positions", NULL}; *key; key++)
        if (json_find(inputs, *key)) made[count++] = (Key){*key, PLAIN(NAME)};
    made[count] = (Key){0};
    hold(text("%s.inputs", where), inputs, made);
    const Json *prompts = json_find(rules, "prompts"), *chosen = json_find(rules, "default_prompt");
    for (size_t i = 0; i < prompts->count; i++)
        if (prompts->items[i].kind != JSON_STRING)
            fail("%s.prompts: %s is %s; known: a text", where, prompts->keys[i], shown(&prompts->items[i]));
    if (chosen->kind == JSON_STRING && !json_find(prompts, chosen->string))
        fail("%s: default_prompt is %s; known: null or one of the prompts", where, shown(chosen));
    hold_by_name(where, "max_tokens", rules, (Key){"", LIMIT});
    for (const char *const *key = (const char *[]){"first_id", "last_id", "pad_id", NULL}; *key; key++)
        if (json_find(rules, *key)->kind == JSON_NUMBER && number(rules, *key) >= number(rules, "vocab_size"))
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
    bool unstated = json_find(rules, "missing");
    hold(where, rules, unstated ? UNSTATED : IMAGES);
    if (unstated) return;
    const Json *steps = json_find(rules, "steps"), *last = NULL;
    double least[2] = {LARGEST, LARGEST}; /* what the picture measures at least; unknown before the first step */
    size_t colours = 0, normalizes = 0;
    bool floats = false;
    for (size_t i = 0; i < steps->count; i++) {
        const Json *step = &steps->items[i];
        const char *place = text("%s.steps[%zu]", where, i);
        const Key *keys = step_keys(place, step);
        hold(place, step, keys);
        bool begins = is_word(json_find(step, "arithmetic"), "float32");
        if ((floats && keys != NORMALIZE) || (begins && !colours))
            fail("%s stands beside a resize in float32; known: it after colour, then normalize", place);
        floats = floats || begins;
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

/* Check the rules of sounds, and that whole frames fill the window. */
static void check_sounds(const char *where, const Json *rules) {
    bool unstated = json_find(rules, "missing");
    hold(where, rules, unstated ? UNSTATED : SOUNDS);
    if (unstated) return;
    const Json *spectrogram = json_find(rules, "spectrogram");
    hold(text("%s.resample", where), json_find(rules, "resample"), RESAMPLE);
    hold(text("%s.spectrogram", where), spectrogram, SPECTROGRAM);
    double size = number(rules, "samples"), hop = number(spectrogram, "hop"), points = number(spectrogram, "n_fft");
    if (fmod(size, hop) != 0) fail("%s: samples is %.0f; known: a multiple of spectrogram.hop, %.0f", where, size, hop);
    if (fmod(points, 2) != 0 || points > size)
        fail("%s.spectrogram: n_fft is %.0f; known: an even number up to samples, %.0f", where, points, size);
    if (number(rules, "least") > size)
        fail("%s: least is %.0f; known: up to samples, %.0f", where, number(rules, "least"), size);
}

static void check_transcripts(const char *where, const Json *rules) {
    const Json *tokenizer = json_find(rules, "tokenizer");
    hold(where, rules, tokenizer && tokenizer->kind == JSON_NULL ? NOT_WRITTEN : WRITTEN);
    hold(text("%s.entry_points", where), json_find(rules, "entry_points"), STAGES);
    hold_by_name(where, "caches", rules, (Key){"", PLAIN(NAME)});
    hold_each(where, "languages", rules, (Key){"", ID});
    hold_each(where, "tasks", rules, (Key){"", ID});
    const Json *language = json_find(rules, "language");
    if (language->kind == JSON_STRING && !json_find(json_find(rules, "languages"), language->string))
        fail("%s: language is %s; known: null or one of the languages", where, shown(language));
}

/* An input that is made of raw texts, pictures or sounds: its type, and the sizes behind the axis of the rows. */
typedef struct {
    const char *name, *dtype; /* no dtype where nobody says how pictures are prepared */
    size_t rank;
    int64_t sizes[MAX_RANK]; /* 0 for an axis */
    bool taken;
} Made;

#define MAX_MADE 7
/* List what is made; give how many. */
static size_t list_made(const Json *document, Made made[MAX_MADE]) {
    const Json *texts = json_find(document, "texts"), *images = json_find(document, "images");
    size_t count = 0;
    const Json *inputs = json_find(texts, "inputs");
    for (size_t i = 0; inputs && i < inputs->count; i++)
        made[count++] = (Made){inputs->items[i].string, "int32", strcmp(inputs->keys[i], "prompt") ? 2 : 1, {0}, false};
    if (images->kind == JSON_OBJECT) {
        bool unstated = json_find(images, "missing");
        int64_t size = unstated ? 0 : json_size(json_find(images, "size"));
        const char *dtype = unstated ? NULL : json_string(images, "dtype");
        made[count++] = (Made){json_string(images, "input"), dtype, 4, {0, size, size, 3}, false};
    }
    const Json *sounds = json_find(document, "sounds"), *spectrogram = sounds ? json_find(sounds, "spectrogram") : NULL;
    if (sounds && !spectrogram) made[count++] = (Made){json_string(sounds, "input"), NULL, 0, {0}, false};
    if (!spectrogram) return count;
    const char *dtype = json_string(sounds, "dtype");
    int64_t size = json_size(json_find(sounds, "samples")), bands = json_size(json_find(spectrogram, "bands"));
    int64_t frames = size / json_size(json_find(spectrogram, "hop"));
    made[count++] = (Made){json_string(sounds, "input"), dtype, 2, {0, size}, false};
    made[count++] = (Made){json_string(spectrogram, "output"), dtype, 3, {0, bands, frames}, false};
    return count;
}

void rules_check(const Json *document) {
    const char *file = "preprocess.json";
    const Json *version = json_find(document, "format_version");
    if (version && version->kind == JSON_NUMBER && (version->number == 1 || version->number == 2))
        fail("%s: format_version is %.0f; known: %d; run `bgevis-convert pack DIR` again", file, version->number, FORMAT);
    Key keys[8];
    size_t parts = sizeof DOCUMENT / sizeof *DOCUMENT - 1;
    memcpy(keys, DOCUMENT, sizeof DOCUMENT);
    for (size_t i = 0; i < sizeof OPTIONAL / sizeof *OPTIONAL; i++)
        if (json_find(document, OPTIONAL[i].key)) keys[parts++] = OPTIONAL[i];
    keys[parts] = (Key){0};
    hold(file, document, keys);
    const Json *scores = json_find(document, "scores"), *sounds = json_find(document, "sounds"),
               *transcripts = json_find(document, "transcripts");
    const Json *texts = json_find(document, "texts"), *images = json_find(document, "images"),
               *embeddings = json_find(document, "embeddings");
    if (texts->kind != JSON_NULL) check_texts("preprocess.json: texts", texts);
    if (images->kind != JSON_NULL) check_images("preprocess.json: images", images);
    if (sounds) check_sounds("preprocess.json: sounds", sounds);
    Made made[MAX_MADE];
    size_t count = list_made(document, made);
    for (size_t i = 1; i < count; i++)
        for (size_t k = 0; k < i; k++)
            if (!strcmp(made[i].name, made[k].name))
                fail("%s: two inputs are %s; known: another name for each", file, made[i].name);
    if (transcripts) {
        if (!sounds || !json_find(sounds, "spectrogram"))
            fail("%s: transcripts is an object; known: left out where no sounds are prepared", file);
        check_transcripts("preprocess.json: transcripts", transcripts);
    }
    if (scores) {
        if (!count || embeddings->kind != JSON_NULL)
            fail("%s: scores are stated beside embeddings, or without texts; known: one of them", file);
        hold("preprocess.json: scores", scores, SCORES);
        hold_by_name("preprocess.json: scores", "outputs", scores, (Key){"", PLAIN(NAME)});
    }
    if (embeddings->kind == JSON_NULL) return;
    if (!count) fail("%s: embeddings is an object; known: null where texts and images are, without sounds", file);
    hold("preprocess.json: embeddings", embeddings, EMBEDDINGS);
    hold_by_name("preprocess.json: embeddings", "outputs", embeddings, (Key){"", PLAIN(NAME)});
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

/* Give the largest size of a dimension: itself, its axis' bound; -1 where nothing bounds it, or it is a sum of axes. */
static int64_t most(const Json *entry, const Json *dim) {
    if (dim->kind == JSON_NUMBER) return json_size(dim);
    const Json *axis = json_find(json_member(entry, "axes", JSON_OBJECT), dim->string);
    const Json *bound = axis ? json_find(axis, "max") : NULL;
    return bound && bound->kind == JSON_NUMBER ? json_size(bound) : -1;
}

static Made *made_named(Made *made, size_t count, const Json *spec) {
    for (size_t i = 0; i < count; i++)
        if (!strcmp(made[i].name, json_string(spec, "name"))) return &made[i];
    return NULL;
}

/* Say whether what is made is taken: any axis is one, by any name; the first is that of the rows. */
static bool made_as(const Made *made, const Json *spec, const Json *entry) {
    if (!made) return false;
    if (!made->dtype) return true;
    const Json *shape = json_member(spec, "shape", JSON_ARRAY);
    if (strcmp(made->dtype, json_string(spec, "dtype")) || shape->count != made->rank) return false;
    if (shape->items[0].kind != JSON_STRING) return false;
    for (size_t i = 1; i < made->rank; i++) {
        const Json *dim = &shape->items[i];
        int64_t limit = most(entry, dim);
        bool fits = dim->kind == JSON_NUMBER ? limit == made->sizes[i] : limit < 0 || made->sizes[i] <= limit;
        if (made->sizes[i] && !fits) return false;
    }
    return true;
}

/* Say whether every input of an entry point is made, by name. */
static bool only_made(Made *made, size_t count, const Json *entry) {
    const Json *inputs = json_member(entry, "inputs", JSON_ARRAY);
    for (size_t i = 0; i < inputs->count; i++)
        if (!made_named(made, count, &inputs->items[i])) return false;
    return true;
}

/* Refuse an entry point that does not give the embedding, or the scores, that are stated. */
static void fit_output(const char *part, const Json *stated, const char *name, const char *output, const Json *entry) {
    if (!entry) fail("preprocess.json: %s.outputs names %s, which is no entry point", part, name);
    const Json *outputs = json_member(entry, "outputs", JSON_ARRAY), *labels = json_find(stated, "labels");
    double width = labels ? (double)labels->count : number(stated, "width");
    const char *gives = "", *dtype = json_string(stated, "dtype");
    for (size_t i = 0; i < outputs->count; i++) {
        const Json *spec = &outputs->items[i], *shape = json_member(spec, "shape", JSON_ARRAY);
        if (!strcmp(json_string(spec, "name"), output) && shape->count == 2 &&
            !strcmp(json_string(spec, "dtype"), dtype) && shape->items[1].kind == JSON_NUMBER &&
            shape->items[1].number == width)
            return;
        gives = text("%s (%s)", gives, described(spec));
    }
    fail("preprocess.json: %s are (%s %s, rows, %.0f); %s gives%s", part, output, dtype, width, name, gives);
}

/* Hold an entry point that the pack is for; `whole` if all of its inputs must be made. */
static void fit_entry(Made *made, size_t count, const char *name, const Json *entry, bool whole) {
    const Json *inputs = json_member(entry, "inputs", JSON_ARRAY);
    for (size_t i = 0; i < inputs->count; i++) {
        Made *found = made_named(made, count, &inputs->items[i]);
        bool fits = made_as(found, &inputs->items[i], entry);
        if (fits) found->taken = true;
        if (whole && !fits)
            fail("preprocess.json: nothing becomes an input of %s, (%s)", name, described(&inputs->items[i]));
    }
}

/* Hold the limit of an entry point, if it reads text; give whether it does. */
static bool fit_limit(const Json *texts, const char *name, const Json *entry) {
    const Json *inputs = json_member(entry, "inputs", JSON_ARRAY), *ids = NULL;
    for (size_t i = 0; i < inputs->count; i++)
        if (!strcmp(json_string(&inputs->items[i], "name"), json_string(json_find(texts, "inputs"), "ids")))
            ids = json_member(&inputs->items[i], "shape", JSON_ARRAY);
    if (!ids || !ids->count) return false;
    const Json *stated = json_find(json_find(texts, "max_tokens"), name);
    int64_t limit = most(entry, &ids->items[ids->count - 1]);
    if (!stated || (limit >= 0 && (stated->kind != JSON_NUMBER || stated->number > (double)limit)))
        fail("preprocess.json: max_tokens of %s is %s; known: at most %" PRId64 ", the entry point's", name,
             stated ? shown(stated) : "missing", limit);
    return true;
}

/* Say whether one of these tensors has a name. */
static bool has_tensor(const Json *specs, const char *name) {
    for (size_t i = 0; i < specs->count; i++)
        if (!strcmp(json_string(&specs->items[i], "name"), name)) return true;
    return false;
}

/* Refuse an entry point that does not make the spectrogram that is stated. */
static void fit_spectrogram(const Json *spectrogram, Made *made, size_t count, const Json *entry_points) {
    const char *name = json_string(spectrogram, "entry_point"), *output = json_string(spectrogram, "output");
    const Json *entry = json_find(entry_points, name);
    if (!entry) fail("preprocess.json: sounds.spectrogram names %s, which is no entry point", name);
    const Json *outputs = json_member(entry, "outputs", JSON_ARRAY);
    for (size_t i = 0; i < outputs->count; i++)
        if (!strcmp(json_string(&outputs->items[i], "name"), output) &&
            made_as(made_named(made, count, &outputs->items[i]), &outputs->items[i], entry))
            return;
    fail("preprocess.json: sounds.spectrogram: %s gives no %s of this shape", name, output);
}

/* Give the inputs of an entry point that none of these makes: their number, and the last one. */
static size_t others(const Json *entry, const Json *made, const Json *caches, const Json **last) {
    const Json *inputs = json_member(entry, "inputs", JSON_ARRAY);
    size_t count = 0;
    for (size_t i = 0; i < inputs->count; i++) {
        const char *name = json_string(&inputs->items[i], "name");
        if (has_tensor(made, name) || (caches && json_find(caches, name))) continue;
        *last = &inputs->items[i];
        count++;
    }
    return count;
}

/* Give the scores among the outputs: the only one that no cache names. */
static const Json *fit_scored(const Json *entry, const Json *caches) {
    const Json *outputs = json_member(entry, "outputs", JSON_ARRAY), *scored = NULL;
    size_t cached = 0;
    for (size_t i = 0; i < outputs->count; i++) {
        size_t named = 0;
        for (size_t k = 0; k < caches->count; k++)
            named += !strcmp(caches->items[k].string, json_string(&outputs->items[i], "name"));
        if (named > 1) return NULL;
        cached += named;
        if (!named) scored = json_member(&outputs->items[i], "shape", JSON_ARRAY);
    }
    bool whole = cached == caches->count && cached + 1 == outputs->count;
    return whole && scored->count == 3 && scored->items[2].kind == JSON_NUMBER ? scored : NULL;
}

/* Hold what is said of texts that come out to the entry points that give their tokens. */
static void fit_transcripts(const Json *rules, const Json *sounds, const Json *entry_points) {
    const char *where = "preprocess.json: transcripts";
    const Json *names = json_find(rules, "entry_points"), *caches = json_find(rules, "caches"), *entries[4];
    for (size_t i = 0; i < 4; i++) {
        const char *name = json_string(names, STAGES[i].key);
        entries[i] = json_find(entry_points, name);
        if (!entries[i]) fail("%s.entry_points: %s names %s, which is none", where, STAGES[i].key, name);
    }
    const char *features = json_string(json_find(sounds, "spectrogram"), "output");
    const Json *ids = NULL, *last = NULL, *inputs = json_member(entries[0], "inputs", JSON_ARRAY), *scored = NULL;
    for (size_t i = 0; i < inputs->count; i++)
        if (strcmp(json_string(&inputs->items[i], "name"), features))
            fail("%s: hear takes (%s), not the spectrogram alone", where, described(&inputs->items[i]));
    const Json *heard = json_member(entries[0], "outputs", JSON_ARRAY);
    const Json *kept = json_member(entries[1], "outputs", JSON_ARRAY);
    if (others(entries[1], heard, NULL, &last))
        fail("%s: keep takes (%s), which hear does not give", where, described(last));
    if (others(entries[2], kept, NULL, &ids) != 1)
        fail("%s: begin takes not one input, the ids, beside what is kept", where);
    if (others(entries[3], kept, caches, &last) != 1)
        fail("%s: next takes not one input, the ids, beside what is kept and caches", where);
    for (size_t i = 2; i < 4; i++)
        if (!(scored = fit_scored(entries[i], caches)))
            fail("%s: caches are not all outputs of %s but its scores", where, STAGES[i].key);
    for (size_t i = 0; i < caches->count; i++)
        if (!has_tensor(json_member(entries[3], "inputs", JSON_ARRAY), caches->keys[i]))
            fail("%s: caches name %s, which next does not take", where, caches->keys[i]);
    double largest = 0;
    for (const char *const *key = (const char *[]){"start", "end", "pad", "no_timestamps", NULL}; *key; key++)
        if (json_find(rules, *key)->kind == JSON_NUMBER) largest = fmax(largest, number(rules, *key));
    const char *several[] = {"languages", "tasks", "suppress", "suppress_first"};
    for (size_t k = 0; k < sizeof several / sizeof *several; k++)
        for (size_t i = 0; i < json_find(rules, several[k])->count; i++)
            largest = fmax(largest, json_find(rules, several[k])->items[i].number);
    if (largest >= scored->items[2].number)
        fail("%s: it names the token %.0f; known: below %.0f", where, largest, scored->items[2].number);
    const Json *shape = json_member(ids, "shape", JSON_ARRAY);
    int64_t limit = most(entries[2], &shape->items[shape->count - 1]);
    if (limit >= 0 && number(rules, "max_tokens") > (double)limit)
        fail("%s: max_tokens is %.0f; known: at most %" PRId64, where, number(rules, "max_tokens"), limit);
}

void rules_fit(const Json *document, const Json *entry_points) {
    const Json *texts = json_find(document, "texts"), *scores = json_find(document, "scores");
    const char *part = scores ? "scores" : "embeddings";
    const Json *stated = json_find(document, part);
    Made made[MAX_MADE];
    size_t count = list_made(document, made), whole = 0, limits = 0;
    const Json *outputs = json_find(stated, "outputs");
    for (size_t i = 0; outputs && i < outputs->count; i++)
        fit_output(part, stated, outputs->keys[i], outputs->items[i].string,
                   json_find(entry_points, outputs->keys[i]));
    const Json *sounds = json_find(document, "sounds"), *spectrogram = sounds ? json_find(sounds, "spectrogram") : NULL;
    if (spectrogram) fit_spectrogram(spectrogram, made, count, entry_points);
    for (size_t i = 0; i < entry_points->count; i++) whole += only_made(made, count, &entry_points->items[i]);
    for (size_t i = 0; i < entry_points->count; i++) {
        const char *name = entry_points->keys[i];
        const Json *entry = &entry_points->items[i];
        /* What the pack is for: what embeds or scores, else what takes nothing but what is made, else all. */
        bool ear = spectrogram && !strcmp(name, json_string(spectrogram, "entry_point"));
        if (!ear && (outputs ? !json_find(outputs, name) : whole && !only_made(made, count, entry))) continue;
        fit_entry(made, count, name, entry, outputs || whole || ear);
        if (texts->kind == JSON_OBJECT) limits += fit_limit(texts, name, entry);
    }
    for (size_t i = 0; i < count; i++)
        if (!made[i].taken) fail("preprocess.json: no entry point that it is for takes %s as it is made", made[i].name);
    const Json *transcripts = json_find(document, "transcripts");
    if (transcripts) fit_transcripts(transcripts, sounds, entry_points);
    if (texts->kind == JSON_OBJECT && limits != json_find(texts, "max_tokens")->count)
        fail("preprocess.json: max_tokens names what is no entry point that it is for and that reads text");
}
