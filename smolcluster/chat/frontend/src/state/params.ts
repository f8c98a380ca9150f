/** How to write: what is asked for, what it means, and where it is kept. */
import type { Asked, Strategy } from "../api/types";
import { NO_PARAMS, type Params } from "./types";

const KEY = "smolcluster.params";

export type Numeric = Exclude<keyof Params, "strategy">;

export interface Field {
  name: Numeric;
  label: string;
  help: string;
  min: number;
  max: number;
  step: number;
}

export const FIELDS: readonly Field[] = [
  {
    name: "max_tokens",
    label: "Longest answer, in tokens",
    help: "A token is about three quarters of an English word. The answer is cut there.",
    min: 1,
    max: 1_000_000,
    step: 1,
  },
  {
    name: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token; around 0.7 is lively; above 1 it begins to ramble.",
    min: 0,
    max: 2,
    step: 0.05,
  },
  {
    name: "top_p",
    label: "Top-p",
    help: "Choose among the likeliest tokens that together have this probability. 1 leaves all in.",
    min: 0,
    max: 1,
    step: 0.01,
  },
  {
    name: "top_k",
    label: "Top-k",
    help: "Choose among this many of the likeliest tokens. 0 leaves all in.",
    min: 0,
    max: 1_000_000,
    step: 1,
  },
  {
    name: "seed",
    label: "Seed",
    help: "The same seed, settings and messages give the same answer. Empty: another one each time.",
    min: Number.MIN_SAFE_INTEGER,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
  },
];

export const STRATEGIES: Record<Strategy, string> = {
  greedy: "Greedy: the likeliest token each time",
  sampling: "Sampling: by probability, with temperature",
  top_p: "Top-p: the likeliest that make up p",
  top_k: "Top-k: the k likeliest",
};

/** What a strategy reads; without one, all of it changes the server's own. */
const READS: Record<Strategy, readonly Numeric[]> = {
  greedy: [],
  sampling: ["temperature"],
  top_p: ["temperature", "top_p"],
  top_k: ["temperature", "top_k"],
};

export const isRead = (name: Numeric, strategy: Strategy | null): boolean =>
  strategy === null || name === "max_tokens" || (name === "seed" ? strategy !== "greedy" : READS[strategy].includes(name));

/** The number somebody has typed; null if there is none, undefined if it is not one for this field. */
export function parseField(field: Field, text: string): number | null | undefined {
  if (text.trim() === "") return null;
  const value = Number(text.trim().replace(",", "."));
  const whole = field.step === 1;
  return Number.isFinite(value) && value >= field.min && value <= field.max && (!whole || Number.isInteger(value))
    ? value
    : undefined;
}

/** The part of a request that says how to write: only what was set, and only what counts. */
export function asked(params: Params): Omit<Asked, "messages"> {
  const given = Object.entries(params).filter(
    ([name, value]) => value !== null && (name === "strategy" || isRead(name as Numeric, params.strategy)),
  );
  return Object.fromEntries(given) as Omit<Asked, "messages">;
}

export function loadParams(storage: Storage): Params {
  try {
    const stored: Record<string, unknown> = JSON.parse(storage.getItem(KEY) ?? "{}") ?? {};
    const params = { ...NO_PARAMS };
    for (const field of FIELDS) {
      const value = stored[field.name];
      if (typeof value === "number") params[field.name] = parseField(field, String(value)) ?? null;
    }
    if (typeof stored.strategy === "string" && stored.strategy in STRATEGIES) params.strategy = stored.strategy as Strategy;
    return params;
  } catch {
    return NO_PARAMS;
  }
}

export function saveParams(storage: Storage, params: Params): void {
  try {
    storage.setItem(KEY, JSON.stringify(params));
  } catch {
    // No room: they last as long as the page.
  }
}
