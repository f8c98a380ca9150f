/** What is looked at, as the address has it. */
import { useCallback, useEffect, useState } from "react";
import { readView, viewHash, type View } from "../pure/view";

export type SetView = (changed: Partial<View>) => void;

export function useView(): [View, SetView] {
  const [view, setView] = useState(() => readView(location.hash));
  useEffect(() => {
    const read = () => setView(readView(location.hash));
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  const change = useCallback<SetView>((changed) => {
    const next = { ...readView(location.hash), ...changed };
    // Filters make no history: Back leads to where one came from.
    history.replaceState(null, "", viewHash(next));
    setView(next);
  }, []);
  return [view, change];
}
