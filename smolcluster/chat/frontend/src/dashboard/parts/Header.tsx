/** Which run it is, how it does, whether we hear of it, and the button that stops it. */
import { useState } from "react";
import { Theme as ThemeIcon } from "../../components/icons";
import { loadTheme, setTheme, THEMES } from "../../state/theme";
import type { Run } from "../api";
import type { Shown } from "../live/board";
import { clock } from "../pure/numbers";
import { RUN_TONES } from "../pure/words";
import { Stop } from "./Stop";

interface Props {
  shown: Shown;
  storage: Storage;
  onRetry: () => void;
}

export function Header({ shown, storage, onRetry }: Props) {
  const { run, state } = shown;
  const [theme, chooseTheme] = useState(() => loadTheme(storage));
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  return (
    <header className="head">
      <h1>{run?.run_id ?? "Dashboard"}</h1>
      {state === null ? null : (
        <span className={`pill ${RUN_TONES[state.state]}`}>
          <span className="dot" aria-hidden="true" />
          {state.state}
        </span>
      )}
      {run === null ? null : <p className="what">{whatOf(run)}</p>}
      <span className="room" />
      <Heard shown={shown} onRetry={onRetry} />
      <button
        type="button"
        className="icon"
        aria-label={`Colours: ${theme}. Change to ${next}`}
        title={`Colours: ${theme}`}
        onClick={() => {
          chooseTheme(next);
          setTheme(storage, next);
        }}
      >
        <ThemeIcon />
      </button>
      {run !== null && state !== null && run.can_stop && !state.over ? <Stop run={run} state={state} /> : null}
    </header>
  );
}

/** fsdp · GPT, 12.3M parameters · wikitext · 3 machines. */
function whatOf(run: Run): string {
  const machines = run.nodes?.length ?? 0;
  return [run.strategy, run.model, run.dataset, machines > 0 ? `${machines} ${machines === 1 ? "machine" : "machines"}` : null]
    .filter((part) => part)
    .join(" · ");
}

/** Whether what is shown is how it is now. */
function Heard({ shown, onRetry }: { shown: Shown; onRetry: () => void }) {
  const { connection, heard, state, trouble } = shown;
  const over = state?.over === true;
  const ago = heard === null ? "" : ` What is shown is from ${new Date(heard).toLocaleTimeString()}.`;
  return (
    <>
      <span className={`pill ${connection === "live" ? (over ? "quiet" : "good") : "warn"}`} role="status">
        <span className="dot" aria-hidden="true" />
        {connection === "live" ? (over ? "over" : "live") : connection === "connecting" ? "connecting …" : connection === "locked" ? "key needed" : "reconnecting …"}
      </span>
      {connection === "away" ? (
        <p className="what">
          {trouble?.message ?? "The dashboard's server has ended the connection."} It is asked again by itself.{ago}{" "}
          <button type="button" className="small" onClick={onRetry}>
            Now
          </button>
        </p>
      ) : null}
      {connection === "locked" ? (
        <p className="what">
          The key is not valid any more: the server was started anew. Open the link that it printed.{ago}{" "}
          <button type="button" className="small" onClick={() => location.reload()}>
            Enter a key
          </button>
        </p>
      ) : null}
      {over && state?.elapsed_s !== null && state?.elapsed_s !== undefined ? (
        <span className="offscreen">The run took {clock(state.elapsed_s)}.</span>
      ) : null}
    </>
  );
}
