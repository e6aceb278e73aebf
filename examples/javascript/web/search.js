// The page's search: a handful of pictures, embedded when they are chosen, in the order of how near they are to a text.

import { similarity } from "../lib/embedder.js";

const at = (id) => document.getElementById(id);

let pictures = []; // { name, url, vector } of each
let choice = 0; // which choice of files is the last: an older one that is still at work gives up

/** Offers the search where texts and pictures are embedded into one space. */
export function offerSearch(embedder) {
  const { texts, images, embeddings } = embedder.pack.rules;
  if (!texts?.tokenizer || !images?.steps) return;
  if (!embedder.embeds({ texts: true }) || !embedder.embeds({ images: true })) return;
  at("search-section").hidden = false;
  at("pictures").addEventListener("change", () => choose(embedder, [...at("pictures").files]));
  at("search-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = at("query").value.trim();
    if (!query) return say("Type what to look for first.");
    try {
      const begun = performance.now();
      const wanted = await embedder.embed(query);
      const found = pictures.map((picture) => ({ ...picture, near: similarity(wanted, picture.vector, embeddings) }));
      show(found.sort((a, b) => b.near - a.near));
      say(`The nearest to “${query}” first (${Math.round(performance.now() - begun)} ms)`);
    } catch (error) {
      say(error.message, "fail");
    }
    document.body.dataset.searched = String(Number(document.body.dataset.searched ?? 0) + 1);
  });
}

/** Embeds the files that were chosen, one after another; what cannot be read is named and left out. */
async function choose(embedder, files) {
  const mine = ++choice;
  const button = at("search-form").querySelector("button");
  button.disabled = true;
  pictures.forEach(({ url }) => URL.revokeObjectURL(url));
  pictures = [];
  show(pictures);
  const unread = [];
  for (const [i, file] of files.entries()) {
    say(`Reading picture ${i + 1} of ${files.length}`);
    try {
      const [vector] = await embedder.embed({ images: [new Uint8Array(await file.arrayBuffer())] });
      if (mine !== choice) return;
      pictures.push({ name: file.name, url: URL.createObjectURL(file), vector });
      show(pictures);
    } catch (error) {
      if (mine !== choice) return;
      unread.push(`${file.name}: ${error.message}`);
    }
  }
  button.disabled = !pictures.length;
  const ready = `${pictures.length} ${pictures.length === 1 ? "picture" : "pictures"} to search`;
  say([ready, ...unread].join(". Left out: "), unread.length ? "fail" : "quiet");
  at("search-section").dataset.ready = String(pictures.length);
}

function say(text, kind = "quiet") {
  at("found").textContent = text;
  at("found").className = kind;
}

/** Shows pictures in their order; how near each is stands below, where that is known. */
function show(listed) {
  at("gallery").replaceChildren(
    ...listed.map(({ name, url, near }) => {
      const item = document.createElement("li");
      const caption = Object.assign(document.createElement("span"), { className: "name", textContent: name, title: name });
      item.append(Object.assign(document.createElement("img"), { src: url, alt: name }), caption);
      if (near !== undefined)
        item.append(Object.assign(document.createElement("span"), { className: "number", textContent: near.toFixed(4) }));
      return item;
    }),
  );
}
