import { expect, it } from "vitest";
import { FIRST, readView, viewHash, type View } from "./view";

it("comes back from the address as it was", () => {
  const view: View = {
    tab: "logs", node: "pi 5&é", level: "WARNING", find: "a=b#c", follow: false, smooth: 0.4, log: true, zoom: [12.5, 400],
    hidden: ["mini1", "waiting for others"],
  };
  expect(readView(viewHash(view))).toEqual(view);
  expect(viewHash(FIRST)).toBe("#");
  expect(readView("")).toEqual(FIRST);
});

it("leaves out what an address says wrongly", () => {
  expect(readView("#view=nothing&level=LOUD&smooth=7&steps=9-2&scale=x&follow=")).toEqual(FIRST);
  expect(readView("#steps=a-b&smooth=-1").zoom).toBeNull();
});
