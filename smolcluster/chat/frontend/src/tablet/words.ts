/** The state in words. */
import { brief } from "../state/words";
import type { Awake } from "./awake";
import type { Phase, View } from "./view";

export const HEADINGS: Record<Phase, string> = {
  "no-key": "A key is needed",
  refused: "The cluster did not let this device in",
  replaced: "Another device has taken over",
  failed: "This device cannot compute these layers",
  connecting: "Connecting …",
  lost: "Connection lost",
  waiting: "Connected",
  downloading: "Downloading the layers",
  loading: "Preparing the layers",
  ready: "Ready",
};

/** What a person can do about it, or that there is nothing to do. */
export function advice({ phase }: Pick<View, "phase">): string {
  switch (phase) {
    case "no-key":
      return "Open the address that the cluster printed, or scan its QR code: the key is in it.";
    case "refused":
      return "Each run of the cluster has a key of its own. Open the address that it printed last, or scan its QR code again.";
    case "replaced":
      return "It may be another tab of this browser. Only one computes at a time.";
    case "failed":
      return "Try again, or give this device fewer layers in the inventory.";
    case "connecting":
      return "Looking for the cluster.";
    case "lost":
      return "It is tried again by itself. Is this device still in the cluster's network?";
    case "waiting":
      return "The cluster has not asked for anything yet. Leave this page open.";
    case "downloading":
      return "Once; then they are kept in this browser.";
    case "loading":
      return "This takes a moment.";
    case "ready":
      return "Leave this page open and in front.";
  }
}

export const AWAKE: Record<Awake, string> = {
  kept: "stays on",
  off: "may go off",
  insecure: "may go off: over http a page cannot keep it on. Turn off auto-lock in the device's settings.",
  unsupported: "may go off: this browser cannot keep it on. Turn off auto-lock in the device's settings.",
};

export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const [unit, per] = bytes < 1e6 ? ["KB", 1e3] : bytes < 1e9 ? ["MB", 1e6] : ["GB", 1e9];
  return `${brief(bytes / (per as number))} ${unit}`;
}

export const sessionsOf = (count: number): string => (count === 0 ? "none" : String(count));
