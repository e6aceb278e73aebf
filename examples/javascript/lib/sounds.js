// Sounds to windows of samples, by the rules of preprocess.json: docs/pack.md has the formulas.
//
// WAV is read here. Other files are refused by name: no decoder of theirs comes with this program.

import { InputError } from "./errors.js";

const RATES = [1000, 768000]; // samples a second
const LOUDEST = 1.1;
const CHANNELS = 64;
const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];
const UNKNOWN = 0xffffffff; // the length of what was written before its end was known

/** How a sample of so many bits is read from a DataView, by its code. */
const READ = {
  [PCM]: {
    8: (view, at) => (view.getUint8(at) - 128) / 128,
    16: (view, at) => view.getInt16(at, true) / 2 ** 15,
    24: (view, at) => (view.getUint16(at, true) + 65536 * view.getInt8(at + 2)) / 2 ** 23,
    32: (view, at) => view.getInt32(at, true) / 2 ** 31,
  },
  [FLOAT]: { 32: (view, at) => view.getFloat32(at, true), 64: (view, at) => view.getFloat64(at, true) },
};

/** What other files begin with. */
const OTHERS = { fLaC: "FLAC", OggS: "OGG", ID3: "MP3", FORM: "AIFF", RIFX: "RIFX", RF64: "RF64" };

/**
 * Opens a sound: the bytes of a WAV file, or { samples, rate } of one channel; gives the samples at the network's rate,
 * a Float32Array. Throws InputError where it is none.
 */
export function samples(sound, rules, name = "the sound") {
  const { data, channels, rate } = sound.samples
    ? { data: sound.samples, channels: 1, rate: sound.rate }
    : wave(sound, name);
  const [low, high] = RATES;
  if (!(Number.isInteger(rate) && low <= rate && rate <= high))
    throw new InputError(`${name} has ${rate} samples a second: expected a whole number from ${low} to ${high}`);
  if (!data.length) throw new InputError(`${name} has no samples: expected one at least`);
  const wrong = data.reduce((count, value) => count + !Number.isFinite(value), 0);
  if (wrong) throw new InputError(`${name} holds ${wrong} samples that are no numbers: expected -1 to 1`);
  const loudest = data.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (loudest > LOUDEST)
    throw new InputError(`${name} reaches ${loudest}: expected samples between -1 and 1; divide them by their scale`);
  const one = new Float64Array(data.length / channels);
  for (let i = 0; i < one.length; i++) {
    for (let channel = 0; channel < channels; channel++) one[i] += data[i * channels + channel];
    one[i] /= channels;
  }
  const made = resample(one, rate, rules.rate, rules.resample);
  if (made.length < rules.least)
    throw new InputError(
      `${name} is ${one.length} samples at ${rate} Hz, ${one.length / rate} s: expected ` +
        `${rules.least / rules.rate} s at least`,
    );
  return Float32Array.from(made);
}

/** Cuts samples in windows one after the other, silence after the last: a Float32Array for each. */
export function windows(one, { samples: size }) {
  return Array.from({ length: Math.max(1, Math.ceil(one.length / size)) }, (_, i) => {
    const window = new Float32Array(size);
    window.set(one.subarray(i * size, (i + 1) * size));
    return window;
  });
}

const letters = (bytes, at, count = 4) => String.fromCharCode(...bytes.subarray(at, at + count));

/** Says whether bytes begin as a WAV file does. */
export const isWave = (bytes) => letters(bytes, 0) === "RIFF" && letters(bytes, 8) === "WAVE";

/** Reads a WAV file: { data, channels, rate }, the channels of a sample side by side. */
export function wave(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (!isWave(bytes)) {
    const other = Object.keys(OTHERS).find((begin) => letters(bytes, 0, begin.length) === begin);
    throw new InputError(`${name} is ${other ? `${OTHERS[other]}, which is not read here` : "no sound"}: expected WAV`);
  }
  let form;
  for (let at = 12, length; at + 8 <= bytes.length; at += 8 + length + (length % 2)) {
    length = view.getUint32(at + 4, true);
    const [kind, start, there] = [letters(bytes, at), at + 8, bytes.length - at - 8];
    if (kind === "fmt " && 16 <= length && length <= there) {
      const code = view.getUint16(start, true);
      form = {
        code: code === EXTENSIBLE && length >= 40 ? view.getUint16(start + 24, true) : code,
        channels: view.getUint16(start + 2, true),
        rate: view.getUint32(start + 4, true),
        frame: view.getUint16(start + 12, true),
        bits: view.getUint16(start + 14, true),
      };
    }
    if (kind !== "data") continue;
    if (!form) throw new InputError(`${name} is a WAV file whose samples come before what they are: expected fmt before data`);
    const { code, channels, rate, frame, bits } = form;
    const read = READ[code]?.[bits];
    if (!read) throw new InputError(`${name} is a WAV file of code ${code} and ${bits} bits, which is not read here: expected PCM or floats`);
    if (channels < 1 || channels > CHANNELS || frame !== (channels * bits) / 8)
      throw new InputError(
        `${name} is a WAV file of ${channels} channels of ${bits} bits in ${frame} bytes: expected 1 to ${CHANNELS} ` +
          "channels, and as many bytes as these have",
      );
    if (length > there && length !== UNKNOWN)
      throw new InputError(`${name} is cut off: a WAV file of ${length} bytes of samples, of which ${there} are there`);
    const data = new Float64Array(Math.floor(Math.min(length, there) / frame) * channels);
    for (let i = 0; i < data.length; i++) data[i] = read(view, start + (i * bits) / 8);
    return { data, channels, rate };
  }
  throw new InputError(`${name} is a WAV file without samples: expected a chunk data`);
}

/** Gives samples another rate, by a windowed sinc: docs/pack.md, resample. */
export function resample(one, rate, wanted, { zero_crossings: crossings, rolloff }) {
  if (rate === wanted) return one;
  const shared = divisor(rate, wanted);
  const [old, next] = [rate / shared, wanted / shared];
  const cutoff = rolloff * Math.min(old, next);
  const reach = Math.ceil((crossings * old) / cutoff);
  const weights = Array(next); // of each phase, made when it is first met
  const made = new Float64Array(Math.ceil((one.length * next) / old));
  for (let j = 0; j < made.length; j++) {
    const phase = j % next;
    const first = Math.floor((phase * old) / next); // the last sample that is not after the output
    weights[phase] ??= Float64Array.from({ length: 2 * reach + 2 }, (_, k) => {
      const t = cutoff * ((first + k - reach) / old - phase / next);
      if (Math.abs(t) >= crossings) return 0;
      const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
      return (sinc * Math.cos((Math.PI * t) / (2 * crossings)) ** 2 * cutoff) / old;
    });
    const start = Math.floor(j / next) * old + first - reach;
    const [from, to] = [Math.max(0, -start), Math.min(2 * reach + 2, one.length - start)];
    for (let k = from; k < to; k++) made[j] += one[start + k] * weights[phase][k];
  }
  return made;
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);
