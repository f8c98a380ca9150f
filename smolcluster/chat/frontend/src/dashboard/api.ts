/** The dashboard's endpoints, and their types by the names the page uses. */
import { ask, post } from "../api/http";
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Run = Schemas["RunAnswer"];
export type RunRank = Schemas["RunRank"];
export type State = Schemas["StateAnswer"];
export type NodeNow = Schemas["NodeNow"];
export type LinkNow = Schemas["LinkNow"];
export type Steps = Schemas["StepAnswer"];
export type Serving = Schemas["ServingNow"];
export type Series = Schemas["SeriesAnswer"];
export type SeriesName = Series["name"];
export type Grouping = Series["by"];
export type Event = Schemas["EventAnswer"];
export type Events = Schemas["EventsAnswer"];
export type LogLine = Schemas["LogLine"];
export type Logs = Schemas["LogsAnswer"];
export type Stopped = Schemas["StopAnswer"];

/** Where something is asked for with what; what is empty is left out. */
export function path(name: string, asked: Record<string, string | number | null | undefined> = {}): string {
  const said = Object.entries(asked).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(said.map(([key, value]) => [key, String(value)]));
  return `/dashboard/${name}${said.length > 0 ? `?${query}` : ""}`;
}

const get = async <Answer>(where: string, signal?: AbortSignal): Promise<Answer> =>
  (await ask(where, signal ? { signal } : {})).json();

export const run = (signal?: AbortSignal) => get<Run>(path("run"), signal);

/** null: nothing has changed since that cursor. */
async function changed<Answer>(where: string, signal?: AbortSignal): Promise<Answer | null> {
  const response = await ask(where, signal ? { signal } : {});
  return response.status === 204 ? null : response.json();
}

export const state = (since: string, signal?: AbortSignal) => changed<State>(path("state", { since }), signal);
export const events = (since: string, signal?: AbortSignal) => changed<Events>(path("events", { since }), signal);

/** The steps after the first of `between`, up to the second; null: to the last there is. */
export const series = (name: SeriesName, by: Grouping, [since_step, until_step]: readonly [number, number | null], points: number) =>
  get<Series>(path("series", { name, by, since_step, until_step, points }));

export interface LogsAsked {
  node: string;
  level: string;
  contains: string;
}

export const logs = (asked: LogsAsked & { before?: string; after?: string; limit?: number }, signal?: AbortSignal) =>
  get<Logs>(path("logs", { ...asked }), signal);

export const stream = (signal: AbortSignal) => ask(path("stream"), { signal });

export const stop = async (run_id: string): Promise<Stopped> => (await post("/dashboard/stop", { confirm: run_id })).json();
