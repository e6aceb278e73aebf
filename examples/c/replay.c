/* Replays the contract pack of a run directory: every entry point, every case, within what is allowed.
 *
 *     replay_tensorflow DIR        replay_onnxruntime DIR
 *
 * Ids come ready from the pack, since tokenizing is not the business of C; pixels are made of its bytes, samples of its
 * WAV files, and spectrograms of these by the program. Exit codes: 0 all agree, 1 anything differs or is damaged,
 * 2 usage. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rules.h"
#include "runtime.h"
#include "scores.h"
#include "sounds.h"

#define CLOSE 1e-6 /* normalised pixels, samples and scores of logits, by docs/pack.md */

static const char *const RAW = "goldens/raw/index.json";

typedef struct {
    const Json *texts;  /* preprocess.json's, or NULL */
    const Json *images; /* preprocess.json's, or NULL */
    const Json *index;  /* goldens/raw/index.json, or NULL when the run has none */
    Tensors pixels;
    const Json *sounds; /* preprocess.json's, or NULL */
    Tensor *opened;     /* samples of each sound of the index */
    void *ear;          /* the opened program of the spectrogram, or NULL as long as nothing is run */
} Raw;

typedef struct {
    const char *entry, *name;
    const Json *signature; /* the manifest's */
    const Tensors *goldens;
    const char *axes[MAX_RANK]; /* names and sizes of the dynamic axes, as far as they are known */
    int64_t sizes[MAX_RANK];
    size_t known;
} Case;

/* Give the size of a dimension, an axis or a sum of axes and numbers; -1 where one of them is not known. */
static int64_t known_size(const Case *c, const char *dim) {
    int64_t sum = 0;
    for (const char *term = dim; term;) {
        const char *end = strstr(term, " + ");
        const char *name = end ? text("%.*s", (int)(end - term), term) : term;
        char *rest;
        int64_t size = strtoll(name, &rest, 10);
        if (rest == name || *rest) {
            size = -1;
            for (size_t i = 0; i < c->known; i++)
                if (!strcmp(c->axes[i], name)) size = c->sizes[i];
        }
        if (size < 0) return -1;
        sum += size;
        term = end ? end + 3 : NULL;
    }
    return sum;
}

/* Hold a tensor's shape against the signature; a dynamic axis has one size in all tensors of a case. */
static void check_shape(Case *c, const Json *spec, const Tensor *tensor) {
    const Json *shape = json_member(spec, "shape", JSON_ARRAY), *axes = json_member(c->signature, "axes", JSON_OBJECT);
    if (tensor->rank != shape->count)
        fail("%s, case '%s': %s has %zu axes", c->entry, c->name, tensor->name, tensor->rank);
    for (size_t i = 0; i < shape->count; i++) {
        int64_t size = tensor->shape[i], want = -1;
        if (shape->items[i].kind != JSON_STRING) {
            want = json_size(&shape->items[i]);
        } else {
            const char *axis = shape->items[i].string;
            want = known_size(c, axis);
            if (want < 0 && strstr(axis, " + ")) continue; /* looked at again when all inputs are read */
            if (want < 0) {
                const Json *bounds = json_member(axes, axis, JSON_OBJECT), *most = json_find(bounds, "max");
                if (size < json_size(json_member(bounds, "min", JSON_NUMBER)) ||
                    (most && most->kind == JSON_NUMBER && size > json_size(most)) || c->known == MAX_RANK)
                    fail("%s, case '%s': %" PRId64 " %s are not legal", c->entry, c->name, size, axis);
                c->axes[c->known] = axis;
                c->sizes[c->known++] = want = size;
            }
        }
        if (size != want)
            fail("%s, case '%s': %s has size %" PRId64 " instead of %" PRId64 " in axis %zu", c->entry, c->name,
                 tensor->name, size, want, i);
    }
}

static Tensor read_input(Case *c, const Json *spec) {
    const char *name = json_string(spec, "name"), *type = json_string(spec, "dtype");
    Tensor input = *tensor_named(c->goldens, text("%s/inputs/%s", c->name, name));
    if (input.type != type_named(type)) fail("%s, case '%s': %s is not %s", c->entry, c->name, input.name, type);
    check_shape(c, spec, &input);
    input.name = name;
    return input;
}

/* Find a raw text, pair of texts or picture by its name. */
static const Json *raw_named(const Raw *raw, const char *kind, const Json *row) {
    const Json *all = json_member(raw->index, kind, JSON_ARRAY);
    for (size_t i = 0; i < all->count && row->kind == JSON_STRING; i++)
        if (!strcmp(json_string(&all->items[i], "name"), row->string)) return &all->items[i];
    fail("%s: a case names %s that are not there: %s", RAW, kind, row->kind == JSON_STRING ? row->string : "no text");
}

static float normalised(const Raw *raw, float sample, size_t channel) {
    const Json *steps = json_member(raw->images, "steps", JSON_ARRAY), *last = &steps->items[steps->count - 1];
    const Json *mean = json_member(last, "mean", JSON_ARRAY), *std = json_member(last, "std", JSON_ARRAY);
    float unit = sample / (float)json_member(last, "divide", JSON_NUMBER)->number;
    return (unit - (float)mean->items[channel].number) / (float)std->items[channel].number;
}

/* Hold the table of what every byte becomes against the rule of preprocess.json. */
static void check_values(const Raw *raw) {
    const Tensor *values = tensor_named(&raw->pixels, "values");
    if (values->type != F32 || values->rank != 2 || values->shape[0] != 256 || values->shape[1] != 3)
        fail("%s: values is no table", raw->pixels.file);
    size_t channels = (size_t)values->shape[1];
    for (size_t i = 0; i < values->count; i++) {
        float made = normalised(raw, (float)(i / channels), i % channels), stated = ((float *)values->data)[i];
        if (!(fabsf(made - stated) <= CLOSE))
            fail("%s: byte %zu of channel %zu is %.9g by preprocess.json, and %.9g in values", raw->pixels.file,
                 i / channels, i % channels, made, stated);
    }
}

/* Make the pixels of the raw pictures' bytes, hold them against the ready ones, and run with what was made. */
static void pixels_of_bytes(const Case *c, const Raw *raw, const Json *rows, Tensor *input) {
    const Tensor *values = tensor_named(&raw->pixels, "values");
    if ((int64_t)rows->count != input->shape[0])
        fail("%s, case '%s': not %zu pictures", c->entry, c->name, rows->count);
    size_t each = input->count / rows->count, channels = (size_t)values->shape[1];
    float *made = allocate(input->bytes), *ready = input->data;
    for (size_t row = 0; row < rows->count; row++) {
        const Tensor *bytes =
            tensor_named(&raw->pixels, json_string(raw_named(raw, "images", &rows->items[row]), "name"));
        if ((bytes->type != U8 && bytes->type != F32) || bytes->count != each)
            fail("%s: %s is not %zu bytes, nor as many numbers between them", raw->pixels.file, bytes->name, each);
        for (size_t i = 0, to = row * each; i < each; i++, to++) {
            made[to] = bytes->type == U8
                           ? ((float *)values->data)[((uint8_t *)bytes->data)[i] * channels + i % channels]
                           : normalised(raw, ((float *)bytes->data)[i], i % channels);
            if (!(fabsf(made[to] - ready[to]) <= CLOSE))
                fail("%s, case '%s': pixel %zu of %s is %.9g made of its bytes, and %.9g in the ready pixels", c->entry,
                     c->name, i, bytes->name, made[to], ready[to]);
        }
    }
    input->data = made;
}

/* Say whether the id at a place is the special token that must be there, if there must be one. */
static bool is_end(const Json *end, const Json *ids, size_t place) {
    return end->kind == JSON_NULL || (place < ids->count && json_size(&ids->items[place]) == json_size(end));
}

typedef enum { IDS, MASK, TYPES, POSITIONS } Made;

/* Hold ready ids, a mask, types or positions against what the raw texts, or the pairs of them, become. */
static void check_made(const Case *c, const Raw *raw, const char *kind, const Json *rows, const Tensor *input,
                       Made made) {
    if (input->type != I32 || input->rank != 2 || (int64_t)rows->count != input->shape[0])
        fail("%s, case '%s': %s is not (%zu, tokens) of int32", c->entry, c->name, input->name, rows->count);
    int64_t tokens = input->shape[1], pad = json_size(json_member(raw->texts, "pad_id", JSON_NUMBER));
    int64_t known = json_size(json_member(raw->texts, "vocab_size", JSON_NUMBER));
    const Json *first = json_find(raw->texts, "first_id"), *last = json_find(raw->texts, "last_id");
    bool before = !strncmp(json_string(raw->texts, "padding"), "before", 6);
    for (size_t row = 0; row < rows->count; row++) {
        const Json *found = raw_named(raw, kind, &rows->items[row]);
        const Json *ids = json_member(json_member(found, "ids", JSON_OBJECT), c->entry, JSON_ARRAY);
        const Json *types = json_find(found, "types"); /* of pairs; a text alone is of type 0 */
        if (types) types = json_member(types, c->entry, JSON_ARRAY);
        if (types && types->count != ids->count)
            fail("%s, case '%s': the pair %zu has %zu ids and %zu types", c->entry, c->name, row, ids->count,
                 types->count);
        if (!is_end(first, ids, 0) || !is_end(last, ids, ids->count - 1))
            fail("%s, case '%s': the text %zu does not lie between first_id and last_id of preprocess.json", c->entry,
                 c->name, row);
        for (size_t i = 0; i < ids->count; i++)
            if (json_size(&ids->items[i]) >= known)
                fail("%s, case '%s': the text %zu has an id of %" PRId64 " or more", c->entry, c->name, row, known);
        if ((int64_t)ids->count > tokens) fail("%s, case '%s': the text %zu is longer", c->entry, c->name, row);
        for (int64_t i = 0; i < tokens; i++) {
            int64_t at = before ? i - (tokens - (int64_t)ids->count) : i; /* in the text */
            bool word = at >= 0 && at < (int64_t)ids->count;
            int64_t want = made == MASK ? word : made == IDS ? pad : 0;
            if (word && made == IDS) want = json_size(&ids->items[at]);
            if (word && made == TYPES && types) want = json_size(&types->items[at]);
            if (made == POSITIONS) want = at < 0 ? 0 : word ? at : (int64_t)ids->count - 1;
            int64_t got = ((int32_t *)input->data)[row * (size_t)tokens + (size_t)i];
            if (got != want)
                fail("%s, case '%s': %s of the text '%s' at %" PRId64 " is %" PRId64 ", expected %" PRId64, c->entry,
                     c->name, input->name, json_string(found, "name"), i, got, want);
        }
    }
}

/* Cut the sounds of a case in windows, silence after the last of each. */
static Tensor windows_of(const Case *c, const Raw *raw, const Json *rows) {
    const Json *all = json_member(raw->index, "sounds", JSON_ARRAY);
    size_t size = (size_t)json_size(json_member(raw->sounds, "samples", JSON_NUMBER)), count = 0, row = 0;
    for (size_t pass = 0; pass < 2; pass++) {
        Tensor made = {0};
        if (pass)
            made = tensor_new(json_string(raw->sounds, "input"), F32, 2, (int64_t[]){(int64_t)count, (int64_t)size});
        for (size_t i = 0; i < rows->count; i++) {
            const Tensor *sound = &raw->opened[raw_named(raw, "sounds", &rows->items[i]) - all->items];
            if (pass) memcpy((float *)made.data + row * size, sound->data, sound->bytes);
            row += (sound->count + size - 1) / size;
        }
        if (pass) return made;
        count = row, row = 0;
    }
    fail("%s, case '%s': no sounds", c->entry, c->name);
}

/* Make the samples of a case of its sounds and hold them against the ready ones, or the spectrograms by their program;
 * run with what was made. */
static void samples_of_sounds(const Case *c, const Raw *raw, const Json *rows, Tensor *input) {
    const Json *spectrogram = json_member(raw->sounds, "spectrogram", JSON_OBJECT);
    Tensor windows = windows_of(c, raw, rows);
    if (windows.shape[0] != input->shape[0])
        fail("%s, case '%s': not %" PRId64 " windows of sounds", c->entry, c->name, windows.shape[0]);
    if (!strcmp(input->name, windows.name)) {
        for (size_t i = 0; i < windows.count; i++)
            if (!(fabsf(((float *)windows.data)[i] - ((float *)input->data)[i]) <= CLOSE))
                fail("%s, case '%s': sample %zu is %.9g made of the sounds, and %.9g in the ready samples", c->entry,
                     c->name, i, ((float *)windows.data)[i], ((float *)input->data)[i]);
        input->data = windows.data;
    } else if (raw->ear && !strcmp(input->name, json_string(spectrogram, "output"))) {
        input->data = allocate(input->bytes);
        runtime_run(raw->ear, &windows, 1, input);
    }
}

static void apply_raw(const Case *c, const Raw *raw, const Json *rows, Tensor *input) {
    const Json *images = json_find(rows, "images");
    if (images && raw->images && !strcmp(input->name, json_string(raw->images, "input")))
        pixels_of_bytes(c, raw, images, input);
    if (raw->sounds && json_find(rows, "sounds")) samples_of_sounds(c, raw, json_find(rows, "sounds"), input);
    if (!raw->texts) return;
    const Json *inputs = json_member(raw->texts, "inputs", JSON_OBJECT);
    for (const char *const *kind = (const char *[]){"texts", "pairs", NULL}; *kind; kind++)
        for (Made made = IDS; json_find(rows, *kind) && made <= POSITIONS; made++) {
            const Json *name = json_find(inputs, (const char *[]){"ids", "mask", "types", "positions"}[made]);
            if (name && !strcmp(input->name, name->string))
                check_made(c, raw, *kind, json_find(rows, *kind), input, made);
        }
}

/* Hold what makes scores of logits to the table that the pack has. */
static void check_scores(const Json *rules, const Json *index) {
    const Json *table = json_member(index, "scores", JSON_OBJECT);
    const Json *logits = json_member(table, "logits", JSON_ARRAY), *scores = json_member(table, "scores", JSON_ARRAY);
    size_t labels = json_member(rules, "labels", JSON_ARRAY)->count;
    if (!logits->count || scores->count != logits->count) fail("%s: scores is no table", RAW);
    for (size_t row = 0; row < logits->count; row++) {
        const Json *given = &logits->items[row], *wanted = &scores->items[row];
        if (given->kind != JSON_ARRAY || wanted->kind != JSON_ARRAY || given->count != labels || wanted->count != labels)
            fail("%s: scores: row %zu is not of %zu numbers", RAW, row, labels);
        Tensor made = tensor_new("logits", F32, 2, (int64_t[]){1, (int64_t)labels});
        for (size_t i = 0; i < labels; i++) ((float *)made.data)[i] = (float)given->items[i].number;
        scores_make(rules, &made);
        for (size_t i = 0; i < labels; i++)
            if (!(fabs(((float *)made.data)[i] - wanted->items[i].number) <= CLOSE))
                fail("%s: scores: %s of row %zu is %.9g at %zu, expected %.9g", RAW, json_string(rules, "activation"),
                     row, ((float *)made.data)[i], i, wanted->items[i].number);
    }
}

/* Hold every sound, opened, to the samples that the pack has. */
static void check_sounds(const Pack *pack, Raw *raw) {
    const Json *all = json_member(raw->index, "sounds", JSON_ARRAY);
    Tensors samples = pack_tensors(pack, "goldens/raw/samples.safetensors");
    raw->opened = allocate(all->count * sizeof *raw->opened);
    for (size_t i = 0; i < all->count; i++) {
        const char *name = json_string(&all->items[i], "name"), *file = json_string(&all->items[i], "file");
        char *bytes;
        size_t size = pack_bytes(pack, text("goldens/raw/%s", file), &bytes);
        raw->opened[i] = sounds_open(file, (const uint8_t *)bytes, size, raw->sounds);
        free(bytes);
        const Tensor *want = tensor_named(&samples, name), *made = &raw->opened[i];
        if (want->type != F32 || want->rank != 1 || want->count != made->count)
            fail("%s: %s is %zu samples, and %zu made of %s", samples.file, name, want->count, made->count, file);
        for (size_t k = 0; k < want->count; k++)
            if (!(fabsf(((float *)made->data)[k] - ((float *)want->data)[k]) <= CLOSE))
                fail("%s: sample %zu of %s is %.9g, and %.9g made of %s", samples.file, k, name,
                     ((float *)want->data)[k], ((float *)made->data)[k], file);
    }
    if (all->count) printf("  %zu sounds become the pack's samples\n", all->count);
}

/* Of an output that is kept at some positions, the whole shape; others are whole. */
static Tensor whole_of(Case *c, const Json *spec, const Tensor *want, const Tensor **kept) {
    Tensor whole = *want;
    const char *name = text("%s/positions/%s", c->name, json_string(spec, "name"));
    *kept = NULL;
    for (size_t i = 0; i < c->goldens->count; i++)
        if (!strcmp(c->goldens->items[i].name, name)) *kept = &c->goldens->items[i];
    if (!*kept) return whole;
    const Json *shape = json_member(spec, "shape", JSON_ARRAY);
    if ((*kept)->type != I64 || (*kept)->rank != 2 || want->rank != 3 || shape->count != 3 ||
        memcmp((*kept)->shape, want->shape, 2 * sizeof *want->shape))
        fail("%s: %s are not the positions of %s", c->goldens->file, name, want->name);
    const Json *places = &shape->items[1];
    whole.shape[1] = places->kind == JSON_STRING ? known_size(c, places->string) : json_size(places);
    for (size_t i = 0; i < (*kept)->count; i++)
        if (((int64_t *)(*kept)->data)[i] < 0 || ((int64_t *)(*kept)->data)[i] >= whole.shape[1])
            fail("%s: %s has a position beyond %" PRId64, c->goldens->file, name, whole.shape[1]);
    return whole;
}

/* What is expected of one output, and how far from it a result may lie. */
static const Tensor *read_expected(Case *c, const Json *spec, const Json *described, double *allowed) {
    const char *name = json_string(spec, "name");
    const Tensor *want = tensor_named(c->goldens, text("%s/outputs/%s", c->name, name));
    const Json *budget = json_member(json_member(described, "budgets", JSON_OBJECT), name, JSON_OBJECT);
    *allowed = json_member(budget, "allowed", JSON_NUMBER)->number;
    if (!(*allowed > 0)) fail("goldens/index.json: %s, case '%s': %g is no budget", c->entry, c->name, *allowed);
    if (want->type != F64) fail("%s: %s is not float64", c->goldens->file, want->name);
    if (type_named(json_string(spec, "dtype")) != F32) fail("manifest.json: %s of %s is not float32", name, c->entry);
    const Tensor *kept;
    Tensor whole = whole_of(c, spec, want, &kept);
    check_shape(c, spec, &whole);
    for (size_t i = 0; i < want->count; i++)
        if (!isfinite(((double *)want->data)[i])) fail("%s: %s is not finite", c->goldens->file, want->name);
    return want;
}

/* The mask among the inputs that says at which positions an output means something; NULL where it does everywhere. */
static const Tensor *mask_of(const Json *spec, const Tensor *inputs, size_t count, bool *wanted) {
    const Json *valid = json_find(json_member(spec, "kind", JSON_OBJECT), "valid");
    if (!valid || valid->kind != JSON_STRING || !*valid->string) return NULL;
    *wanted = *valid->string != '~';
    for (size_t k = 0; k < count; k++)
        if (!strcmp(inputs[k].name, valid->string + !*wanted)) return &inputs[k];
    fail("manifest.json: %s is valid where %s says, which is no input", json_string(spec, "name"), valid->string);
}

/* Whether the i-th number of an output of this shape means something. A longer mask begins earlier. */
static bool meant(const Json *spec, const Tensor *mask, bool wanted, const Tensor *out, size_t i) {
    size_t axis = strcmp(json_string(json_member(spec, "kind", JSON_OBJECT), "is"), "cache") ? 1 : 2, each = 1;
    if (!mask || mask->type != I32 || mask->rank != 2 || out->rank <= axis) return true;
    for (size_t k = axis + 1; k < out->rank; k++) each *= (size_t)out->shape[k];
    size_t length = (size_t)mask->shape[1], places = (size_t)out->shape[axis];
    size_t row = i / (out->count / (size_t)mask->shape[0]), place = length - places + i / each % places;
    return (((int32_t *)mask->data)[row * length + place] != 0) == wanted;
}

/* Run one output of a case; give its greatest difference as a part of what is allowed. */
static double compare(Case *c, void *opened, const Tensor *inputs, size_t count, const Tensor *want,
                      const Json *spec, double allowed) {
    double worst = 0;
    const char *name = json_string(spec, "name");
    const Tensor *kept;
    Tensor whole = whole_of(c, spec, want, &kept), got = tensor_new(name, F32, want->rank, whole.shape);
    runtime_run(opened, inputs, count, &got);
    bool wanted = true;
    const Tensor *mask = kept ? NULL : mask_of(spec, inputs, count, &wanted);
    size_t classes = kept ? (size_t)want->shape[2] : 1, each = kept ? (size_t)want->shape[1] : 1;
    for (size_t i = 0; i < want->count; i++) {
        size_t place = i / classes, from = i; /* in the whole output */
        if (!meant(spec, mask, wanted, want, i)) continue;
        if (kept)
            from = (place / each * (size_t)whole.shape[1] + (size_t)((int64_t *)kept->data)[place]) * classes +
                   i % classes;
        double difference = fabs((double)((float *)got.data)[from] - ((double *)want->data)[i]);
        if (!(difference <= allowed)) /* so written, NaN is a difference too */
            fail("%s, case '%s': %s[%zu] is %.9g, expected %.9g; %.3g apart, %.3g allowed", c->entry, c->name, name, i,
                 ((float *)got.data)[from], ((double *)want->data)[i], difference, allowed);
        if (difference > worst) worst = difference;
    }
    return worst / allowed;
}

/* Read and check everything that the pack has of an entry point; run it unless `opened` is NULL. */
static size_t replay_entry(const Pack *pack, const Raw *raw, const Json *index, const char *entry,
                           const Json *signature, void *opened) {
    const Json *cases = json_member(json_member(index, entry, JSON_OBJECT), "cases", JSON_OBJECT);
    if (!cases->count) fail("goldens/index.json: there are no cases of %s", entry);
    const Json *raw_cases = raw->index ? json_find(json_member(raw->index, "cases", JSON_OBJECT), entry) : NULL;
    for (size_t i = 0; raw_cases && i < raw_cases->count; i++) json_member(cases, raw_cases->keys[i], JSON_OBJECT);
    const Json *inputs = json_member(signature, "inputs", JSON_ARRAY);
    const Json *outputs = json_member(signature, "outputs", JSON_ARRAY);
    if (!inputs->count || inputs->count > MAX_INPUTS || !outputs->count)
        fail("manifest.json: %s has %zu inputs and %zu outputs", entry, inputs->count, outputs->count);
    Tensors goldens = pack_tensors(pack, text("goldens/%s.safetensors", entry));
    double worst = 0, allowed;
    for (size_t i = 0; i < cases->count; i++) {
        Case c = {.entry = entry, .name = cases->keys[i], .signature = signature, .goldens = &goldens};
        const Json *rows = raw_cases ? json_find(raw_cases, c.name) : NULL;
        Tensor ready[MAX_INPUTS];
        for (size_t k = 0; k < inputs->count; k++) {
            ready[k] = read_input(&c, &inputs->items[k]);
            if (rows) apply_raw(&c, raw, rows, &ready[k]);
        }
        for (size_t k = 0; k < inputs->count; k++) check_shape(&c, &inputs->items[k], &ready[k]);
        for (size_t k = 0; k < outputs->count; k++) {
            const Tensor *want = read_expected(&c, &outputs->items[k], &cases->items[i], &allowed);
            if (opened)
                worst = fmax(worst, compare(&c, opened, ready, inputs->count, want, &outputs->items[k], allowed));
        }
    }
    if (opened) printf("  %s: %zu cases, at worst %.0f %% of what is allowed\n", entry, cases->count, 100 * worst);
    return cases->count;
}

/* Read what the pack says of raw texts, pictures and sounds, if the run has it. */
static Raw read_raw(const Pack *pack) {
    Raw raw = {0};
    if (!pack_has(pack, RAW)) return raw;
    const Json *rules = pack_json(pack, "preprocess.json");
    rules_check(rules);
    rules_fit(rules, json_member(pack->manifest, "entry_points", JSON_OBJECT));
    const Json *texts = json_find(rules, "texts"), *images = json_find(rules, "images");
    raw.index = pack_json(pack, RAW);
    raw.texts = texts->kind == JSON_OBJECT ? texts : NULL;
    raw.images = json_find(images, "steps") ? images : NULL;
    if (json_find(rules, "scores")) check_scores(json_find(rules, "scores"), raw.index);
    if (json_find(texts, "missing")) printf("  no raw texts: %s\n", json_string(texts, "missing"));
    if (json_find(images, "missing")) printf("  no raw pictures: %s\n", json_string(images, "missing"));
    const Json *sounds = json_find(rules, "sounds");
    if (sounds && json_find(sounds, "missing")) printf("  no raw sounds: %s\n", json_string(sounds, "missing"));
    if (sounds && json_find(sounds, "spectrogram")) check_sounds(pack, (raw.sounds = sounds, &raw));
    if (!raw.images) return raw;
    raw.pixels = pack_tensors(pack, "goldens/raw/pixels.safetensors");
    check_values(&raw);
    return raw;
}

int main(int count, char **arguments) {
    if (count != 2 || arguments[1][0] == '-') {
        fprintf(stderr, "usage: %s DIR    replays the contract pack of the run directory DIR in %s\n", arguments[0],
                runtime_name());
        return 2;
    }
    Pack pack = pack_open(arguments[1]);
    const Json *entries = json_member(pack.manifest, "entry_points", JSON_OBJECT);
    const Json *index = pack_json(&pack, "goldens/index.json");
    Raw raw = read_raw(&pack);
    for (size_t i = 0; index->kind == JSON_OBJECT && i < index->count; i++)
        json_member(entries, index->keys[i], JSON_OBJECT);
    if (!entries->count) fail("manifest.json: there are no entry points");
    size_t cases = 0;
    for (size_t i = 0; i < entries->count; i++) /* the whole pack is known to be sound before anything is run */
        cases += replay_entry(&pack, &raw, index, entries->keys[i], &entries->items[i], NULL);
    if (raw.sounds) {
        const char *ear = json_string(json_member(raw.sounds, "spectrogram", JSON_OBJECT), "entry_point");
        raw.ear = runtime_open(&pack, pack_program(&pack, ear, RUNTIME_FORMAT));
    }
    for (size_t i = 0; i < entries->count; i++) {
        void *opened = runtime_open(&pack, pack_program(&pack, entries->keys[i], RUNTIME_FORMAT));
        replay_entry(&pack, &raw, index, entries->keys[i], &entries->items[i], opened);
    }
    printf("%s: %zu entry points, %zu cases: all within what is allowed\n", runtime_name(), entries->count, cases);
    return 0;
}
