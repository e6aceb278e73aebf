/* Sounds to samples, by the rules of preprocess.json: docs/pack.md has the formulas. WAV alone is read. */
#ifndef SOUNDS_H
#define SOUNDS_H

#include "pack.h"

/* Open the bytes of a sound, make its channels one and give it the network's rate: (samples) of float32. */
Tensor sounds_open(const char *name, const uint8_t *bytes, size_t size, const Json *rules);

#endif
