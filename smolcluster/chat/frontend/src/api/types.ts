/** The API's types by the names the page uses. They come from the backend's OpenAPI document: `make page-types`. */
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Config = Schemas["ConfigAnswer"];
/** The stages, how they do, and what happened to them. */
export type Stages = Schemas["StagesAnswer"];
export type Stage = Schemas["StageStrip"];
export type StageEvent = Schemas["StageEvent"];
/** A tablet that has layers; while it is waited for, with what lets it in. */
export type Tablet = Schemas["TabletAnswer"];
export type Link = Schemas["LinkAnswer"];
export type Done = Schemas["DoneEvent"];
/** begin, token, ..., then done or error. `number` counts an answer's events; it is taken up by its begin's `id`. */
export type ChatEvent = Schemas["ChatEvent"];
export type ErrorDetail = Schemas["ErrorDetail"];
export type Strategy = Config["active_strategy"];
export type Asked = Pick<
  Schemas["ChatAsked"],
  "max_tokens" | "temperature" | "top_p" | "top_k" | "strategy" | "seed"
> & { messages: { role: "user" | "assistant"; content: string }[] };
