// From a decoded picture to the numbers that a network takes, by the steps of preprocess.json.
//
// A picture is { mode, width, height, channels, data }, its samples bytes, row by row. The modes are Pillow's:
// "L" grey, "RGB", "RGBA", "P" a palette (its colours already looked up), "1" black and white.

/** Gives the bytes (size, size, 3) that are normalised afterwards. */
export function pixels(picture, rules) {
  const done = { resize, crop, colour, normalize: (same) => same };
  return rules.steps.reduce((from, step) => {
    if (!done[step.do]) throw new Error(`preprocess.json asks for the step "${step.do}", which is not known here`);
    return done[step.do](from, step);
  }, picture);
}

/** Gives what every byte of every channel becomes: (256, channels), each operation rounded to float32. */
export function values(rules) {
  const { divide, mean, std } = rules.steps.find((step) => step.do === "normalize");
  const round = Math.fround;
  const table = new Float32Array(256 * mean.length);
  for (let byte = 0; byte < 256; byte++)
    for (let c = 0; c < mean.length; c++)
      table[byte * mean.length + c] = round(round(round(byte / divide) - round(mean[c])) / round(std[c]));
  return table;
}

/** Gives the pixels of one picture as the network takes them: (size, size, 3) float32. */
export function normalized(bytes, table) {
  const channels = table.length / 256;
  return Float32Array.from(bytes.data, (byte, i) => table[byte * channels + (i % channels)]);
}

function resize(picture, step) {
  const { width, height, mode } = picture;
  const shorter = Math.min(width, height);
  if (shorter === step.shorter_side) return picture;
  const scaled = (side) => (side === shorter ? step.shorter_side : Math.floor((step.shorter_side * side) / shorter));
  const [w, h] = [scaled(width), scaled(height)];
  if (step.nearest_in_modes.includes(mode)) return pass(pass(picture, w, "across", nearest), h, "down", nearest);
  const both = (from) => pass(pass(from, w, "across", bicubic(step.a)), h, "down", bicubic(step.a));
  return mode === "RGBA" ? unmultiplied(both(premultiplied(picture))) : both(picture);
}

/** Resamples one axis to `m` samples by `kernel(n, m)`, which gives (input offset, weights) for every output. */
function pass(picture, m, direction, kernel) {
  const { width, height, channels, data } = picture;
  const n = direction === "across" ? width : height;
  if (n === m) return picture;
  const shape = direction === "across" ? { width: m, height } : { width, height: m };
  const out = new Uint8Array(shape.width * shape.height * channels);
  const [step, lines, stride] =
    direction === "across" ? [channels, height, width * channels] : [width * channels, width, channels];
  const [outStep, outStride] = direction === "across" ? [channels, m * channels] : [width * channels, channels];
  kernel(n, m).forEach(([first, weights], x) => {
    for (let line = 0; line < lines; line++)
      for (let c = 0; c < channels; c++) {
        let sum = HALF;
        for (let i = 0; i < weights.length; i++) sum += data[line * stride + (first + i) * step + c] * weights[i];
        out[line * outStride + x * outStep + c] = Math.min(255, Math.max(0, sum >> BITS));
      }
  });
  return { ...picture, ...shape, data: out };
}

const BITS = 22;
const HALF = 1 << (BITS - 1);

const bicubic = (a) => (n, m) => {
  const curve = (t) => {
    t = Math.abs(t);
    if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
    return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
  };
  const scale = n / m;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  return Array.from({ length: m }, (_, x) => {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(n, Math.trunc(center + support + 0.5));
    const w = Array.from({ length: last - first }, (_, i) => curve((first + i - center + 0.5) * (1 / stretch)));
    const sum = w.reduce((total, weight) => total + weight, 0);
    return [first, w.map((weight) => Math.trunc((weight / sum) * 2 ** BITS + (weight / sum >= 0 ? 0.5 : -0.5)))];
  });
};

const nearest = (n, m) => Array.from({ length: m }, (_, x) => [Math.trunc((x + 0.5) * (n / m)), [1 << BITS]]);

/** Multiplies colours by alpha, as bytes: x * a / 255, rounded. */
function premultiplied(picture) {
  return mapped(picture, (colour, alpha) => {
    const product = colour * alpha + 128;
    return ((product >> 8) + product) >> 8;
  });
}

function unmultiplied(picture) {
  return mapped(picture, (colour, alpha) =>
    alpha === 0 || alpha === 255 ? colour : Math.min(255, Math.trunc((255 * colour) / alpha)),
  );
}

function mapped(picture, change) {
  const data = picture.data.slice();
  for (let i = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) data[i + c] = change(data[i + c], data[i + 3]);
  return { ...picture, data };
}

function crop(picture, { width, height }) {
  const left = halfToEven((picture.width - width) / 2);
  const top = halfToEven((picture.height - height) / 2);
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

function colour(picture) {
  const { width, height, channels, data } = picture;
  if (channels === 3) return picture;
  const out = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) out[3 * i + c] = data[channels * i + (channels < 3 ? 0 : c)];
  return { ...picture, mode: "RGB", channels: 3, data: out };
}
