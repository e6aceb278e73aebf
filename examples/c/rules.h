/* preprocess.json, held to its words: docs/pack.md has them. What is not known ends the program. */
#ifndef RULES_H
#define RULES_H

#include "pack.h"

/* Refuse keys and values that are not known, in every part. */
void rules_check(const Json *document);
/* Refuse names, shapes and limits that are not those of the manifest's entry points. */
void rules_fit(const Json *document, const Json *entry_points);

#endif
