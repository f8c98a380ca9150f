/** What is kept in the browser. Nothing of it goes anywhere but to the model. */
import type { Done, Strategy } from "../api/types";
import type { Position } from "../stream/answer";

/** null: as the server's configuration says. */
export interface Params {
  max_tokens: number | null;
  strategy: Strategy | null;
  temperature: number | null;
  top_p: number | null;
  top_k: number | null;
  seed: number | null;
}

export const NO_PARAMS: Params = {
  max_tokens: null,
  strategy: null,
  temperature: null,
  top_p: null,
  top_k: null,
  seed: null,
};

/** Why an answer ended early, and what to do. */
export interface Trouble {
  message: string;
  advice: string;
}

export interface Facts {
  model: string;
  finish: Done["finish_reason"];
  tokens: number;
  seconds: number;
  firstToken: number | null;
  tokensPerSecond: number;
}

export interface UserMessage {
  id: string;
  role: "user";
  text: string;
}

/** `at`: where the answer is in the server's stream, as long as it is being written. */
export interface AssistantMessage {
  id: string;
  role: "assistant";
  text: string;
  state: "writing" | "done" | "stopped" | "failed";
  at?: Position;
  facts?: Facts;
  trouble?: Trouble;
}

export type Message = UserMessage | AssistantMessage;

export interface Session {
  id: string;
  title: string;
  /** A person has named it: its first message does not any more. */
  named: boolean;
  changed: number;
  messages: Message[];
}
