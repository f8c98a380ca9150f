/** Stages that were downloaded, in pieces, so that a download that was cut goes on where it was. In IndexedDB: the Cache
 * API and the origin's file system exist in secure contexts alone. Where the browser keeps nothing, as long as the page.
 */
export interface Store {
  /** How many bytes of the file are there, from its beginning on. */
  size(hash: string, path: string): Promise<number>;
  /** Rejects with NoRoom. */
  put(hash: string, path: string, offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** All pieces, in their order. */
  read(hash: string, path: string, piece: (offset: number, bytes: Uint8Array) => void): Promise<void>;
  /** What belongs to no stage but this one goes, or to this one alone. */
  keepOnly(hash: string): Promise<void>;
  drop(hash: string): Promise<void>;
}

/** The browser keeps no more of this site, or of any. */
export class NoRoom extends Error {
  constructor(reason: string) {
    super(`This browser does not keep the layers (${reason}): make room on the device, or give it fewer layers.`);
  }
}

const NAME = "smolcluster-tablet";
const PIECES = "pieces";
type Key = [hash: string, path: string, offset: number];

/** The browser's, or one in memory. */
export async function openStore(): Promise<Store> {
  try {
    return new Kept(await opened());
  } catch {
    return new Passing();
  }
}

export class Kept implements Store {
  constructor(private readonly base: IDBDatabase) {}

  async size(hash: string, path: string): Promise<number> {
    const keys = (await done(this.pieces().getAllKeys(range(hash, path)))) as Key[];
    const last = keys.at(-1);
    if (last === undefined) return 0;
    const bytes = (await done(this.pieces().get(last))) as Uint8Array;
    return last[2] + bytes.length;
  }

  async put(hash: string, path: string, offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const pieces = this.pieces("readwrite");
    pieces.put(bytes, [hash, path, offset] satisfies Key);
    await kept(pieces.transaction);
  }

  async read(hash: string, path: string, piece: (offset: number, bytes: Uint8Array) => void): Promise<void> {
    const keys = (await done(this.pieces().getAllKeys(range(hash, path)))) as Key[];
    // One by one: all at once would be the file twice.
    for (const key of keys) piece(key[2], (await done(this.pieces().get(key))) as Uint8Array);
  }

  async keepOnly(hash: string): Promise<void> {
    const keys = (await done(this.pieces().getAllKeys())) as Key[];
    for (const other of new Set(keys.map(([one]) => one))) if (other !== hash) await this.drop(other);
  }

  async drop(hash: string): Promise<void> {
    await done(this.pieces("readwrite").delete(IDBKeyRange.bound([hash], [hash, []])));
  }

  private pieces(mode: IDBTransactionMode = "readonly"): IDBObjectStore {
    return this.base.transaction(PIECES, mode).objectStore(PIECES);
  }
}

export class Passing implements Store {
  private readonly pieces = new Map<string, { offset: number; bytes: Uint8Array }[]>();

  async size(hash: string, path: string): Promise<number> {
    const last = this.of(hash, path).at(-1);
    return last === undefined ? 0 : last.offset + last.bytes.length;
  }

  async put(hash: string, path: string, offset: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.pieces.set(JSON.stringify([hash, path]), [...this.of(hash, path), { offset, bytes }]);
  }

  async read(hash: string, path: string, piece: (offset: number, bytes: Uint8Array) => void): Promise<void> {
    for (const { offset, bytes } of this.of(hash, path)) piece(offset, bytes);
  }

  async keepOnly(hash: string): Promise<void> {
    for (const key of this.pieces.keys()) if (hashIn(key) !== hash) this.pieces.delete(key);
  }

  async drop(hash: string): Promise<void> {
    for (const key of this.pieces.keys()) if (hashIn(key) === hash) this.pieces.delete(key);
  }

  private of(hash: string, path: string) {
    return this.pieces.get(JSON.stringify([hash, path])) ?? [];
  }
}

const hashIn = (key: string): string => (JSON.parse(key) as [string, string])[0];

// Arrays come after numbers in IndexedDB's order.
const range = (hash: string, path: string) => IDBKeyRange.bound([hash, path], [hash, path, []]);

function opened(): Promise<IDBDatabase> {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(PIECES);
  return done(request);
}

/** What was put is there: a browser may find out at the very end that it has no room. */
function kept(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(new NoRoom(transaction.error?.message || transaction.error?.name || "its storage failed"));
  });
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's storage failed"));
  });
}
