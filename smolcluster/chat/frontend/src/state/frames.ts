/** Pieces of text that come faster than the screen changes are put together: one change per frame. */

// A page in the background gets no frames; its text is to be kept all the same.
const HIDDEN_MS = 500;

export class Frames {
  private pieces = "";
  private frame: number | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly show: (text: string) => void) {}

  add(text: string): void {
    this.pieces += text;
    if (this.frame !== undefined) return;
    this.frame = requestAnimationFrame(() => this.flush());
    this.timer = setTimeout(() => this.flush(), HIDDEN_MS);
  }

  /** Now: before anything else is said of the same message. */
  flush(): void {
    if (this.frame !== undefined) cancelAnimationFrame(this.frame);
    clearTimeout(this.timer);
    this.frame = undefined;
    const text = this.pieces;
    this.pieces = "";
    if (text !== "") this.show(text);
  }
}
