import { describe, expect, it } from "vitest";
import { layersOf, type Fetch, type Piece } from "./download";
import { same } from "./greeting";
import { Kind, ProtocolError } from "./messages";
import { Passing } from "./store";

const HASH = "2e".repeat(32);
const FILE = Uint8Array.from({ length: 1_000_000 }, (_, index) => (index * 7) % 251);
const listing = (change: object = {}) =>
  new TextEncoder().encode(JSON.stringify({ stage: { hash: HASH }, files: [{ path: "stage.onnx", size: FILE.length, sha256: "ab" }], ...change }));

/** A cluster that hands out these bytes, at most `most` at once, and breaks off after so many pieces. */
class Handing {
  asked: Fetch[] = [];
  constructor(readonly listed = listing(), readonly most = 1 << 20, public breaksAfter = Infinity, readonly size = FILE.length) {}

  ask = async (fetch: Fetch): Promise<Piece> => {
    this.asked.push(fetch);
    if (this.asked.length > this.breaksAfter) throw new Error("the connection was lost");
    const whole = fetch.path === "" ? this.listed : FILE;
    const bytes = whole.slice(fetch.offset, fetch.offset + Math.min(fetch.most, this.most));
    return { kind: Kind.PIECE, request: 1, offset: fetch.offset, size: fetch.path === "" ? whole.length : this.size, bytes };
  };
}

describe("a download", () => {
  it("is whole, told as it goes on, and not made twice", async () => {
    const [store, cluster, told] = [new Passing(), new Handing(), [] as number[]];
    const got = await layersOf(HASH, store, cluster.ask, (done) => told.push(done));
    expect(got.sha256).toBe("ab");
    expect(same(got.file, FILE)).toBe(true);
    expect(told).toEqual([0, 262144, 524288, 786432, 1_000_000]);
    expect(cluster.asked.length).toBe(5);
    expect(same((await layersOf(HASH, store, cluster.ask, () => undefined)).file, FILE)).toBe(true);
    expect(cluster.asked.length).toBe(5);
  });

  it("goes on where it broke off", async () => {
    const store = new Passing();
    await expect(layersOf(HASH, store, new Handing(listing(), 1 << 20, 3).ask, () => undefined)).rejects.toThrow("lost");
    const cluster = new Handing();
    expect(same((await layersOf(HASH, store, cluster.ask, () => undefined)).file, FILE)).toBe(true);
    expect(cluster.asked.map(({ path, offset }) => [path, offset])).toEqual([["stage.onnx", 524288], ["stage.onnx", 786432]]);
  });

  it("takes shorter pieces than it wanted", async () => {
    const cluster = new Handing(listing(), 100_000);
    expect(same((await layersOf(HASH, new Passing(), cluster.ask, () => undefined)).file, FILE)).toBe(true);
  });

  it("of another stage takes the place of the former one", async () => {
    const store = new Passing();
    await layersOf(HASH, store, new Handing().ask, () => undefined);
    const other = "3f".repeat(32);
    await layersOf(other, store, new Handing(listing({ stage: { hash: other } })).ask, () => undefined);
    expect(await store.size(HASH, "stage.onnx")).toBe(0);
    expect(await store.size(other, "stage.onnx")).toBe(FILE.length);
  });

  it("is refused when it is not what it is said to be", async () => {
    const refused = [
      new Handing(listing({ stage: { hash: "other" } })),
      new Handing(listing({ files: [] })),
      new Handing(listing({ files: [{ path: "stage.onnx", size: -1, sha256: "ab" }] })),
      new Handing(listing({ files: [{ path: "stage.onnx", size: 2 ** 40, sha256: "ab" }] })),
      new Handing(new TextEncoder().encode("no JSON")),
      new Handing(new Uint8Array((1 << 20) + 1)),
      new Handing(listing(), 0),
      new Handing(listing(), 1 << 20, Infinity, FILE.length + 1),
    ];
    for (const cluster of refused) await expect(layersOf(HASH, new Passing(), cluster.ask, () => undefined)).rejects.toThrow(ProtocolError);
  });
});
