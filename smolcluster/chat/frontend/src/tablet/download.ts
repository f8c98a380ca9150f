/** The layers of a stage: out of the store, or from the cluster over the connection, resumed where it broke off. */
import { Kind, ProtocolError, type Message } from "./messages";
import type { Store } from "./store";

const FORMAT = "onnx";
const FILE = "stage.onnx";
const MOST_LISTING = 1 << 20;
const PIECE_BYTES = 256 << 10;
// So many pieces are asked for before the first has come: a round trip costs no pause.
const AHEAD = 4;
// Of a buffer that WebAssembly takes.
const MOST_BYTES = 2 ** 31 - 1;

export type Piece = Extract<Message, { kind: typeof Kind.PIECE }>;
export type Fetch = Omit<Extract<Message, { kind: typeof Kind.FETCH }>, "kind" | "request">;

/** Asks for a piece; rejects when the connection ends. */
export type Ask = (fetch: Fetch) => Promise<Piece>;

export interface Layers {
  file: Uint8Array<ArrayBuffer>;
  /** Of the file, in hex. */
  sha256: string;
}

interface Entry {
  size: number;
  sha256: string;
}

/** The file of the stage `hash`. `tell`: how many bytes of how many are there. */
export async function layersOf(hash: string, store: Store, ask: Ask, tell: (done: number, of: number) => void): Promise<Layers> {
  const { size, sha256 } = await entry(hash, store, ask);
  await store.keepOnly(hash);
  let done = await store.size(hash, FILE);
  if (done > size) {
    await store.drop(hash);
    return layersOf(hash, store, ask, tell);
  }
  tell(done, size);
  const asked: Promise<Piece>[] = [];
  let next = done;
  while (done < size) {
    for (; asked.length < AHEAD && next < size; next += PIECE_BYTES) {
      const piece = ask({ format: FORMAT, path: FILE, offset: next, most: Math.min(PIECE_BYTES, size - next) });
      piece.catch(() => undefined); // the first that fails is told, and all fail together
      asked.push(piece);
    }
    const piece = await asked.shift()!;
    const wanted = Math.min(PIECE_BYTES, size - done);
    if (piece.offset !== done || piece.size !== size || piece.bytes.length === 0 || piece.bytes.length > wanted)
      throw new ProtocolError(`${piece.bytes.length} bytes at ${piece.offset} came where another piece was asked for`);
    if (piece.bytes.length < wanted) {
      // It may; what was asked for beyond it does not fit any more.
      asked.length = 0;
      next = done + piece.bytes.length;
    }
    await store.put(hash, FILE, done, piece.bytes as Uint8Array<ArrayBuffer>);
    done += piece.bytes.length;
    tell(done, size);
  }
  const file = new Uint8Array(size);
  await store.read(hash, FILE, (offset, bytes) => file.set(bytes, offset));
  return { file, sha256 };
}

/** What the listing says of the file; the listing itself is kept too, so that a reload downloads nothing. */
async function entry(hash: string, store: Store, ask: Ask): Promise<Entry> {
  let text = new Uint8Array(await store.size(hash, ""));
  await store.read(hash, "", (offset, bytes) => text.set(bytes, offset));
  if (text.length === 0) {
    text = await listing(ask);
    const found = read(text, hash);
    await store.put(hash, "", 0, text);
    return found;
  }
  return read(text, hash);
}

async function listing(ask: Ask): Promise<Uint8Array<ArrayBuffer>> {
  let text = new Uint8Array(0);
  for (;;) {
    const { size, bytes, offset } = await ask({ format: FORMAT, path: "", offset: text.length, most: PIECE_BYTES });
    if (size > MOST_LISTING || offset !== text.length || (bytes.length === 0 && text.length < size))
      throw new ProtocolError(`a listing of ${size} bytes`);
    const longer = new Uint8Array(text.length + bytes.length);
    longer.set(text);
    longer.set(bytes, text.length);
    text = longer;
    if (text.length >= size) return text;
  }
}

function read(text: Uint8Array, hash: string): Entry {
  let listed: { files?: { path?: unknown; size?: unknown; sha256?: unknown }[]; stage?: { hash?: unknown } } | null;
  try {
    listed = JSON.parse(new TextDecoder().decode(text)) as typeof listed;
  } catch {
    throw new ProtocolError("a listing that is no JSON");
  }
  if (listed?.stage?.hash !== hash) throw new ProtocolError("the listing of another stage");
  const file = Array.isArray(listed.files) ? listed.files.find(({ path }) => path === FILE) : undefined;
  const { size, sha256 } = file ?? {};
  if (typeof size !== "number" || !Number.isInteger(size) || size <= 0 || typeof sha256 !== "string")
    throw new ProtocolError(`a listing without ${FILE}`);
  if (size > MOST_BYTES) throw new ProtocolError(`layers of ${size} bytes, which no browser holds: give this tablet fewer layers`);
  return { size, sha256 };
}
