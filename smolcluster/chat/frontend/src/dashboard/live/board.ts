/** The run as it is known here: heard as a stream, asked for where there is none, and kept while nobody answers. */
import { ApiFailure } from "../../api/http";
import { serverSent } from "../../stream/sse";
import * as api from "../api";
import type { Event, Grouping, Run, SeriesName, State } from "../api";
import { complete, since, taken, type Asked, type Known } from "./known";
import { History } from "./history";

export const POINTS = 600;
const AGAIN_MS = [300, 1000, 2000, 4000];
const POLL_MS = 2000;
/** Curves are asked for at most so often. */
const CURVES_MS = 1500;
/** A stream that says nothing for so long, not even that it lives, is broken. */
const SILENT_MS = 45_000;

/** live: heard of now; away: it does not answer, and is asked again and again. */
export type Connection = "connecting" | "live" | "away" | "locked";

export interface Shown {
  connection: Connection;
  /** Why it is away, for people. */
  trouble: ApiFailure | null;
  /** When it was heard of last: milliseconds of this device's clock. */
  heard: number | null;
  run: Run | null;
  state: State | null;
  events: readonly Event[];
  curves: ReadonlyMap<string, Known>;
  history: History;
}

/** What a curve is known by. Of a whole one and of each stretch that is zoomed into. */
export const curveKey = (name: SeriesName, by: Grouping, [start, stop]: Asked) => `${name} ${by} ${start} ${stop ?? ""}`;

function readKey(key: string): { name: SeriesName; by: Grouping; asked: Asked } {
  const [name, by, start, stop] = key.split(" ") as [SeriesName, Grouping, string, string];
  return { name, by, asked: [Number(start), stop === "" ? null : Number(stop)] };
}

export class Board {
  private shown: Shown = nothing();
  private readonly listeners = new Set<() => void>();
  private readonly wanted = new Map<string, number>();
  private eventsCursor = "";
  private fetched = "";
  private refreshing = false;
  private stale = false;
  private hurry: () => void = () => undefined;
  private abort = new AbortController();
  private wake: () => void = () => undefined;
  private over = true;

  snapshot = (): Shown => this.shown;

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Begin to listen; the function ends it. */
  start(): () => void {
    this.over = false;
    const seen = () => {
      // A tab that nobody sees holds no connection: a browser has six of them for one server.
      if (document.hidden) this.abort.abort();
      else this.wake();
    };
    document.addEventListener("visibilitychange", seen);
    addEventListener("online", seen);
    void this.listen();
    return () => {
      this.over = true;
      this.abort.abort();
      this.wake();
      this.hurry();
      document.removeEventListener("visibilitychange", seen);
      removeEventListener("online", seen);
    };
  }

  /** A chart shows this; the function says that it does not any more. */
  want(key: string): () => void {
    this.wanted.set(key, (this.wanted.get(key) ?? 0) + 1);
    if (!this.shown.curves.has(key)) void this.refresh(true);
    return () => {
      const left = (this.wanted.get(key) ?? 1) - 1;
      if (left > 0) this.wanted.set(key, left);
      else {
        this.wanted.delete(key);
        this.forget(key);
      }
    };
  }

  /** A stretch is not zoomed into any more; whole curves are kept for the next tab. */
  private forget(key: string): void {
    if (readKey(key).asked[1] === null || !this.shown.curves.has(key)) return;
    this.set({ curves: new Map([...this.shown.curves].filter(([one]) => one !== key)) });
  }

  /** A key was entered, or somebody does not want to wait. */
  retry = (): void => {
    if (this.shown.connection === "locked") this.set({ connection: "connecting" });
    this.wake();
  };

  private async listen(): Promise<void> {
    for (let tries = 0; !this.over; ) {
      this.abort = new AbortController();
      try {
        await this.open();
        await this.hear(() => (tries = 0));
        // It said good-bye: it is being stopped, or started again.
        this.set({ connection: "away", trouble: null });
      } catch (error) {
        if (this.over) return;
        if (error instanceof ApiFailure) {
          this.set({ connection: error.status === 401 ? "locked" : "away", trouble: error });
        } else if (!document.hidden) this.set({ connection: "away", trouble: null });
      }
      if (this.over) return;
      await this.pause(this.shown.connection === "locked" ? null : AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)]!);
      tries += 1;
    }
  }

  /** What does not change; of another run than before all is forgotten. */
  private async open(): Promise<void> {
    const run = await api.run(this.abort.signal);
    if (this.shown.run !== null && this.shown.run.run_id !== run.run_id) {
      this.eventsCursor = this.fetched = "";
      this.shown = { ...nothing(), connection: this.shown.connection };
    }
    this.set({ run });
  }

  private async hear(heard: () => void): Promise<void> {
    let response: Response;
    try {
      response = await api.stream(this.abort.signal);
    } catch (error) {
      // Something in between may let no stream through, or there are too many of them.
      if (error instanceof ApiFailure && error.status !== 0 && error.status !== 401) return this.poll(heard);
      throw error;
    }
    if (response.body === null) return this.poll(heard);
    let silence = setTimeout(() => this.abort.abort(), SILENT_MS);
    const alive = new TransformStream<Uint8Array, Uint8Array>({
      transform: (bytes, out) => {
        clearTimeout(silence);
        silence = setTimeout(() => this.abort.abort(), SILENT_MS);
        out.enqueue(bytes);
      },
    });
    try {
      for await (const { data } of serverSent(response.body.pipeThrough(alive))) {
        heard();
        this.take(JSON.parse(data) as State);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  private async poll(heard: () => void): Promise<void> {
    while (!this.over && !document.hidden) {
      const state = await api.state(this.shown.state?.cursor ?? "", this.abort.signal);
      heard();
      if (state !== null) this.take(state);
      else this.set({ connection: "live", trouble: null, heard: Date.now() });
      await this.pause(POLL_MS);
    }
  }

  private take(state: State): void {
    this.shown.history.take(state);
    this.set({ state, connection: "live", trouble: null, heard: Date.now() });
    if (state.data !== this.fetched) void this.refresh(false);
  }

  /** Ask for events and the curves that are shown, and again while there is more; `hurry`: without waiting. */
  private async refresh(hurry: boolean): Promise<void> {
    this.stale = true;
    if (hurry) this.hurry();
    if (this.refreshing) return;
    this.refreshing = true;
    while (this.stale && !this.over && this.shown.state !== null) {
      this.stale = false;
      try {
        await this.fetch(this.shown.state);
      } catch {
        // Who hears the stream knows as soon as we that it is away, and says so; the next state has us ask again.
        this.fetched = "";
        break;
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CURVES_MS);
        this.hurry = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.refreshing = false;
  }

  private async fetch({ data, generation }: State): Promise<void> {
    this.fetched = data ?? "";
    const told = await api.events(this.eventsCursor);
    if (told !== null) {
      this.eventsCursor = told.cursor;
      this.set({ events: told.events });
    }
    const keys = [...this.wanted.keys()];
    const found = await Promise.all(keys.map((key) => this.curve(key, generation ?? 0)));
    const fresh = keys.map((key, index) => [key, found[index]!] as const).filter(([key]) => this.wanted.has(key));
    this.set({ curves: new Map([...this.shown.curves, ...fresh]) });
  }

  private async curve(key: string, generation: number): Promise<Known> {
    const { name, by, asked } = readKey(key);
    const [start, stop] = asked;
    const known = this.shown.curves.get(key);
    if (complete(known, generation, asked)) return known;
    const from = since(known, generation, POINTS, start);
    return taken(known, await api.series(name, by, [from, stop], POINTS), from, start);
  }

  /** Wait; null: until somebody wakes us. While nobody looks there is nothing to be done. */
  private pause(ms: number | null): Promise<void> {
    return new Promise((resolve) => {
      const timer = ms === null ? undefined : setTimeout(() => !document.hidden && this.wake(), ms);
      this.wake = () => {
        clearTimeout(timer);
        this.wake = () => undefined;
        resolve();
      };
    });
  }

  private set(changed: Partial<Shown>): void {
    this.shown = { ...this.shown, ...changed };
    for (const listener of this.listeners) listener();
  }
}

const nothing = (): Shown => ({
  connection: "connecting",
  trouble: null,
  heard: null,
  run: null,
  state: null,
  events: [],
  curves: new Map(),
  history: new History(),
});
