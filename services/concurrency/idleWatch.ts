import { type ErrorCode, LxstowError } from '../contract/errors.ts';

/** How slow the other side may be. */
interface Pace {
  /** Bytes that have arrived so far. */
  moved: () => number;
  /** The fewest bytes that must arrive per idle timeout. */
  leastBytes: number;
  /** ms, for tests. */
  now?: () => number;
}

/**
 * Aborts a transfer if the other side (LXD, a client) keeps us waiting too long, or, with a `pace`, sends too slowly. Time in which we keep it
 * waiting, say for S3, does not count.
 */
export class IdleWatch implements Disposable {
  readonly #controller = new AbortController();
  readonly #ms: number;
  readonly #what: string;
  readonly #code: ErrorCode;
  readonly #pace: Pace | undefined;
  readonly #now: () => number;
  #timer: NodeJS.Timeout | undefined;
  /** Start of the current wait for the other side; undefined while it waits for us. */
  #since: number | undefined;
  /** ms of waiting since its bytes were last counted. */
  #waited = 0;
  #counted = 0;

  /** `what` names the transfer in the error. */
  constructor(ms: number, what: string, code: ErrorCode = 'lxd-stalled', pace?: Pace) {
    this.#ms = ms;
    this.#what = what;
    this.#code = code;
    this.#pace = pace;
    this.#now = pace?.now ?? (() => performance.now());
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the timer when we wait for the other side, stops it when we do not. */
  watch(waiting: boolean): void {
    clearTimeout(this.#timer);
    this.#count();
    this.#since = waiting ? this.#now() : undefined;
    if (!waiting) return;
    this.#timer = setTimeout(() => this.#end(`made no progress for ${Math.round(this.#ms / 1000)} s`), this.#ms);
  }

  /** Restarts the timer, because a byte has moved. */
  touch(): void {
    this.#timer?.refresh();
    this.#count();
  }

  #count(): void {
    if (!this.#pace || this.#since === undefined) return;
    const now = this.#now();
    this.#waited += now - this.#since;
    this.#since = now;
    if (this.#waited < this.#ms) return;
    const moved = this.#pace.moved();
    if (moved - this.#counted < this.#pace.leastBytes)
      this.#end(`sent ${moved - this.#counted} bytes in ${Math.round(this.#waited / 1000)} s`);
    this.#counted = moved;
    this.#waited = 0;
  }

  #end(why: string): void {
    this.#controller.abort(new LxstowError(this.#code, `${this.#what} ${why}`));
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
