/** The page of a tablet that computes layers: what it does now, how fast, and what is to be done if it cannot. */
import { useState, useSyncExternalStore } from "react";
import { brief } from "../state/words";
import { Facts } from "./Facts";
import { KeyEntry } from "./KeyEntry";
import type { Tablet } from "./tablet";
import type { Phase, View } from "./view";
import { advice, HEADINGS, size } from "./words";

const BAD: readonly Phase[] = ["refused", "failed", "lost", "no-key"];
const STUCK: readonly Phase[] = ["replaced", "failed", "refused"];

export function App({ tablet, enter }: { tablet: Tablet; enter: (key: string) => void }) {
  const view = useSyncExternalStore(tablet.subscribe, () => tablet.view);
  const { phase } = view;
  return (
    <main className="tablet">
      <header>
        <p className="mark">smolcluster</p>
        <p className="quiet">This device computes some layers of a model.</p>
      </header>
      <section className={`card status ${BAD.includes(phase) ? "bad" : phase === "ready" ? "good" : ""}`} aria-labelledby="state">
        <div role="status">
          <h1 id="state">
            <span className="dot" aria-hidden="true" />
            {HEADINGS[phase]}
          </h1>
          {view.reason !== "" && <p className="reason">{view.reason}</p>}
          <p>{advice(view)}</p>
        </div>
        {(phase === "downloading" || phase === "loading") && <Progress view={view} />}
        {(phase === "no-key" || phase === "refused") && <KeyEntry enter={enter} />}
        {STUCK.includes(phase) && (
          <button type="button" className="strong" onClick={tablet.again}>
            {phase === "replaced" ? "Use this device" : "Try again"}
          </button>
        )}
        {phase === "lost" && (
          <button type="button" onClick={tablet.again}>
            Try now
          </button>
        )}
      </section>
      <section className="pace" aria-label="Speed">
        <Figure value={view.tokensPerS} unit="tokens/s" of="of the answer" />
        <Figure value={view.msPerToken} unit="ms/token" of="in these layers" />
      </section>
      <section className="card" aria-label="Details">
        <Facts view={view} />
        {view.gpuError !== "" && <p className="quiet">WebGPU is there but could not be used: {view.gpuError}</p>}
      </section>
      <Events view={view} />
    </main>
  );
}

function Figure({ value, unit, of }: { value: number | null; unit: string; of: string }) {
  return (
    <p className="card figure">
      <strong>{value === null ? "–" : brief(value)}</strong> <span>{unit}</span> <small className="quiet">{of}</small>
    </p>
  );
}

function Progress({ view: { bytes, total, phase } }: { view: View }) {
  const known = total > 0 && phase === "downloading";
  return (
    <div className="progress">
      <progress aria-label={HEADINGS[phase]} {...(known ? { value: bytes, max: total } : {})} />
      {known && (
        <p>
          {size(bytes)} of {size(total)}
        </p>
      )}
    </div>
  );
}

function Events({ view: { events } }: { view: View }) {
  const [open, setOpen] = useState(false);
  if (events.length === 0) return null;
  return (
    <details className="card events" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>What happened</summary>
      <ol>
        {events.map(({ at, text }, index) => (
          <li key={events.length - index}>
            <time dateTime={at.toISOString()}>{at.toLocaleTimeString()}</time> {text}
          </li>
        ))}
      </ol>
    </details>
  );
}
