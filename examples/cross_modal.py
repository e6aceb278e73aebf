"""From three checkpoints to one store in which texts, pictures and sounds find each other.

    python examples/cross_modal.py FOLDER STORE --texts CKPT --pictures CKPT --sounds CKPT [--work DIR]

FOLDER holds files: .txt with a text a line, pictures, and .wav. `--texts` is a sentence encoder (all-MiniLM-L6-v2),
`--pictures` a network of both towers (CLIP, SigLIP), `--sounds` Whisper; each a checkpoint's folder, which is converted
and proved below `--work`, or a run directory that was made before. Then, in the order of this file:

1. what each network embeds goes into its table: `text`, `clip`, `audio`;
2. a sound is found by other sounds through Whisper's encoder, and by words through what Whisper hears in it;
3. a few of the files are asked for, each in the ways in which it can be found.

Needs bgevis-convert[onnx,embed,parquet], and [upstream] where checkpoints are converted.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from bgevis.converter import Artifacts, EmbeddingStore, open_artifacts

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NEAREST = 3


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("store", type=Path)
    for name in ("texts", "pictures", "sounds"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("cross_modal"))
    return parser.parse_args()


def opened(checkpoint: Path, work: Path) -> Artifacts:
    """Open a run directory, or convert and prove a checkpoint first; a run that was begun is gone on with."""
    if not (checkpoint / "manifest.json").exists():
        command = [sys.executable, "-m", "bgevis.converter", "all", str(checkpoint), "--out", str(work)]
        subprocess.run([*command, "--format", "onnx"], check=True)
        checkpoint = work
    return open_artifacts(checkpoint)


class CrossModal:
    """Three networks and the store of what they embed.

    Args:
        store: of the embeddings.
        texts: embeds texts.
        pictures: embeds pictures, and texts into the same space.
        sounds: embeds sounds, and writes what is said in them.
    """

    def __init__(self, store: EmbeddingStore, texts: Artifacts, pictures: Artifacts, sounds: Artifacts):
        self.store, self.texts, self.pictures, self.sounds = store, texts, pictures, sounds

    def fill(self, texts: list[str], pictures: list[str], sounds: list[str]) -> None:
        """Embed what is not there yet; `part` makes a second run of the same files add nothing."""
        if "texts" not in self.store.parts("text"):
            self.store.add(self.texts, texts, part="texts")
        if "texts" not in self.store.parts("clip"):
            self.store.add(self.pictures, texts, part="texts")
        if "pictures" not in self.store.parts("clip"):
            self.store.add(self.pictures, images=pictures, part="pictures")
        if "sounds" not in self.store.parts("audio"):
            self.store.add(self.sounds, audio=sounds, part="sounds")
        if "heard" not in self.store.parts("text"):
            heard = [str(said) or "(silence)" for said in self.sounds.transcribe(sounds)]
            self.store.add(self.texts, heard, ids=sounds, metadata=[{"audio": sound} for sound in sounds], part="heard")

    def by_text(self, text: str) -> None:
        """Ask for a text: what is written or said like it, and what is seen."""
        print(f"\nnear the text {text!r}")
        vector = self.texts.embed(text)
        self._tell("written or said", "text", vector)
        self._tell("seen", "clip", self.pictures.embed(text), modality="image")

    def by_picture(self, picture: str) -> None:
        """Ask for a picture: what looks like it, and what describes it."""
        print(f"\nnear the picture {picture}")
        vector = self.pictures.embed(images=picture)
        self._tell("seen", "clip", vector, modality="image")
        self._tell("written", "clip", vector, modality="text")

    def by_sound(self, sound: str) -> None:
        """Ask for a sound: what sounds like it; by what is said in it, texts and pictures."""
        heard = str(self.sounds.transcribe(sound)) or "(silence)"
        print(f"\nnear the sound {sound}, in which is said {heard!r}")
        self._tell("heard", "audio", self.sounds.embed(audio=sound))
        self._tell("written or said", "text", self.texts.embed(heard))
        self._tell("seen", "clip", self.pictures.embed(heard), modality="image")

    def _tell(self, how: str, table: str, vector, **where) -> None:
        (found,) = self.store.search(table, vector, NEAREST, **where)
        for row in found:
            shown = row.metadata.get("audio") or row.metadata.get("image") or row.metadata.get("text")
            print(f"  {how:16} {row.similarity:+.3f}  {shown}")


def main() -> None:
    """Run the example."""
    given = arguments()
    files = sorted(path for path in given.folder.iterdir() if path.is_file())
    texts = [line for path in files if path.suffix == ".txt" for line in path.read_text("utf-8").splitlines() if line]
    pictures = [str(path) for path in files if path.suffix.lower() in PICTURES]
    sounds = [str(path) for path in files if path.suffix.lower() == ".wav"]
    if not (texts and pictures and sounds):
        sys.exit(f"{given.folder} needs texts (.txt), pictures ({', '.join(PICTURES)}) and sounds (.wav)")
    networks = [opened(getattr(given, name), given.work / name) for name in ("texts", "pictures", "sounds")]
    both = CrossModal(EmbeddingStore.create(given.store), *networks)
    both.fill(list(dict.fromkeys(texts)), pictures, sounds)
    print(both.store)
    for table, held in both.store.statistics()["tables"].items():
        print(f"  {table:6} {held['rows']:5} rows of {', '.join(held['models'])}")
    both.by_text(texts[0])
    both.by_picture(pictures[0])
    both.by_sound(sounds[0])


if __name__ == "__main__":
    main()
