/** The button that stops the run, and what has to be said before. */
import { useEffect, useId, useRef, useState } from "react";
import { Stop as StopIcon } from "../../components/icons";
import { stop, type Run, type State } from "../api";
import { clock, whole } from "../pure/numbers";

/** Who was asked and still runs after so long may be asked again: what went wrong there stands in a log. */
const AGAIN_MS = 60_000;

export function Stop({ run, state }: { run: Run; state: State }) {
  const [open, setOpen] = useState(false);
  const [said, setSaid] = useState("");
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    if (!asked) return;
    const timer = setTimeout(() => setAsked(false), AGAIN_MS);
    return () => clearTimeout(timer);
  }, [asked]);
  const send = async () => {
    setAsked(true);
    setSaid("");
    try {
      const { nodes } = await stop(run.run_id);
      setSaid(nodes.length > 0 ? `${nodes.join(", ")}: asked to stop …` : "It is being stopped …");
      setOpen(false);
    } catch (error) {
      setAsked(false);
      setSaid((error as Error).message);
    }
  };
  return (
    <>
      {!open && said !== "" ? (
        <span role="status" className="quiet">
          {said}
        </span>
      ) : null}
      <button type="button" className="danger" disabled={asked} aria-haspopup="dialog" onClick={() => setOpen(true)}>
        <span className="withicon">
          <StopIcon /> {asked ? "Stopping …" : "Stop"}
        </span>
      </button>
      {open ? <Ask run={run} state={state} busy={asked} said={said} onStop={() => void send()} onClose={() => setOpen(false)} /> : null}
    </>
  );
}

interface AskProps {
  run: Run;
  state: State;
  busy: boolean;
  said: string;
  onStop: () => void;
  onClose: () => void;
}

/** The browser's own dialog keeps the focus inside, closes on Escape and gives the focus back. */
function Ask({ run, state, busy, said, onStop, onClose }: AskProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => shown?.close();
  }, []);
  return (
    <dialog ref={dialog} className="ask" aria-labelledby={heading} onCancel={onClose} onClick={(event) => event.target === dialog.current && onClose()}>
      <h2 id={heading}>Stop {run.run_id}?</h2>
      {run.kind === "serving" ? <Serving state={state} /> : <Training state={state} />}
      {said === "" ? null : (
        <p role="alert" className="bad">
          {said}
        </p>
      )}
      <div className="choices">
        {/* First, so that it has the focus: Enter by mistake stops nothing. */}
        <button type="button" onClick={onClose}>
          Let it run
        </button>
        <button type="button" className="danger strong" disabled={busy} onClick={onStop}>
          Stop the run
        </button>
      </div>
    </dialog>
  );
}

function Training({ state }: { state: State }) {
  const machines = state.nodes?.length ?? 0;
  const where = state.step === null || state.step === undefined ? "" : ` It is at step ${whole(state.step)}${state.total_steps ? ` of ${whole(state.total_steps)}` : ""}`;
  const left = state.eta_s ? `, with ${clock(state.eta_s)} to go` : "";
  return (
    <p>
      The ranks on {machines === 1 ? "this machine" : `all ${machines} machines`} finish the step they are in, save the
      model as it is then, and end.{where && `${where}${left}.`} What is done so far stays in the run's folder.
    </p>
  );
}

function Serving({ state }: { state: State }) {
  const active = state.serving?.active ?? 0;
  return (
    <p>
      The model is not served any more: the chat page and programs get no answers.
      {active > 0 ? ` ${active} ${active === 1 ? "answer is" : "answers are"} being written and will be cut off.` : ""} It
      comes back with <code>ansible-playbook inference.yml</code>.
    </p>
  );
}
