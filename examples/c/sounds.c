#include "sounds.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOWEST 1000 /* samples a second */
#define HIGHEST 768000
#define LOUDEST 1.1
#define CHANNELS 64
#define PI 3.14159265358979323846

enum { PCM = 1, FLOAT = 3, EXTENSIBLE = 0xFFFE };

typedef struct {
    uint16_t code, channels, frame, bits;
    uint32_t rate;
    const uint8_t *data;
    size_t count; /* of samples, with all channels of each */
} Wave;

static uint16_t two(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
static uint32_t four(const uint8_t *at) { return (uint32_t)two(at) | (uint32_t)two(at + 2) << 16; }

/* Refuse what is no WAV file by the name of what it is, as far as that shows. */
_Noreturn static void refuse(const char *name, const uint8_t *bytes, size_t size) {
    static const char *const others[][2] = {{"fLaC", "FLAC"}, {"OggS", "OGG"},  {"ID3", "MP3"},
                                            {"FORM", "AIFF"}, {"RIFX", "RIFX"}, {"RF64", "RF64"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (size >= strlen(others[i][0]) && !memcmp(bytes, others[i][0], strlen(others[i][0])))
            fail("%s is %s, which is not read here: expected WAV", name, others[i][1]);
    fail("%s is no sound: expected WAV", name);
}

static Wave read_wave(const char *name, const uint8_t *bytes, size_t size) {
    if (size < 12 || memcmp(bytes, "RIFF", 4) || memcmp(bytes + 8, "WAVE", 4)) refuse(name, bytes, size);
    Wave wave = {0};
    bool stated = false;
    for (size_t at = 12; at + 8 <= size;) {
        size_t length = four(bytes + at + 4), start = at + 8, there = size - start;
        if (!memcmp(bytes + at, "fmt ", 4) && length >= 16 && length <= there) {
            const uint8_t *form = bytes + start;
            wave = (Wave){two(form), two(form + 2), two(form + 12), two(form + 14), four(form + 4), NULL, 0};
            if (wave.code == EXTENSIBLE && length >= 40) wave.code = two(form + 24);
            stated = true;
        }
        if (!memcmp(bytes + at, "data", 4)) {
            if (!stated)
                fail("%s is a WAV file whose samples come before what they are: expected fmt before data", name);
            bool pcm = wave.code == PCM && wave.bits % 8 == 0 && wave.bits >= 8 && wave.bits <= 32;
            if (!pcm && !(wave.code == FLOAT && (wave.bits == 32 || wave.bits == 64)))
                fail("%s is a WAV file of code %d and %d bits, which is not read here: expected PCM or floats", name,
                     wave.code, wave.bits);
            if (wave.channels < 1 || wave.channels > CHANNELS || wave.frame != wave.channels * wave.bits / 8)
                fail("%s is a WAV file of %d channels of %d bits in %d bytes: expected 1 to %d channels, and as many "
                     "bytes as these have",
                     name, wave.channels, wave.bits, wave.frame, CHANNELS);
            if (length > there && length != UINT32_MAX)
                fail("%s is cut off: a WAV file of %zu bytes of samples, of which %zu are there", name, length, there);
            wave.data = bytes + start;
            wave.count = (length < there ? length : there) / wave.frame;
            return wave;
        }
        at = start + length + length % 2;
    }
    fail("%s is a WAV file without samples: expected a chunk data", name);
}

static double value(const Wave *wave, size_t i) {
    const uint8_t *at = wave->data + i * (wave->bits / 8);
    if (wave->code == FLOAT && wave->bits == 32) {
        float single;
        return memcpy(&single, at, sizeof single), single;
    }
    if (wave->code == FLOAT) {
        double twice;
        return memcpy(&twice, at, sizeof twice), twice;
    }
    if (wave->bits == 8) return (at[0] - 128) / 128.0;
    if (wave->bits == 16) return (int16_t)two(at) / 32768.0;
    if (wave->bits == 24) return (two(at) + 65536.0 * (int8_t)at[2]) / 8388608.0;
    return (int32_t)four(at) / 2147483648.0;
}

/* Hold every sample to what a sample is, and make the mean of the channels. */
static double *mean(const char *name, const Wave *wave) {
    double *one = allocate(wave->count * sizeof *one);
    for (size_t i = 0; i < wave->count; i++) {
        for (size_t channel = 0; channel < wave->channels; channel++) {
            double sample = value(wave, i * wave->channels + channel);
            if (!isfinite(sample)) fail("%s holds samples that are no numbers: expected -1 to 1", name);
            if (fabs(sample) > LOUDEST)
                fail("%s reaches %g: expected samples between -1 and 1; divide them by their scale", name, sample);
            one[i] += sample;
        }
        one[i] /= wave->channels;
    }
    return one;
}

static size_t divisor(size_t a, size_t b) { return b ? divisor(b, a % b) : a; }

/* Give the weights of a phase: of the samples from `reach` before the last one that is not after the output. */
static double *weights(size_t phase, size_t old, size_t new, size_t reach, double cutoff, double crossings) {
    size_t first = phase * old / new;
    double *found = allocate((2 * reach + 2) * sizeof *found);
    for (size_t k = 0; k < 2 * reach + 2; k++) {
        double place = ((double)first + (double)k - (double)reach) / (double)old;
        double t = cutoff * (place - (double)phase / (double)new);
        if (fabs(t) >= crossings) continue;
        double sinc = t == 0 ? 1 : sin(PI * t) / (PI * t), window = cos(PI * t / (2 * crossings));
        found[k] = sinc * window * window * cutoff / (double)old;
    }
    return found;
}

/* Give samples another rate, by a windowed sinc: docs/pack.md, resample. */
static Tensor resample(const double *one, size_t count, size_t rate, size_t wanted, const Json *rules) {
    size_t shared = divisor(rate, wanted), old = rate / shared, new = wanted / shared;
    if ((double)count * (double)new / (double)old > 1e9) fail("a sound of %zu samples is too long", count);
    int64_t length = (int64_t)((count * new + old - 1) / old);
    Tensor made = tensor_new("samples", F32, 1, &length);
    float *to = made.data;
    if (old == new) {
        for (size_t i = 0; i < count; i++) to[i] = (float)one[i];
        return made;
    }
    double crossings = json_member(rules, "zero_crossings", JSON_NUMBER)->number;
    double cutoff = json_member(rules, "rolloff", JSON_NUMBER)->number * (double)(old < new ? old : new);
    size_t reach = (size_t)ceil(crossings * (double)old / cutoff);
    double **phases = allocate(new * sizeof *phases); /* each made when it is first met */
    for (size_t j = 0; j < made.count; j++) {
        size_t phase = j % new, last = j / new * old + phase * old / new;
        if (!phases[phase]) phases[phase] = weights(phase, old, new, reach, cutoff, crossings);
        double sum = 0;
        for (size_t k = last < reach ? reach - last : 0; k < 2 * reach + 2 && last + k < count + reach; k++)
            sum += one[last + k - reach] * phases[phase][k];
        to[j] = (float)sum;
    }
    for (size_t i = 0; i < new; i++) free(phases[i]);
    free(phases);
    return made;
}

Tensor sounds_open(const char *name, const uint8_t *bytes, size_t size, const Json *rules) {
    Wave wave = read_wave(name, bytes, size);
    if (wave.rate < LOWEST || wave.rate > HIGHEST)
        fail("%s has %u samples a second: expected %d to %d", name, wave.rate, LOWEST, HIGHEST);
    if (!wave.count) fail("%s has no samples: expected one at least", name);
    size_t rate = (size_t)json_size(json_member(rules, "rate", JSON_NUMBER));
    size_t least = (size_t)json_size(json_member(rules, "least", JSON_NUMBER));
    double *one = mean(name, &wave);
    Tensor made = resample(one, wave.count, wave.rate, rate, json_member(rules, "resample", JSON_OBJECT));
    free(one);
    if (made.count < least)
        fail("%s is %zu samples at %u Hz, %.3g s: expected %.3g s at least", name, wave.count, wave.rate,
             (double)wave.count / wave.rate, (double)least / (double)rate);
    made.name = name;
    return made;
}
