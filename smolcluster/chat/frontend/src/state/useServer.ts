/** The served model and how it does: asked again and again while somebody looks at the page. */
import { useCallback, useEffect, useRef, useState } from "react";
import { ApiFailure, config as askConfig, health as askHealth } from "../api/http";
import type { Config, Health } from "../api/types";
import { compare, MOST, type Happening } from "./happenings";

const READY_MS = 2000;
const AWAY_MS = 1000;

export interface Server {
  config: Config | null;
  /** undefined: not asked yet; null: it cannot be reached. */
  health: Health | null | undefined;
  locked: boolean;
  happenings: readonly Happening[];
  /** Ask now. */
  look: () => void;
}

export function useServer(): Server {
  const [config, setConfig] = useState<Config | null>(null);
  const [health, setHealth] = useState<Health | null>();
  const [locked, setLocked] = useState(false);
  const [happenings, setHappenings] = useState<readonly Happening[]>([]);
  const before = useRef<Health | null | undefined>(undefined);
  const wanted = useRef(true);
  const [turn, setTurn] = useState(0);

  useEffect(() => {
    let over = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      clearTimeout(timer);
      let now: Health | null = null;
      try {
        now = await askHealth();
        // Another server may be there now, with another model.
        if (now.state === "ready" && (wanted.current || before.current?.state !== "ready")) {
          const said = await askConfig();
          if (over) return;
          setConfig(said);
          setLocked(false);
          wanted.current = false;
        }
        if (now.state !== "ready" && now.stages === undefined && now.reason === undefined) await askConfig().catch(needsKey);
      } catch (error) {
        if (!needsKey(error)) now = null;
      }
      if (over) return;
      const news = compare(before.current, now, Date.now());
      if (news.length > 0) setHappenings((old) => [...news.reverse(), ...old].slice(0, MOST));
      before.current = now;
      setHealth(now);
      if (!document.hidden) timer = setTimeout(look, now?.state === "ready" ? READY_MS : AWAY_MS);
    };
    const needsKey = (error: unknown) => {
      const needed = error instanceof ApiFailure && error.status === 401;
      if (needed && !over) setLocked(true);
      return needed;
    };
    const seen = () => {
      if (!document.hidden) void look();
    };
    void look();
    document.addEventListener("visibilitychange", seen);
    addEventListener("online", seen);
    return () => {
      over = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      removeEventListener("online", seen);
    };
  }, [turn]);

  const look = useCallback(() => {
    wanted.current = true;
    setTurn((turn) => turn + 1);
  }, []);
  return { config, health, locked, happenings, look };
}
