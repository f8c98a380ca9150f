/** What happened, the newest first. */
import type { Event, Run } from "../api";
import type { Shown } from "../live/board";
import type { SetView } from "../live/useView";
import { toneOf } from "../pure/marks";
import { moment, whole } from "../pure/numbers";
import type { View } from "../pure/view";
import { EVENT_WORDS } from "../pure/words";
import { NodeChoice } from "./NodeChoice";

interface Props {
  shown: Shown;
  run: Run;
  view: View;
  setView: SetView;
}

export function Events({ shown, run, view, setView }: Props) {
  const events = view.node === "" ? shown.events : shown.events.filter((event) => event.node === view.node);
  return (
    <section className="card" aria-labelledby="events">
      <header>
        <h2 id="events">What happened</h2>
        <span className="count">
          {events.length} of {shown.events.length}
        </span>
      </header>
      <div className="tools">
        <NodeChoice run={run} shown={shown} node={view.node} onChange={(node) => setView({ node })} />
      </div>
      <EventList events={events} />
    </section>
  );
}

export function EventList({ events }: { events: readonly Event[] }) {
  if (events.length === 0) return <p className="empty">Nothing besides steps so far.</p>;
  return (
    <ol className="events" reversed>
      {[...events].reverse().map((event) => (
        <li key={event.id} className={`event ${toneOf(event.kind)}`}>
          <span className="bead" aria-hidden="true" />
          <div>
            <p>
              <span className="kind">{EVENT_WORDS[event.kind] ?? event.kind}</span> {event.node}: {event.text}
            </p>
            <span className="when">
              {event.time === null ? "all along" : <time dateTime={new Date(event.time * 1000).toISOString()}>{moment(event.time)}</time>}
              {event.step === null || event.step === undefined ? "" : ` · step ${whole(event.step)}`}
            </span>
          </div>
        </li>
      ))}
    </ol>
  );
}
