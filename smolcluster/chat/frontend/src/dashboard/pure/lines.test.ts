import { describe, expect, it } from "vitest";
import { appended, lineAt, pieces, prepended, rowsOf, shown, tops, type Page } from "./lines";

const page = (from: number, to: number): Page<{ id: string }> => ({
  before: `b${from}`,
  after: `a${to}`,
  lines: Array.from({ length: to - from }, (_, index) => ({ id: String(from + index) })),
});
const ids = (pages: readonly Page<{ id: string }>[]) => pages.flatMap((one) => one.lines.map((line) => Number(line.id)));

describe("the window of lines", () => {
  it("grows at both ends, and keeps the cursors of its ends", () => {
    let pages = appended([], page(400, 800));
    pages = appended(pages, page(800, 803));
    pages = appended(pages, page(803, 805));
    pages = prepended(pages, page(100, 400));
    expect(ids(pages)).toEqual(Array.from({ length: 705 }, (_, index) => index + 100));
    expect([pages[0]?.before, pages.at(-1)?.after]).toEqual(["b100", "a805"]);
  });
  it("puts few lines together, so that whole pages can be forgotten", () => {
    let pages = appended([], page(0, 1));
    for (let at = 1; at < 600; at += 1) pages = appended(pages, page(at, at + 1));
    expect(pages.map((one) => one.lines.length)).toEqual([250, 250, 100]);
    pages = appended(pages, page(600, 601), 400);
    expect(ids(pages)[0]).toBe(250);
    expect(pages[0]?.before).toBe("b250");
  });
  it("forgets the newest while somebody reads further up", () => {
    const pages = prepended([page(10, 20), page(20, 30)], page(0, 10), 20);
    expect(ids(pages)).toEqual(Array.from({ length: 20 }, (_, index) => index));
    expect(pages.at(-1)?.after).toBe("a20");
  });
  it("takes a page that comes twice once, and goes on from an empty one", () => {
    const pages = appended([page(0, 5)], page(3, 8));
    expect(ids(pages)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(appended(pages, { before: "x", after: "a9", lines: [] }).at(-1)?.after).toBe("a9");
    expect(prepended(pages, { before: "b-1", after: "x", lines: [] })[0]?.before).toBe("b-1");
  });
});

describe("rows", () => {
  it("count letters, wide ones twice", () => {
    expect([rowsOf("", 10), rowsOf("a".repeat(10), 10), rowsOf("a".repeat(11), 10)]).toEqual([1, 1, 2]);
    expect([rowsOf("字".repeat(5), 10), rowsOf("字".repeat(6), 10), rowsOf(`a${"字".repeat(5)}`, 10)]).toEqual([1, 2, 2]);
    expect(rowsOf("anything", 0)).toBe(1);
  });
  it("tell which lines are in sight", () => {
    const starts = tops(["a", "b".repeat(25), "c", "d"], 10);
    expect(starts).toEqual([0, 1, 4, 5, 6]);
    expect([0, 1, 3, 4, 99].map((row) => lineAt(starts, row))).toEqual([0, 1, 1, 2, 3]);
    expect(shown(starts, 4, 1, 0)).toEqual([2, 4]);
    expect(shown([0], 0, 20)).toEqual([0, 0]);
  });
});

describe("what was looked for", () => {
  it("is every second piece", () => {
    expect(pieces("Loss 1, loss 2", "LOSS")).toEqual(["", "Loss", " 1, ", "loss", " 2"]);
    expect(pieces("nothing", "")).toEqual(["nothing"]);
    expect(pieces("aaa", "aa")).toEqual(["", "aa", "a"]);
  });
  it("is not marked at a wrong place", () => {
    expect(pieces("İİ lost", "lost").join("")).toBe("İİ lost");
  });
});
