import { beforeEach, describe, expect, it } from "vitest";
import { asked, FIELDS, loadParams, parseField, saveParams } from "./params";
import { NO_PARAMS } from "./types";

const field = (name: string) => FIELDS.find((one) => one.name === name)!;

describe("parameters", () => {
  beforeEach(() => localStorage.clear());

  it("are numbers within their range, or nothing", () => {
    expect(parseField(field("temperature"), " 0.5 ")).toBe(0.5);
    expect(parseField(field("temperature"), "0,5")).toBe(0.5);
    expect(parseField(field("temperature"), "")).toBeNull();
    expect(parseField(field("seed"), "-7")).toBe(-7);
    for (const [name, text] of [["temperature", "2.1"], ["top_p", "-0.1"], ["top_k", "1.5"], ["max_tokens", "0"], ["seed", "x"]]) {
      expect(parseField(field(name!), text!)).toBeUndefined();
    }
  });

  it("are asked for where they were set and count", () => {
    expect(asked(NO_PARAMS)).toEqual({});
    const all = { max_tokens: 5, strategy: null, temperature: 0, top_p: 0.5, top_k: 3, seed: 0 };
    expect(asked(all)).toEqual({ max_tokens: 5, temperature: 0, top_p: 0.5, top_k: 3, seed: 0 });
    expect(asked({ ...all, strategy: "top_k" })).toEqual({ max_tokens: 5, strategy: "top_k", temperature: 0, top_k: 3, seed: 0 });
    expect(asked({ ...all, strategy: "greedy" })).toEqual({ max_tokens: 5, strategy: "greedy" });
  });

  it("are kept, and what is stored wrongly is left out", () => {
    const params = { ...NO_PARAMS, strategy: "top_p" as const, temperature: 0.3, seed: 1 };
    saveParams(localStorage, params);
    expect(loadParams(localStorage)).toEqual(params);
    localStorage.setItem("smolcluster.params", '{"temperature": 9, "top_k": "3", "strategy": "best", "seed": 2}');
    expect(loadParams(localStorage)).toEqual({ ...NO_PARAMS, seed: 2 });
    localStorage.setItem("smolcluster.params", "{");
    expect(loadParams(localStorage)).toEqual(NO_PARAMS);
  });
});
