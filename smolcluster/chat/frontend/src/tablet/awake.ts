/** Keeps the screen on while the page is seen: a tablet that sleeps computes nothing. Needs a secure context. */

export type Awake = "kept" | "off" | "insecure" | "unsupported";

interface Sentinel extends EventTarget {
  released: boolean;
  release(): Promise<void>;
}

export class WakeLock {
  private held: Sentinel | null = null;
  private wanted = false;

  constructor(private readonly tell: (awake: Awake) => void) {
    // The browser lets it go whenever the page is hidden.
    document.addEventListener("visibilitychange", () => void this.take());
  }

  async keep(wanted: boolean): Promise<void> {
    this.wanted = wanted;
    if (wanted) return this.take();
    await this.held?.release();
    this.held = null;
  }

  private async take(): Promise<void> {
    if (!this.wanted || document.visibilityState !== "visible" || this.held?.released === false) return;
    const lock = (navigator as { wakeLock?: { request(type: "screen"): Promise<Sentinel> } }).wakeLock;
    if (lock === undefined) return this.tell(window.isSecureContext ? "unsupported" : "insecure");
    try {
      const held = await lock.request("screen");
      this.held = held;
      held.addEventListener("release", () => this.tell("off"));
      this.tell("kept");
    } catch {
      this.tell("off"); // battery saver, or the page was hidden meanwhile
    }
  }
}
