/** What stands before the name of a stage that a tablet has. */
import { Tablet } from "./icons";

export const TabletMark = () => (
  <span className="mark" role="img" aria-label="Tablet" title="Tablet">
    <Tablet />
  </span>
);
