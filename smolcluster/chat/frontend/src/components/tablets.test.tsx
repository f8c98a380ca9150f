import { act } from "react";
import { createRoot, type Root } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Stage, Stages, Tablet } from "../api/types";
import { doing } from "../state/words";
import { Tablets } from "./Tablets";

const STAGE: Stage = { rank: 1, node: "ipad", layers: [4, 8], ms_per_token: null, health: "lost", tablet: "browser", connection: "waiting" };
const NOW: Stages = { state: "starting", reason: "", epoch: 0, tokens_per_s: 0, stages: [STAGE], events: [] };
const URL = "http://192.168.1.7:8000/tablet#run=r&key=00ff";
const WAITING: Tablet = {
  node: "ipad", app: "browser", layers: "4:8", state: "waiting", left_s: 117.2, came: false, reason: "", device: "",
  url: URL, qr_svg: '<svg viewBox="0 0 9 9"><path d="M0 0"/></svg>',
};
const HERE: Tablet = { ...WAITING, state: "connected", left_s: null, device: "iPad14,3", url: null, qr_svg: null };

let told: Tablet[] | null;
let asked: string[];
let root: Root;
let place: HTMLElement;

beforeEach(() => {
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
  asked = [];
  vi.stubGlobal("fetch", (path: string) => {
    asked.push(path);
    return told === null ? Promise.reject(new TypeError()) : Promise.resolve(Response.json({ tablets: told }));
  });
  place = document.createElement("div");
  root = createRoot(place);
});
afterEach(() => {
  act(() => root.unmount());
  vi.unstubAllGlobals();
});

async function shown(tablets: Tablet[] | null, stages: Stages | null = { ...NOW }): Promise<string> {
  told = tablets;
  await act(async () => root.render(<Tablets stages={stages} />));
  return place.textContent ?? "";
}

it("shows the link and the code of a browser that is waited for", async () => {
  const text = await shown([WAITING]);
  expect(asked).toEqual(["/api/tablets"]);
  expect(place.querySelector("h3")!.textContent).toBe("Open this on ipad");
  expect(text).toContain("It is to compute layers 4:8 and is waited for 118 s more.");
  expect(place.querySelector("a")!.getAttribute("href")).toBe(URL);
  expect(place.querySelector(".qr")!.getAttribute("aria-label")).toBe("QR code of the link for ipad");
  expect(place.querySelector(".qr svg path")).not.toBeNull();
});

it("says of an app that it is to be started, by its own link, and why it has gone", async () => {
  const url = "smolcluster://172.20.10.3:8000/#run=r&key=00ff";
  const text = await shown([{ ...WAITING, app: "native", url, qr_svg: null, left_s: null, came: true, reason: "it fell asleep" }]);
  expect(place.querySelector("h3")!.textContent).toBe("Start the app on ipad");
  expect(text).toContain("was here before, and is waited for as long as the run lasts: it fell asleep.");
  expect(place.querySelector("a")!.getAttribute("href")).toBe(url);
  expect(place.querySelector(".qr")).toBeNull();
});

it("shows nothing once it has come, nor where nobody can say", async () => {
  expect(await shown([WAITING])).toContain(URL);
  expect(await shown([HERE])).toBe("");
  expect(await shown([WAITING])).toContain(URL);
  expect(await shown(null)).toBe("");
});

it("asks nothing where all stages are computers", async () => {
  expect(await shown([WAITING], { ...NOW, stages: [{ ...STAGE, tablet: "", connection: "" }] })).toBe("");
  expect(await shown([WAITING], null)).toBe("");
  expect(asked).toEqual([]);
});

it.each([
  [{}, "waited for"],
  [{ connection: "loading" }, "loads its layers"],
  [{ connection: "connected", health: "serving" }, "connected"],
  [{ connection: "connected", health: "recovering" }, "recovering"],
  [{ connection: "", tablet: "" }, "lost"],
] as const)("%o is %s", (how, words) => expect(doing({ ...STAGE, ...how })).toBe(words));
