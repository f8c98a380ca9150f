import { describe, expect, it } from "vitest";
import { between, heightFor, LABEL, labels, NODE, places, pulse_s, thickness, type Box, type Shape } from "./layout";

const overlap = (a: Box, b: Box) => Math.abs(a.x - b.x) < (a.width + b.width) / 2 && Math.abs(a.y - b.y) < (a.height + b.height) / 2;

describe.each([312, 700])("a picture %i wide", (width) => {
  it.each(["MESH", "STAR", "CHAIN"] as Shape[])("of a %s has all nodes inside and none on another", (shape) => {
    for (let count = 1; count <= 7; count += 1) {
      const size = { width, height: heightFor(count, width, shape) };
      const boxes = places(count, size, shape).map((place) => ({ ...place, ...NODE }));
      expect(boxes).toHaveLength(count);
      boxes.forEach((box, index) => {
        expect(box.x - box.width / 2).toBeGreaterThanOrEqual(0);
        expect(box.x + box.width / 2).toBeLessThanOrEqual(width);
        expect(box.y - box.height / 2).toBeGreaterThanOrEqual(0);
        expect(box.y + box.height / 2).toBeLessThanOrEqual(size.height);
        for (const other of boxes.slice(0, index)) expect(overlap(box, other), `${count}`).toBe(false);
      });
    }
  });
  it("of three has labels on no node and on no other label", () => {
    const size = { width, height: heightFor(3, width, "MESH") };
    const at = places(3, size, "MESH");
    const lines = [[0, 1], [0, 2], [1, 2]].map(([a, b]) => between(at[a!]!, at[b!]!));
    const boxes = labels(lines, at, size).map((place) => ({ ...place, ...LABEL }));
    const all = [...at.map((place) => ({ ...place, ...NODE })), ...boxes];
    all.forEach((box, index) => all.slice(0, index).forEach((other) => expect(overlap(box, other)).toBe(false)));
  });
});

it("is nothing of nobody", () => {
  expect(places(0, { width: 300, height: 100 }, "MESH")).toEqual([]);
});

it("draws lines from edge to edge", () => {
  const [a, b] = between({ x: 100, y: 100 }, { x: 400, y: 100 });
  expect([a, b]).toEqual([{ x: 100 + NODE.width / 2, y: 100 }, { x: 400 - NODE.width / 2, y: 100 }]);
});

it("makes what carries more thicker and faster, within limits", () => {
  expect([null, 0, 1e6].map(thickness)).toEqual([1.5, 1.5, 7]);
  expect(thickness(1000)).toBeGreaterThan(thickness(100));
  expect(pulse_s(1000)).toBeLessThan(pulse_s(10));
  expect(pulse_s(1e9)).toBe(0.4);
});
