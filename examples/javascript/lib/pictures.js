// From a decoded picture to the numbers that a network takes, by the steps of preprocess.json.
//
// A picture is { mode, width, height, channels, data }, its samples bytes, row by row. The modes are Pillow's:
// "L" grey, "RGB", "RGBA", "P" a palette (its colours already looked up), "1" black and white. The rules were checked:
// rules.js has their words.

import { PackError } from "./errors.js";

/** Gives the bytes (size, size, 3) that are normalised afterwards; numbers between them after a resize in float32. */
export function pixels(picture, rules) {
  const done = { resize, crop, colour, normalize: (same) => same };
  return rules.steps.reduce((from, step) => done[step.do](from, step), picture);
}

/** Gives what every byte of every channel becomes: (256, channels), each operation rounded to float32. */
export function values(rules) {
  const { divide, mean, std } = rules.steps.at(-1);
  const round = Math.fround;
  const table = new Float32Array(256 * mean.length);
  for (let byte = 0; byte < 256; byte++)
    for (let c = 0; c < mean.length; c++)
      table[byte * mean.length + c] = round(round(round(byte / divide) - round(mean[c])) / round(std[c]));
  return table;
}

/** Gives the pixels of one picture as the network takes them: (size, size, 3) float32. */
export function normalized({ data }, table, rules) {
  const channels = table.length / 256;
  if (data instanceof Uint8Array) return Float32Array.from(data, (byte, i) => table[byte * channels + (i % channels)]);
  const { divide, mean, std } = rules.steps.at(-1);
  const round = Math.fround;
  return data.map((sample, i) => {
    const channel = i % channels;
    return round(round(round(sample / divide) - round(mean[channel])) / round(std[channel]));
  });
}

function resize(picture, step) {
  const [w, h] = resized(picture, step);
  if (step.arithmetic === "float32") picture = { ...picture, data: Float32Array.from(picture.data) };
  if (w === picture.width && h === picture.height) return picture;
  const kernel = step.nearest_in_modes.includes(picture.mode) ? nearest : FILTERS[step.filter];
  const across = (from) => pass(from, w, "across", kernel);
  const down = (from) => pass(from, h, "down", kernel);
  const less = picture.height - h;
  const both = less > 0 && less > 2 * (picture.width - w) ? (from) => across(down(from)) : (from) => down(across(from));
  return picture.mode === "RGBA" ? unmultiplied(both(premultiplied(picture))) : both(picture);
}

/** Gives width and height after a resize. */
function resized({ width, height }, { shorter_side, longer_side, ...exact }) {
  if (shorter_side === undefined) return [exact.width, exact.height];
  const longer = LONGER[longer_side]((shorter_side * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? [shorter_side, longer] : [longer, shorter_side];
}

/** Resamples one axis to `m` samples by `kernel(n, m)`, which gives (input offset, weights) for every output. */
function pass(picture, m, direction, kernel) {
  const { width, height, channels, data } = picture;
  const n = direction === "across" ? width : height;
  if (n === m) return picture;
  const shape = direction === "across" ? { width: m, height } : { width, height: m };
  const floats = data instanceof Float32Array;
  const out = new (floats ? Float32Array : Uint8Array)(shape.width * shape.height * channels);
  const [step, lines, stride] =
    direction === "across" ? [channels, height, width * channels] : [width * channels, width, channels];
  const [outStep, outStride] = direction === "across" ? [channels, m * channels] : [width * channels, channels];
  kernel(n, m).forEach(([first, exact], x) => {
    const weights = floats ? exact : exact.map(rounded);
    for (let line = 0; line < lines; line++)
      for (let c = 0; c < channels; c++) {
        let sum = floats ? 0 : HALF;
        for (let i = 0; i < weights.length; i++) sum += data[line * stride + (first + i) * step + c] * weights[i];
        out[line * outStride + x * outStep + c] = floats ? sum : Math.min(255, Math.max(0, sum >> BITS));
      }
  });
  return { ...picture, ...shape, data: out };
}

const BITS = 22;
const HALF = 1 << (BITS - 1);

/** Gives a weight as whole numbers have it, halves away from zero. */
const rounded = (weight) => Math.trunc(weight * 2 ** BITS + (weight >= 0 ? 0.5 : -0.5));

/** Makes a kernel of a curve that reaches `reach` samples; it grows with the step when a picture shrinks. */
const smooth = (reach, curve) => (n, m) => {
  const scale = n / m;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: m }, (_, x) => {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(n, Math.trunc(center + support + 0.5));
    const w = Array.from({ length: last - first }, (_, i) =>
      curve(Math.abs((first + i - center + 0.5) * (1 / stretch))),
    );
    const sum = w.reduce((total, weight) => total + weight, 0);
    return [first, w.map((weight) => weight / sum)];
  });
};

const A = -0.5; // the only `a` that rules.js lets through
const FILTERS = {
  bicubic: smooth(2, (t) => {
    if (t < 1) return ((A + 2) * t - (A + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * A : 0;
  }),
  bilinear: smooth(1, (t) => (t < 1 ? 1 - t : 0)),
};

/** Takes the nearest sample; the place is added up, since a product would be rounded otherwise at the borders. */
const nearest = (n, m) => {
  let place = 0.5 * (n / m);
  return Array.from({ length: m }, () => {
    const first = Math.trunc(place);
    place += n / m;
    return [first, [1]];
  });
};

/** Multiplies colours by alpha, as bytes. */
function premultiplied(picture) {
  return mapped(picture, (colour, alpha) => divided(colour * alpha));
}

/** Divides by 255, rounded. */
function divided(product) {
  return (product + 128 + ((product + 128) >> 8)) >> 8;
}

function unmultiplied(picture) {
  return mapped(picture, (colour, alpha) =>
    alpha === 0 || alpha === 255 ? colour : Math.min(255, Math.trunc((255 * colour) / alpha)),
  );
}

function mapped(picture, change) {
  const data = new Uint8Array(picture.data); // not slice: a Buffer's gives the same memory
  for (let i = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) data[i + c] = change(data[i + c], data[i + 3]);
  return { ...picture, data };
}

function crop(picture, { width, height, offset }) {
  if (picture.width < width || picture.height < height)
    throw new PackError(
      `a picture of ${picture.width} x ${picture.height} is smaller than the crop of ${width} x ${height}`,
    );
  const left = HALVES[offset]((picture.width - width) / 2);
  const top = HALVES[offset]((picture.height - height) / 2);
  const { channels } = picture;
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    const begin = ((top + y) * picture.width + left) * channels;
    data.set(picture.data.subarray(begin, begin + width * channels), y * width * channels);
  }
  return { ...picture, width, height, data };
}

function halfToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2 ? 1 : 0) : Math.round(x);
}

const HALVES = { "half to even": halfToEven, floor: Math.floor };
const LONGER = { floor: Math.floor, round: halfToEven };

function colour(picture, { alpha }) {
  const { width, height, channels, data } = picture;
  if (channels === 3) return { ...picture, mode: "RGB" };
  const out = new Uint8Array(width * height * 3);
  const seen = alpha === "over white" && channels === 4;
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) {
      const sample = data[channels * i + (channels < 3 ? 0 : c)];
      const opaque = data[channels * i + 3];
      out[3 * i + c] = seen ? divided(sample * opaque + 255 * (255 - opaque)) : sample;
    }
  return { ...picture, mode: "RGB", channels: 3, data: out };
}
