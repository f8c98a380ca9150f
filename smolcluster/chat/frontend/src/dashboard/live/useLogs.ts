/** The window of the log that is shown: read on while it grows, and back as far as somebody scrolls. */
import { useCallback, useEffect, useRef, useState } from "react";
import { ApiFailure } from "../../api/http";
import * as api from "../api";
import type { LogLine, LogsAsked } from "../api";
import { appended, prepended, type Page } from "../pure/lines";

const PAGE = 400;

export interface LogWindow {
  lines: readonly LogLine[];
  /** There may be more before the first one. */
  older: boolean;
  /** There is more after the last one. */
  newer: boolean;
  loading: boolean;
  trouble: string;
  loadOlder: () => void;
  loadNewer: () => void;
  /** Forget what is shown and begin at the end. */
  toEnd: () => void;
}

interface Held {
  pages: readonly Page<LogLine>[];
  lines: readonly LogLine[];
  older: boolean;
  newer: boolean;
}

const NONE: Held = { pages: [], lines: [], older: false, newer: false };

/** `word` changes when there may be more; `live`: the backend answers. */
export function useLogs(asked: LogsAsked, word: string, live: boolean, follow: boolean): LogWindow {
  const [held, setHeld] = useState<Held>(NONE);
  const [loading, setLoading] = useState(false);
  const [trouble, setTrouble] = useState("");
  const now = useRef(held);
  const busy = useRef<AbortController | null>(null);
  const key = JSON.stringify(asked);

  const load = useCallback(
    async (way: "end" | "older" | "newer") => {
      if (way !== "end" && busy.current !== null) return;
      busy.current?.abort();
      const mine = (busy.current = new AbortController());
      setLoading(true);
      try {
        const { pages } = now.current;
        const cursor = way === "older" ? { before: pages[0]?.before ?? "" } : way === "newer" ? { after: pages.at(-1)?.after ?? "" } : {};
        const page = await api.logs({ ...(JSON.parse(key) as LogsAsked), ...cursor, limit: PAGE }, mine.signal);
        const next = way === "older" ? prepended(pages, page) : appended(way === "end" ? [] : pages, page);
        const { older, newer } = now.current;
        // Where pages were forgotten there is more again.
        const cut = next.at(-1)?.after !== (way === "older" ? pages.at(-1)?.after : page.after);
        const lost = way === "newer" && next[0]?.before !== pages[0]?.before;
        now.current = {
          pages: next,
          lines: next.flatMap((one) => one.lines),
          older: way === "newer" ? older || lost : page.older,
          newer: way === "older" ? newer || cut : page.newer,
        };
        setHeld(now.current);
        setTrouble("");
      } catch (error) {
        if (mine.signal.aborted) return;
        setTrouble(error instanceof ApiFailure ? error.message : "The log cannot be read.");
      }
      if (busy.current === mine) busy.current = null;
      setLoading(false);
    },
    [key],
  );

  useEffect(() => {
    now.current = NONE;
    setHeld(NONE);
    // While somebody types there is nothing to look for yet.
    const timer = setTimeout(() => void load("end"), 150);
    return () => {
      clearTimeout(timer);
      busy.current?.abort();
      busy.current = null;
    };
  }, [load]);

  // Who reads further up is not disturbed: what is newer waits.
  useEffect(() => {
    if (!live) return;
    if (now.current.pages.length === 0) void load("end");
    else if (follow || !now.current.newer) void load("newer");
  }, [word, live, follow, load]);

  // It came in more than one page.
  useEffect(() => {
    if (held.newer && follow && live && !loading) void load("newer");
  }, [held, follow, live, loading, load]);

  return {
    ...held,
    loading,
    trouble,
    loadOlder: useCallback(() => void load("older"), [load]),
    loadNewer: useCallback(() => void load("newer"), [load]),
    toEnd: useCallback(() => void load("end"), [load]),
  };
}
