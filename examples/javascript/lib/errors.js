/** A run directory that is not as docs/pack.md describes it, or asks for what is not done here. */
export class PackError extends Error {}

/** Something other was handed over than texts, pictures and options. */
export class InputError extends Error {}
