/** How fast tokens are computed: of those of the last seconds that came one by one. */
const MOST = 32;
// A longer pause is between two answers.
const PAUSE_MS = 3000;

export class Pace {
  private turns: { at: number; ms: number }[] = [];

  /** `tokens` were computed in `ms`, at that time. */
  add(at: number, ms: number, tokens: number): void {
    if (tokens > 1 || at - (this.turns.at(-1)?.at ?? at) > PAUSE_MS) this.turns = [];
    if (tokens === 1) this.turns = [...this.turns, { at, ms }].slice(-MOST);
  }

  /** Of whole answers: what came back to this tablet, with the pauses in which others computed. */
  get perS(): number | null {
    const [first, last] = [this.turns[0], this.turns.at(-1)];
    if (first === undefined || last === undefined || last.at <= first.at) return null;
    return (1000 * (this.turns.length - 1)) / (last.at - first.at);
  }

  /** Of this tablet's layers alone. */
  get msPerToken(): number | null {
    if (this.turns.length === 0) return null;
    const times = this.turns.map(({ ms }) => ms).sort((a, b) => a - b);
    return times[times.length >> 1]!;
  }
}
