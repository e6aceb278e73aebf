#include "scores.h"

#include <math.h>
#include <string.h>

static void softmax(float *row, size_t labels) {
    float most = row[0], total = 0;
    for (size_t i = 1; i < labels; i++) most = fmaxf(most, row[i]);
    for (size_t i = 0; i < labels; i++) total += row[i] = expf(row[i] - most);
    for (size_t i = 0; i < labels; i++) row[i] /= total;
}

void scores_make(const Json *rules, Tensor *logits) {
    const char *activation = json_string(rules, "activation");
    size_t labels = json_member(rules, "labels", JSON_ARRAY)->count;
    float *values = logits->data;
    if (!strcmp(activation, "softmax"))
        for (size_t i = 0; i < logits->count; i += labels) softmax(values + i, labels);
    else if (!strcmp(activation, "sigmoid"))
        for (size_t i = 0; i < logits->count; i++) values[i] = 1 / (1 + expf(-values[i]));
    else if (!strcmp(activation, "tanh"))
        for (size_t i = 0; i < logits->count; i++) values[i] = tanhf(values[i]);
    else if (strcmp(activation, "identity"))
        fail("preprocess.json: scores: activation is %s, of which no scores are made here", activation);
}
