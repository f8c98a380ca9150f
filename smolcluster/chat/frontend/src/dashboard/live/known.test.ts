import { expect, it } from "vitest";
import type { Series } from "../api";
import { since, taken } from "./known";

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
