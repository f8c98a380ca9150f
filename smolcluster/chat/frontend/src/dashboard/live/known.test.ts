import { expect, it } from "vitest";
import type { Series } from "../api";
import { ALL, asked, closer, complete, since, taken } from "./known";

const answer = (steps: number[], generation = 0, label = "mini1"): Series => ({
  name: "loss", unit: "", by: "node", generation, last_step: steps.at(-1) ?? 0,
  lines: steps.length > 0 ? [{ label, node: label, rank: null, peer: null, steps, values: steps.map((step) => step * 2), times: steps.map((step) => step + 100) }] : [],
});

it("goes on from the last step", () => {
  const first = taken(undefined, answer([1, 2, 3]), 0);
  expect(since(first, 0, 600)).toBe(3);
  const more = taken(first, answer([4, 5]), 3);
  expect(more.lines).toEqual([
    { label: "mini1", node: "mini1", curve: { at: [1, 2, 3, 4, 5], values: [2, 4, 6, 8, 10] }, times: [101, 102, 103, 104, 105] },
  ]);
  expect(taken(more, answer([]), 5).lines).toEqual(more.lines);
});

it("takes a machine that joins later", () => {
  const both = taken(taken(undefined, answer([1, 2]), 0), answer([3], 0, "pi5"), 2);
  expect(both.lines.map((line) => [line.label, line.curve.at])).toEqual([["mini1", [1, 2]], ["pi5", [3]]]);
});

it("begins anew with another generation, and where there came too many", () => {
  const first = taken(undefined, answer([1, 2, 3]), 0);
  expect(since(first, 1, 600)).toBe(0);
  expect(taken(first, answer([1], 1), 0).lines[0]?.curve.at).toEqual([1]);
  // The backend was started again in between, and says so only in its answer.
  expect(taken(first, answer([2], 1), 3).lines[0]?.curve.at).toEqual([2]);
  expect(since(first, 0, 0.5)).toBe(0);
  expect(since(undefined, 0, 600)).toBe(0);
});

it("asks for the steps in a stretch, and for no more than a number can be", () => {
  expect(asked(null)).toEqual(ALL);
  expect(asked([10.5, 20.5])).toEqual([10, 20]);
  expect(asked([10, 20])).toEqual([9, 20]);
  expect(asked([-5, 0.5])).toEqual([0, 0]);
  expect(asked([-5, 1e300])).toEqual([0, Number.MAX_SAFE_INTEGER]);
});

it("goes on with a stretch until it is whole", () => {
  const stretch = [99, 104] as const;
  const first = taken(undefined, answer([100, 102]), 99, 99);
  expect(complete(undefined, 0, stretch)).toBe(false);
  expect(complete(first, 0, stretch)).toBe(false);
  expect(since(first, 0, 600, 99)).toBe(102);
  const more = taken(first, answer([103, 104]), 102, 99);
  expect(more.lines[0]?.curve.at).toEqual([100, 102, 103, 104]);
  expect(complete(more, 0, stretch)).toBe(true);
  expect(complete(more, 0, ALL)).toBe(false);
  // Set back to a checkpoint, it takes these steps again.
  expect(complete(more, 1, stretch)).toBe(false);
  expect(since(more, 1, 600, 99)).toBe(99);
  expect(taken(more, answer([101]), 99, 99).lines[0]?.curve.at).toEqual([101]);
});

it("has a stretch more closely, and the rest as it was", () => {
  const whole = taken(undefined, answer([10, 20, 30, 40]), 0).lines;
  const found = closer(whole, taken(undefined, answer([15, 19, 22, 25]), 14, 14).lines)[0]!;
  expect(found.curve).toEqual({ at: [10, 15, 19, 22, 25, 30, 40], values: [20, 30, 38, 44, 50, 60, 80] });
  expect(found.times).toEqual([110, 115, 119, 122, 125, 130, 140]);
  expect(closer(whole, taken(undefined, answer([]), 14, 14).lines)).toEqual(whole);
  expect(closer(whole, taken(undefined, answer([15], 0, "pi5"), 14, 14).lines)).toEqual(whole);
});
