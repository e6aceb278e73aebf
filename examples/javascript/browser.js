// What a browser brings: downloads, decoders of pictures and sounds, onnxruntime compiled to WebAssembly.

import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-web";
import { Embedder } from "./lib/embedder.js";
import { InputError, PackError } from "./lib/errors.js";
import { Pack } from "./lib/pack.js";

export { InputError, PackError };

/**
 * Opens a run directory that lies at `url`.
 * @param progress called with (file, bytes so far, all bytes or 0 when the server does not say)
 */
export async function open(url, progress = () => {}) {
  const pack = await Pack.open(remembering((file) => download(new URL(file, url), file, progress)));
  return new Embedder(pack, {
    name: `onnxruntime-web ${ort.env.versions.web} (WebAssembly)`,
    ort,
    Tokenizer,
    decode,
    async open(program) {
      if (!program) throw new PackError("the run directory holds no ONNX; make it with `bgevis-convert export onnx`");
      const data = await pack.bytes(program.weights);
      const external = [{ path: program.weights.split("/").pop(), data }];
      return ort.InferenceSession.create(await pack.bytes(program.path), { externalData: external });
    },
  });
}

/** Keeps what was downloaded once: every program points into the one weights file. */
function remembering(read) {
  const known = new Map();
  return (file) => {
    if (!known.has(file)) known.set(file, read(file));
    return known.get(file);
  };
}

async function download(url, file, progress) {
  const response = await fetch(url);
  if (!response.ok) throw new PackError(`${file}: the server answers ${response.status}`);
  const total = Number(response.headers.get("Content-Length") ?? 0);
  let bytes = new Uint8Array(total || 1 << 20);
  let length = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (length + part.value.length > bytes.length) {
      const larger = new Uint8Array(2 * (length + part.value.length));
      larger.set(bytes.subarray(0, length));
      bytes = larger;
    }
    bytes.set(part.value, length);
    length += part.value.length;
    progress(file, length, total);
  }
  return length === bytes.length ? bytes : bytes.slice(0, length);
}

/** Decodes a PNG or JPEG file as it is stored, or throws where a browser cannot show that. */
async function decode(bytes) {
  const png = bytes[0] === 0x89 ? { depth: bytes[24], type: bytes[25] } : undefined;
  if (png?.depth === 16) throw new Error("samples of more than 8 bits, which a browser scales");
  const blob = new Blob([png ? bytes : withoutOrientation(bytes)]);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const out = new Uint8Array(3 * width * height);
  for (let i = 0; i < width * height; i++) {
    if (data[4 * i + 3] !== 255) throw new Error("transparent parts, below which a browser forgets the colours");
    out.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  }
  const mode = png?.type === 3 ? "P" : png?.type === 0 && png.depth === 1 ? "1" : "RGB";
  return { mode, width, height, channels: 3, data: out };
}

/**
 * Opens a sound of any kind that the browser decodes: { samples, rate }, its channels' mean at `rate`. The browser
 * resamples by its own rules; what lib/sounds.js reads is better given to `transcribe` as it is.
 */
export async function decodeSound(bytes, rate) {
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice().buffer); // a copy: it is taken away
  } catch {
    throw new InputError("this is no sound that the browser decodes: expected WAV, or such as FLAC, MP3 and OGG");
  }
  const samples = new Float64Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++)
    sound.getChannelData(channel).forEach((value, i) => (samples[i] += value / sound.numberOfChannels));
  return { samples, rate };
}

/** Takes the EXIF segments out of a JPEG: browsers turn the picture by what they say. */
function withoutOrientation(bytes) {
  const kept = [bytes.subarray(0, 2)];
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const next = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (bytes[at + 1] !== 0xe1) kept.push(bytes.subarray(at, next));
    at = next;
  }
  return new Blob([...kept, bytes.subarray(at)]);
}
