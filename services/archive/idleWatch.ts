import { type ErrorCode, LxstowError } from '../errors.ts';

/** Aborts a transfer when the other side (LXD, a client) keeps us waiting too long. Time in which we keep it waiting, say for S3, does not count. */
export class IdleWatch implements Disposable {
  readonly #controller = new AbortController();
  readonly #ms: number;
  readonly #what: string;
  readonly #code: ErrorCode;
  #timer: NodeJS.Timeout | undefined;

  /** `what` names the transfer in the error. */
  constructor(ms: number, what: string, code: ErrorCode = 'lxd-stalled') {
    this.#ms = ms;
    this.#what = what;
    this.#code = code;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the timer when we wait for the other side, stops it when we do not. */
  watch(waiting: boolean): void {
    clearTimeout(this.#timer);
    if (!waiting) return;
    this.#timer = setTimeout(() => {
      this.#controller.abort(
        new LxstowError(this.#code, `${this.#what} stood still for ${Math.round(this.#ms / 1000)} s`),
      );
    }, this.#ms);
  }

  /** Restarts the timer, because a byte has moved. */
  touch(): void {
    this.#timer?.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
