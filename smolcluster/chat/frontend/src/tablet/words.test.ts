import { describe, expect, it } from "vitest";
import { browser, system } from "./device";
import { takeKey } from "./key";
import { keyIn } from "./KeyEntry";
import { Pace } from "./pace";
import { FIRST, noted } from "./view";
import { size } from "./words";

const KEY = "0f".repeat(32);

describe("the key", () => {
  it("leaves the address, and is found again after a reload", () => {
    const [storage, shown] = [new Map<string, string>(), [] as unknown[]];
    const kept = { getItem: (key: string) => storage.get(key) ?? null, setItem: (key: string, value: string) => void storage.set(key, value) } as Storage;
    const past = { replaceState: (...told: unknown[]) => shown.push(told[2]) } as unknown as History;
    const at = (hash: string) => ({ hash, pathname: "/tablet", search: "" }) as Location;
    expect(takeKey(at(`#key=${KEY}`), past, kept)).toBe(KEY);
    expect(shown).toEqual(["/tablet"]);
    expect(takeKey(at(""), past, kept)).toBe(KEY);
    expect(takeKey(at(""), past, null)).toBe("");
  });

  it("is found in what a person puts in", () => {
    expect(keyIn(KEY)).toBe(KEY);
    expect(keyIn(` ${KEY} `)).toBe(KEY);
    expect(keyIn(`http://192.168.1.10:8900/tablet#key=${KEY}`)).toBe(KEY);
    expect(keyIn("http://192.168.1.10:8900/tablet")).toBe("");
    expect(keyIn("a key")).toBe("");
  });
});

describe("a device", () => {
  it("is called what people call it", () => {
    const mac = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15";
    const android = "Mozilla/5.0 (Linux; Android 15; Pixel Tablet) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36";
    expect([system({ userAgent: mac, maxTouchPoints: 5 }), browser({ userAgent: mac })]).toEqual(["iPad", "Safari"]);
    expect(system({ userAgent: mac, maxTouchPoints: 0 })).toBe("Mac");
    expect([system({ userAgent: android, maxTouchPoints: 5 }), browser({ userAgent: android })]).toEqual(["Android tablet", "Chrome"]);
    expect(system({ userAgent: "", maxTouchPoints: 0 })).toBe("browser");
  });
});

describe("the figures", () => {
  it("are of the tokens that came one by one, without the pause between two answers", () => {
    const pace = new Pace();
    pace.add(0, 90, 7);
    expect([pace.perS, pace.msPerToken]).toEqual([null, null]);
    for (const at of [100, 150, 200]) pace.add(at, 10, 1);
    expect([pace.perS, pace.msPerToken]).toEqual([20, 10]);
    pace.add(9000, 30, 1);
    expect([pace.perS, pace.msPerToken]).toEqual([null, 30]);
  });

  it("are said with their units", () => {
    expect([0, 999, 154_245, 56_800_000, 1_900_000_000].map(size)).toEqual(["0 B", "999 B", "154 KB", "57 MB", "1.9 GB"]);
  });
});

describe("what happened", () => {
  it("is told once, newest first", () => {
    let view = FIRST;
    for (const text of ["one", "two", "two"]) view = noted(view, text);
    expect(view.events.map(({ text }) => text)).toEqual(["two", "one"]);
  });
});
