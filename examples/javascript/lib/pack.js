// The files of a run directory, each held to its digest: docs/pack.md is the format.

import { PackError } from "./errors.js";
import { check, fits } from "./rules.js";

export { PackError };

/** The version of the run directory's format that is read here. */
const FORMAT = 1;

/** Opens a run directory through `read(path) -> Promise<Uint8Array>`; every byte that it gives out was checked. */
export class Pack {
  #read;
  #files;

  /** provenance.json states the manifest's digest, the manifest states every other file's. */
  static async open(read) {
    const pack = new Pack();
    pack.#read = read;
    const statement = parse("provenance.json", await read("provenance.json"));
    const subject = (statement.subject ?? []).find(({ name }) => name === "manifest.json");
    if (!subject) throw new PackError("provenance.json does not state the digest of manifest.json");
    pack.#files = { "manifest.json": { sha256: subject.digest?.sha256 } };
    pack.manifest = await pack.json("manifest.json");
    const { format_version } = pack.manifest;
    if (format_version !== FORMAT)
      throw new PackError(`manifest.json has format_version ${format_version}, this program reads ${FORMAT}`);
    pack.#files = { ...pack.manifest.files, ...pack.#files };
    pack.rules = await pack.json("preprocess.json");
    check(pack.rules);
    fits(pack.rules, pack.manifest.entry_points);
    return pack;
  }

  /** Gives a file's bytes; throws PackError unless they are those that the manifest states. */
  async bytes(path) {
    const stated = this.#files[path];
    if (!stated) throw new PackError(`${path}: the manifest does not name this file`);
    const bytes = await this.#read(path);
    if (stated.bytes !== undefined && bytes.length !== stated.bytes)
      throw new PackError(`${path} has ${bytes.length} bytes, the manifest states ${stated.bytes}`);
    const digest = hex(await crypto.subtle.digest("SHA-256", bytes));
    if (digest !== stated.sha256) throw new PackError(`${path} has sha256 ${digest}, ${stated.sha256} was stated`);
    return bytes;
  }

  async json(path) {
    return parse(path, await this.bytes(path));
  }

  /** Gives the tensors of a safetensors file: name -> { dtype, shape, data }. */
  async tensors(path) {
    return safetensors(path, await this.bytes(path));
  }
}

function parse(path, bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new PackError(`${path} is not valid JSON: ${error.message}`);
  }
}

function hex(buffer) {
  return Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const ARRAYS = { F32: Float32Array, F64: Float64Array, I32: Int32Array, I64: BigInt64Array, U8: Uint8Array };

function safetensors(path, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  const header = parse(path, bytes.subarray(8, 8 + length));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = data_offsets.map((offset) => 8 + length + offset);
    const Array_ = ARRAYS[dtype];
    if (!Array_) throw new PackError(`${path}: ${name} has dtype ${dtype}, which no golden has`);
    const data = new Array_(bytes.slice(begin, end).buffer); // a copy, because a typed array must be aligned
    if (data.length !== size(shape)) throw new PackError(`${path}: ${name} does not fill its shape [${shape}]`);
    tensors[name] = { dtype, shape, data };
  }
  return tensors;
}

export const size = (shape) => shape.reduce((product, n) => product * n, 1);
