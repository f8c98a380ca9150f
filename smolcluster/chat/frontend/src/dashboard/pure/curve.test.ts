import { describe, expect, it } from "vitest";
import { aligned, extended, from, smoothed, stacked } from "./curve";
import { nearest, stepAt, toneOf } from "./marks";

describe("increments", () => {
  const known = { at: [1, 2, 3, 4], values: [10, 20, 30, 40] };
  it("come after what is known", () => {
    expect(extended(known, { at: [5, 6], values: [50, 60] })).toEqual({ at: [1, 2, 3, 4, 5, 6], values: [10, 20, 30, 40, 50, 60] });
    expect(extended(known, { at: [], values: [] })).toBe(known);
  });
  it("take the place of steps that are taken again", () => {
    expect(extended(known, { at: [3, 4], values: [33, 44] })).toEqual({ at: [1, 2, 3, 4], values: [10, 20, 33, 44] });
    expect(extended(known, { at: [0], values: [5] })).toEqual({ at: [0], values: [5] });
  });
  it("are found by halving", () => {
    expect([0, 1, 2.5, 4, 9].map((value) => from([1, 2, 3, 4], value))).toEqual([0, 0, 2, 3, 4]);
  });
});

describe("smoothing", () => {
  it("leaves all as it is at 0, and a constant at any weight", () => {
    expect(smoothed([1, null, 3], 0)).toEqual([1, null, 3]);
    smoothed([4, 4, 4], 0.9).forEach((value) => expect(value).toBeCloseTo(4, 12));
  });
  it("begins at the first value, and steps over gaps", () => {
    const [first, gap, third] = smoothed([10, null, 0], 0.5);
    expect(first).toBe(10);
    expect(gap).toBeNull();
    expect(third).toBeCloseTo((10 * 0.25) / 0.75, 12);
    expect(smoothed([NaN, 2], 0.5)).toEqual([null, 2]);
  });
});

describe("several lines", () => {
  const one = { at: [1, 2, 4], values: [1, 2, 4] };
  const other = { at: [2, 3], values: [20, 30] };
  it("share an axis", () => {
    expect(aligned([one, other])).toEqual({ at: [1, 2, 3, 4], rows: [[1, 2, null, 4], [null, 20, 30, null]] });
    expect(aligned([])).toEqual({ at: [], rows: [] });
  });
  it("are put on top of each other, gaps as the value before them", () => {
    expect(stacked([[1, 2, null, 4], [null, 20, 30, null]])).toEqual([[1, 2, 2, 4], [21, 22, 32, 34]]);
  });
});

describe("marks", () => {
  it("stand at the step that was under way", () => {
    expect([99, 100, 100.5, 102, 500].map((time) => stepAt(time, [100, 101, 102], [7, 8, 9]))).toEqual([7, 7, 8, 9, 9]);
    expect(stepAt(1, [], [])).toBeNull();
  });
  it("are found near a place", () => {
    const marks = [{ step: 10, tone: "bad" as const, text: "lost" }, { step: 14, tone: "good" as const, text: "here" }];
    expect(nearest(marks, 13, [0, 200])?.text).toBe("here");
    expect(nearest(marks, 100, [0, 200])).toBeNull();
  });
  it("have a tone for kinds that a newer server may send", () => {
    expect([toneOf("leave"), toneOf("straggler"), toneOf("checkpoint"), toneOf("never heard of")]).toEqual(["bad", "warn", "good", "quiet"]);
  });
});
