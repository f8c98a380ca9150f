/** The ways to look at a run. They are links: each can be opened by itself, and Back comes back. */
import { TABS, viewHash, type View } from "../pure/view";

const NAMES = { overview: "Overview", charts: "Charts", events: "Events", logs: "Logs", settings: "Settings" };

export function Tabs({ view, events }: { view: View; events: number }) {
  return (
    <nav className="tabs" aria-label="Parts of the dashboard">
      {TABS.map((tab) => (
        <a key={tab} href={viewHash({ ...view, tab })} {...(tab === view.tab ? { "aria-current": "page" as const } : {})}>
          {NAMES[tab]} {tab === "events" && events > 0 ? <span className="count">{events}</span> : null}
        </a>
      ))}
    </nav>
  );
}
