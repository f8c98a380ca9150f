/** What the picture of the topology shows, from the plan and from how it is now. */
import type { LinkNow, NodeNow, Run, RunRank, State } from "../api";
import { layersOf, toneOfNode, wordOf } from "./words";

export type NodeTone = "running" | "quiet" | "warn" | "bad";

export interface SceneNode {
  name: string;
  tone: NodeTone;
  /** Its state, or what is remarkable about it. */
  word: string;
  device: string;
  /** What it does of the whole. */
  part: string;
}

export interface SceneLink {
  a: string;
  b: string;
  /** The larger of both directions; null: not measured. */
  mbps: number | null;
  there: number | null;
  back: number | null;
  rtt_ms: number | null;
  slow: boolean;
  /** One of its ends is not there. */
  down: boolean;
  wire: string;
  gateways: readonly string[];
  claimed_mbps: number | null;
  encrypted: boolean;
}

export function nodesOf(run: Run, state: State | null): SceneNode[] {
  const names = [...new Set([...(run.nodes ?? []).map((node) => node.name), ...(state?.nodes ?? []).map((node) => node.node)])];
  return names.map((name) => {
    const now = state?.nodes?.find((node) => node.node === name);
    const ranks = (run.ranks ?? []).filter((rank) => rank.node === name);
    const kind = run.nodes?.find((node) => node.name === name)?.kind;
    const layers = state?.serving?.stages?.filter((stage) => stage.node === name).map((stage) => stage.layers ?? null);
    const devices = [...new Set(ranks.map((rank) => rank.device))].join(", ");
    return {
      name,
      tone: now === undefined ? "quiet" : toneOfNode(now),
      word: now === undefined ? "no word yet" : wordOf(now),
      device: [kind, devices].filter((part) => part).join(" · "),
      part: partOf(run, ranks, layers),
    };
  });
}

/** Of several ranks, what they do together. */
function partOf(run: Run, ranks: readonly RunRank[], served?: readonly ([number, number] | null)[]): string {
  const layers = (served !== undefined && served.length > 0 ? served : ranks.map((rank) => rank.layers ?? null)).filter((one) => one !== null);
  const parts = layers.map((one) => layersOf(one));
  const others = ranks.filter((rank) => rank.role === "server" || rank.role === "api").map((rank) => (rank.role === "api" ? "API" : "server"));
  if (parts.length > 0 || others.length > 0) return [...parts, ...new Set(others)].join(", ");
  const share = ranks.reduce((sum, rank) => sum + (rank.share ?? 0), 0);
  return share > 0 && (run.ranks ?? []).length > 1 ? `${Math.round(share * 100)} % of the batch` : "";
}

export function linksOf(run: Run, state: State | null): SceneLink[] {
  const measured = state?.links ?? [];
  const pairs = new Map<string, [string, string]>();
  const add = (a: string, b: string) => {
    if (a !== b && !pairs.has(pairKey(a, b))) pairs.set(pairKey(a, b), [a, b]);
  };
  for (const link of run.links ?? []) add(link.src, link.dst);
  for (const link of measured) add(link.src_node, link.dst_node);
  const gone = new Set((state?.nodes ?? []).filter((node) => node.state === "lost" || node.state === "failed").map((node) => node.node));
  return [...pairs.values()].map(([a, b]) => {
    const planned = (run.links ?? []).find((link) => pairKey(link.src, link.dst) === pairKey(a, b));
    const there = most(measured.filter((link) => link.src_node === a && link.dst_node === b));
    const back = most(measured.filter((link) => link.src_node === b && link.dst_node === a));
    const both = measured.filter((link) => pairKey(link.src_node, link.dst_node) === pairKey(a, b));
    const rtts = both.map((link) => link.rtt_ms ?? null).filter((rtt) => rtt !== null);
    return {
      a,
      b,
      mbps: there === null && back === null ? null : Math.max(there ?? 0, back ?? 0),
      there,
      back,
      rtt_ms: rtts.length > 0 ? Math.max(...rtts) : null,
      slow: both.some((link) => link.slow),
      down: gone.has(a) || gone.has(b),
      wire: [...new Set([planned?.networks?.join(" → "), planned?.medium])].filter((part) => part).join(", "),
      gateways: planned?.gateways ?? [],
      claimed_mbps: planned?.speed_mbps ?? null,
      encrypted: planned?.encrypted ?? false,
    };
  });
}

const pairKey = (a: string, b: string) => (a < b ? `${a}\n${b}` : `${b}\n${a}`);

function most(links: readonly LinkNow[]): number | null {
  const known = links.map((link) => link.mbps ?? null).filter((mbps) => mbps !== null);
  return known.length > 0 ? Math.max(...known) : null;
}

/** What has to be said about the run: who was lost, who holds up the others, and why. */
export interface Remark {
  key: string;
  tone: "warn" | "bad";
  node: string | null;
  text: string;
}

export function remarksOf(run: Run | null, state: State | null): Remark[] {
  const said: Remark[] = [];
  const add = (tone: Remark["tone"], key: string, text: string, node: string | null = null) =>
    said.push({ key, tone, text: ended(text), node });
  if (run?.problem) add("warn", "problem", run.problem);
  if (state === null) return said;
  // Whose failing ended the run comes first, and is not said twice.
  const culprit = (state.nodes ?? []).find((node) => node.reason && state.reason === `${node.node}: ${node.reason}` && isBad(node));
  if (culprit) add_node(culprit);
  else if (state.reason && state.state !== "running" && state.state !== "completed")
    add(state.state === "failed" || state.state === "lost" || state.state === "gone" ? "bad" : "warn", "run", state.reason);
  for (const node of state.nodes ?? []) if (node !== culprit) add_node(node);
  if (state.slowest && !said.some((one) => one.key === `slow ${state.slowest!.node}`))
    add("warn", `slow ${state.slowest.node}`, state.slowest.why, state.slowest.node);
  for (const note of state.notes ?? []) add("warn", note, note);
  return said;

  function add_node(node: NodeNow): void {
    const { node: name } = node;
    if (node.state === "lost") add("bad", `lost ${name}`, `${name} was lost${because(node.reason)}`, name);
    else if (node.state === "failed") add("bad", `failed ${name}`, `${name} failed${because(node.reason)}`, name);
    else if (node.state === "restarting") add("warn", `again ${name}`, `${name} is being started again${because(node.restart_reason || node.reason)}`, name);
    if (node.throttled) add("warn", `hot ${name}`, throttled(node), name);
    if (node.why) add("warn", `slow ${name}`, node.why, name);
  }
}

const isBad = ({ state }: NodeNow) => state === "lost" || state === "failed";

/** Whether it is the heat or the power supply, its own system says. */
const throttled = ({ node, throttled, temperature_c }: NodeNow) =>
  `${node} is slowed down by its own system (${throttled}${temperature_c === null || temperature_c === undefined ? "" : `, ${temperature_c.toFixed(0)} °C`}): look at its cooling and its power supply`;

/** What is said aloud, by the remarks' keys: a remark that has only other figures than before is not said again. */
export function spoken(before: ReadonlyMap<string, string>, remarks: readonly Remark[]): ReadonlyMap<string, string> {
  const said = new Map(
    remarks.map(({ key, text }) => {
      const known = before.get(key);
      return [key, known !== undefined && withoutFigures(known) === withoutFigures(text) ? known : text];
    }),
  );
  return said.size === before.size && [...said].every(([key, text]) => before.get(key) === text) ? before : said;
}

const withoutFigures = (text: string) => text.replace(/\d+([.,]\d+)*/g, "0");

const because = (reason: string | undefined) => (reason ? `: ${reason}` : "");
const ended = (text: string) => (/[.!?…]$/.test(text) ? text : `${text}.`);
