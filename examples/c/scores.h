/* What makes scores of a classifier's logits. */
#ifndef SCORES_H
#define SCORES_H

#include "pack.h"

/* Turn logits, (rows, labels) of float32, into scores: as `scores` of preprocess.json says, which was checked. */
void scores_make(const Json *rules, Tensor *logits);

#endif
