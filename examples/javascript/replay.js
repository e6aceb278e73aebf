#!/usr/bin/env node
// node replay.js DIR: are these the artifacts that were proved, and do they compute here what they should?

import { PackError } from "./lib/pack.js";
import { replay, summary } from "./lib/replay.js";
import { open } from "./node.js";

const [directory] = process.argv.slice(2);
if (!directory) {
  console.error("usage: node replay.js DIR");
  process.exit(2);
}
try {
  const result = await replay(await open(directory), (line) => console.log(`  ${line}`));
  for (const difference of result.differences) console.error(`difference: ${difference}`);
  for (const sample of result.left) console.log(`  left out: ${sample}`);
  console.log(summary(result));
  process.exitCode = result.differences.length ? 1 : 0;
} catch (error) {
  const known = error instanceof PackError;
  console.error(`error: ${known ? error.message : `${directory} is not as docs/pack.md describes it: ${error.message}`}`);
  if (process.env.DEBUG) console.error(error.stack);
  process.exitCode = 1;
}
