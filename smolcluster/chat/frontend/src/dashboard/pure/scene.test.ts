import { expect, it } from "vitest";
import type { NodeNow, Run, State } from "../api";
import { linksOf, nodesOf, remarksOf, spoken, type Remark } from "./scene";

const node = (name: string, more: Partial<NodeNow> = {}): NodeNow => ({ node: name, state: "running", ...more }) as NodeNow;
const run = {
  run_id: "r", kind: "training", counts: "tokens", nodes: [{ name: "mini1", kind: "macos" }, { name: "pi5", kind: "linux" }],
  ranks: [{ rank: 0, node: "mini1", role: "worker", device: "mps", share: 0.75 }, { rank: 1, node: "pi5", role: "worker", device: "cpu", share: 0.25 }],
  links: [{ src: "mini1", dst: "pi5", address: "10.0.0.2", networks: ["pis"], medium: "ethernet", speed_mbps: 1000, gateways: ["mini2"], encrypted: true }],
} as unknown as Run;
const state = (nodes: NodeNow[], more: Partial<State> = {}): State =>
  ({ cursor: "", time: 0, state: "running", over: false, nodes, links: [], ...more }) as State;

it("has the machines of the plan before anything is heard of them", () => {
  expect(nodesOf(run, null)).toEqual([
    { name: "mini1", tone: "quiet", word: "no word yet", device: "macos · mps", part: "75 % of the batch" },
    { name: "pi5", tone: "quiet", word: "no word yet", device: "linux · cpu", part: "25 % of the batch" },
  ]);
});

it("marks who is lost, slow or hot, with the reason in words", () => {
  const now = state([
    node("mini1", { state: "lost", reason: "killed by signal 9" }),
    node("pi5", { throttled: "soft temperature limit", temperature_c: 84.2, remark: "slowest", why: "pi5 is the slowest: it computes 2.0 times as long" }),
  ], { slowest: { node: "pi5", why: "pi5 is the slowest: it computes 2.0 times as long" } });
  expect(nodesOf(run, now).map(({ tone, word }) => [tone, word])).toEqual([["bad", "lost"], ["warn", "throttled 84 °C"]]);
  expect(remarksOf(run, now).map((remark) => `${remark.tone} ${remark.text}`)).toEqual([
    "bad mini1 was lost: killed by signal 9.",
    "warn pi5 is slowed down by its own system (soft temperature limit, 84 °C): look at its cooling and its power supply.",
    "warn pi5 is the slowest: it computes 2.0 times as long.",
  ]);
  expect(remarksOf(run, state([node("mini1"), node("pi5")]))).toEqual([]);
});

it("has planned wires, what was measured on them in both directions, and which are down", () => {
  const measured = { step: 1, time: 0, buffered_bytes: 0 };
  const now = state([node("mini1"), node("pi5")], {
    links: [
      { ...measured, src: 0, dst: 1, src_node: "mini1", dst_node: "pi5", mbps: 100, rtt_ms: 0.5, slow: false },
      { ...measured, src: 1, dst: 0, src_node: "pi5", dst_node: "mini1", mbps: 40, rtt_ms: 0.9, slow: true },
    ],
  });
  expect(linksOf(run, now)).toEqual([
    { a: "mini1", b: "pi5", mbps: 100, there: 100, back: 40, rtt_ms: 0.9, slow: true, down: false, wire: "pis, ethernet", gateways: ["mini2"], claimed_mbps: 1000, encrypted: true },
  ]);
  expect(linksOf(run, null)[0]).toMatchObject({ mbps: null, rtt_ms: null, down: false });
  expect(linksOf(run, state([node("mini1", { state: "lost" }), node("pi5")]))[0]?.down).toBe(true);
});

it("says once whose failing ended the run, and says it first", () => {
  const nodes = [
    node("mini1", { state: "failed", reason: "rank 0: rank 1 was lost" }),
    node("pi5", { state: "lost", reason: "its supervisor ended without a word" }),
  ];
  const told = (reason: string) => remarksOf(run, state(nodes, { state: "failed", over: true, reason })).map((remark) => remark.text);
  const both = ["pi5 was lost: its supervisor ended without a word.", "mini1 failed: rank 0: rank 1 was lost."];
  expect(told("pi5: its supervisor ended without a word")).toEqual(both);
  // Of what is said of the run alone nothing is left out.
  expect(told("the loss is not finite")).toEqual(["the loss is not finite.", both[1], both[0]]);
});

it("says aloud what is new, and not what has only other figures", () => {
  const remark = (key: string, text: string): Remark => ({ key, tone: "warn", node: null, text });
  const first = spoken(new Map(), [remark("slow pi5", "pi5 has taken no step for 12 s.")]);
  expect([...first.values()]).toEqual(["pi5 has taken no step for 12 s."]);
  expect(spoken(first, [remark("slow pi5", "pi5 has taken no step for 1,013.5 s.")])).toBe(first);
  const both = spoken(first, [remark("lost mini2", "mini2 was lost."), remark("slow pi5", "pi5 has taken no step for 15 s.")]);
  expect([...both.values()]).toEqual(["mini2 was lost.", "pi5 has taken no step for 12 s."]);
  const other = spoken(both, [remark("slow pi5", "pi5 is the slowest: it computes 2.0 times as long.")]);
  expect([...other.values()]).toEqual(["pi5 is the slowest: it computes 2.0 times as long."]);
  expect(spoken(other, []).size).toBe(0);
});
