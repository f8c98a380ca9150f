/** The whole page: how the run does at the top, and below it what one of the tabs has. */
import { useEffect, useMemo, useSyncExternalStore } from "react";
import { KeyForm } from "../components/KeyForm";
import type { Board } from "./live/board";
import { useView } from "./live/useView";
import { Charts } from "./parts/Charts";
import { Events } from "./parts/Events";
import { Header } from "./parts/Header";
import { Logs } from "./parts/Logs";
import { Overview } from "./parts/Overview";
import { Progress } from "./parts/Progress";
import { Remarks } from "./parts/Remarks";
import { Settings } from "./parts/Settings";
import { Tabs } from "./parts/Tabs";
import { remarksOf } from "./pure/scene";

export function Dashboard({ board, storage }: { board: Board; storage: Storage }) {
  const shown = useSyncExternalStore(board.subscribe, board.snapshot);
  const [view, setView] = useView();
  const { run, state, connection } = shown;
  const remarks = useMemo(() => remarksOf(run, state), [run, state]);
  useEffect(() => {
    const step = state?.progress === null || state?.progress === undefined ? "" : `${Math.floor(state.progress * 100)} % · `;
    document.title = run === null ? "Dashboard · smolcluster" : `${step}${run.run_id} · smolcluster`;
  }, [run, state?.progress]);

  if (connection === "locked" && run === null)
    return (
      <KeyForm onEntered={board.retry}>
        The dashboard needs a key. Open the link that was printed with its address, by <code>python -m smolcluster dashboard</code>,
        <code>train.yml -e dashboard=true</code> or <code>inference.yml</code>: it lets one browser in, once, and a cookie
        keeps it in. The first of these commands, run again, prints another one. A link can be entered here too.
      </KeyForm>
    );
  return (
    <div className="board">
      <a className="skip" href="#content" onClick={toContent}>
        To the content
      </a>
      <Header shown={shown} storage={storage} onRetry={board.retry} />
      {run === null ? (
        <p className="empty" role="status">
          {connection === "connecting" ? "Looking at the run …" : "Nothing was heard of the run yet."}
        </p>
      ) : (
        <>
          <Progress run={run} state={state} />
          <Remarks remarks={remarks} />
          <Tabs view={view} events={shown.events.length} />
          <main id="content" tabIndex={-1}>
            {view.tab === "overview" ? <Overview board={board} shown={shown} run={run} view={view} setView={setView} /> : null}
            {view.tab === "charts" ? <Charts board={board} shown={shown} run={run} view={view} setView={setView} /> : null}
            {view.tab === "events" ? <Events shown={shown} run={run} view={view} setView={setView} /> : null}
            {view.tab === "logs" ? <Logs shown={shown} run={run} view={view} setView={setView} /> : null}
            {view.tab === "settings" ? <Settings run={run} state={state} /> : null}
          </main>
        </>
      )}
    </div>
  );
}

/** The address keeps what is looked at: the link must not take its place. */
function toContent(event: { preventDefault: () => void }): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}
