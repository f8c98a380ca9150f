/** The served model and its stages: asked again and again while somebody looks at the page. */
import { useCallback, useEffect, useRef, useState } from "react";
import { ApiFailure, config as askConfig, stages as askStages } from "../api/http";
import type { Config, Stages } from "../api/types";

const READY_MS = 2000;
const AWAY_MS = 1000;

export interface Server {
  config: Config | null;
  /** undefined: not asked yet; null: it cannot be reached. */
  stages: Stages | null | undefined;
  /** A key is needed, and none was shown. */
  locked: boolean;
  /** Ask now. */
  look: () => void;
}

export function useServer(): Server {
  const [config, setConfig] = useState<Config | null>(null);
  const [stages, setStages] = useState<Stages | null>();
  const [locked, setLocked] = useState(false);
  // Another model may be served after a time in which none was.
  const known = useRef(false);
  const [turn, setTurn] = useState(0);

  useEffect(() => {
    let over = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      clearTimeout(timer);
      let now: Stages | null = null;
      let needsKey = false;
      try {
        now = await askStages();
        if (now.state !== "ready") known.current = false;
        else if (!known.current) {
          const said = await askConfig();
          if (over) return;
          setConfig(said);
          known.current = true;
        }
      } catch (error) {
        needsKey = error instanceof ApiFailure && error.status === 401;
        known.current = false;
      }
      if (over) return;
      setStages(now);
      setLocked(needsKey);
      if (!document.hidden && !needsKey) timer = setTimeout(look, now?.state === "ready" ? READY_MS : AWAY_MS);
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

  return { config, stages, locked, look: useCallback(() => setTurn((turn) => turn + 1), []) };
}
