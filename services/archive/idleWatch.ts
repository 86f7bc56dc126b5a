import { type ErrorCode, LxstowError } from '../errors.ts';

/** Ends a transfer when the other side, LXD or a client, keeps us waiting too long. While we keep it waiting, for a slow store say, no time runs. */
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

  /** We wait for the other side from now on, or no longer. */
  watch(waiting: boolean): void {
    clearTimeout(this.#timer);
    if (!waiting) return;
    this.#timer = setTimeout(() => {
      this.#controller.abort(
        new LxstowError(this.#code, `${this.#what} stood still for ${Math.round(this.#ms / 1000)} s`),
      );
    }, this.#ms);
  }

  /** A byte has moved. */
  touch(): void {
    this.#timer?.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}
